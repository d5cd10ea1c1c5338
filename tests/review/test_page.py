"""The review page: its server, itself in a browser, and the command."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from urllib.parse import urlsplit

import aiohttp
import cv2
import numpy as np
import pytest

from prn_fast.cli.review import main
from prn_fast.data.layouts import load_inspection_set
from prn_fast.data.masks import read_mask
from prn_fast.review.decisions import Decisions
from prn_fast.review.predictions import read_predictions
from prn_fast.review.server import ReviewPage
from tests import needs
from tests.linescan.browser import Browser
from tests.review.folders import HEIGHT, SPOTS, WIDTH


@pytest.fixture
def page(folder, tmp_path):
    predictions = read_predictions(folder)
    decisions = Decisions(tmp_path / "reviewed", predictions.items)
    one = ReviewPage(predictions, decisions)
    yield one
    one.close()
    decisions.close()


def ask(url, method="GET", headers=None, **options):
    async def request():
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, headers=headers, **options) as answer,
        ):
            return answer.status, await answer.read()

    return asyncio.run(request())


def painted(pixels):
    _, encoded = cv2.imencode(".png", pixels)
    return "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode()


def test_the_page_lists_what_there_is_worst_first(page):
    status, content = ask(page.url + "items")
    found = json.loads(content)
    assert status == 200
    assert [one["name"] for one in found["items"]] == ["a/2.png", "b/1.png", "a/1.png", "b/3.png", "b/2.png"]
    assert found["items"][0] == {
        "name": "a/2.png", "score": 0.9, "verdict": "defect", "reason": "", "has_map": True, "mark": "", "kind": "",
    }  # fmt: skip
    for name in ("", "app.js", "style.css"):
        assert ask(page.url + name)[0] == 200


def test_pictures_have_one_size(page):
    for kind in ("picture", "heat", "mask"):
        status, content = ask(f"{page.url}{kind}/2")
        decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        assert (status, decoded.shape[:2]) == (200, (HEIGHT, WIDTH)), kind
    (points,) = json.loads(ask(f"{page.url}outlines/2")[1])
    left, top, _, high = SPOTS["a/1.png"]
    assert abs(min(points[::2]) - left) <= 3
    assert abs(max(points[1::2]) - (top + high)) <= 3
    for number in ("5", "-1", "x", "²", "1e0", "999999999999999999999"):
        assert ask(f"{page.url}picture/{number}")[0] == 404


def test_decisions_come_back_with_their_mask(page, tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:20, 30:60] = 255
    answer = ask(
        page.url + "decide", "POST", json={"number": "0", "mark": "defect", "kind": "hole", "mask": painted(mask)}
    )
    assert (answer[0], json.loads(answer[1])) == (200, {"number": 0, "mark": "defect", "kind": "hole"})
    assert np.array_equal(read_mask(tmp_path / "reviewed/ground_truth/hole/a__2_mask.png"), mask > 0)
    shown = cv2.imdecode(np.frombuffer(ask(page.url + "mask/0")[1], np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(shown, mask)
    assert json.loads(ask(page.url + "undo", "POST", json={})[1])["mark"] == ""
    status, content = ask(page.url + "undo", "POST", json={})
    assert (status, json.loads(content)["error"]) == (400, "nothing is left to undo")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"mark": "fine"}, "no mark"),
        ({"mark": ["good"]}, "no mark"),
        ({"mark": "defect"}, "mark where the defect is"),
        ({"mark": "defect", "mask": "data:image/png;base64,***"}, "the mask is damaged"),
        ({"mark": "defect", "mask": "data:image/png;base64,AAAA"}, "not a PNG"),
        ({"mark": "defect", "mask": painted(np.zeros((4, 4), np.uint8))}, "the mask has"),
        ({"mark": "defect", "mask": painted(np.zeros((HEIGHT, WIDTH), np.uint8))}, "mark where the defect is"),
        ({"mark": "defect", "kind": "../x", "mask": painted(np.eye(HEIGHT, WIDTH, dtype=np.uint8) * 255)}, "kind"),
    ],
)
def test_a_decision_that_makes_no_sense_is_told_to_the_page(page, tmp_path, capfd, wanted, message):
    status, content = ask(page.url + "decide", "POST", json={"number": "0", **wanted})
    assert status == 400
    assert message in json.loads(content)["error"]
    assert not (tmp_path / "reviewed" / "test").exists()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("content", [b"{", b"[]", b"3", b'{"number": 99, "mark": "good"}', b"\xff"])
def test_what_is_no_request_is_refused(page, capfd, content):
    status, _ = ask(page.url + "decide", "POST", data=content, headers={"Content-Type": "application/json"})
    assert 400 <= status < 500
    assert capfd.readouterr().err == ""


def test_without_the_token_nobody_reads_or_decides_on_loopback_either(page, tmp_path):
    origin = page.url.split("//")[0] + "//" + urlsplit(page.url).netloc
    assert len(urlsplit(page.url).path) > 20
    good = {"number": "0", "mark": "good"}
    for base in (f"{origin}/", f"{origin}/{'a' * 22}/"):
        assert ask(base)[0] == ask(base + "items")[0] == ask(base + "picture/0")[0] == 403
        assert ask(base + "decide", "POST", json=good)[0] == ask(base + "undo", "POST", json={})[0] == 403
    assert not (tmp_path / "reviewed" / "train").exists()


def test_other_sites_cannot_decide_through_a_browser(page, tmp_path):
    good = {"number": "0", "mark": "good"}
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        assert ask(page.url + "decide", "POST", headers=headers, json=good)[0] == 403
        assert ask(page.url + "items", headers=headers)[0] == 403
    # What a form of another site can send without being asked.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert ask(page.url + "decide", "POST", headers={"Content-Type": kind}, data=json.dumps(good))[0] == 415
        assert ask(page.url + "undo", "POST", headers={"Content-Type": kind}, data="{}")[0] == 415
    assert ask(page.url + "decide")[0] == 405
    assert not (tmp_path / "reviewed" / "train").exists()


@needs.chromium
def test_a_browser_reviews_by_keys_and_paints(page, tmp_path):
    output = tmp_path / "reviewed"
    browser = Browser(page.url, tmp_path / "browser")
    try:
        press = "document.dispatchEvent(new KeyboardEvent('keydown', {key: '%s', bubbles: true}))"

        def key(name):
            browser.evaluate(f"document.body.{(press % name).removeprefix('document.')}")

        def drag(*points):
            """Along points of the picture, with the left button."""
            for number, (x, y) in enumerate(points):
                kind = "pointerdown" if number == 0 else "pointermove"
                browser.evaluate(DRAG % (kind, x, y))
            browser.evaluate(DRAG % ("pointerup", *points[-1]))

        browser.evaluate("HTMLElement.prototype.setPointerCapture = () => {}")
        browser.wait_for("window.prn && window.prn.shown === 0")
        assert browser.evaluate("document.querySelectorAll('#items li').length") == len(SPOTS)
        browser.screenshot(tmp_path / "page.png")
        seen = cv2.imread(str(tmp_path / "page.png"))[60:700, 260:1100].astype(int)
        assert (seen[:, :, 2] - seen[:, :, 0] > 60).sum() > 500, "the map is drawn over the picture"

        # The proposal of the map, taken as it is.
        assert browser.evaluate("prn.maskPixels()") > 300
        green = (seen[:, :, 1] > 200) & (seen[:, :, 2] < 60)
        assert green.sum() > 100, "so is its outline"
        key("d")
        browser.wait_for("window.prn.shown === 1")
        assert (output / "ground_truth/defect/a__2_mask.png").is_file()

        key("g")  # the false alarm
        browser.wait_for("window.prn.shown === 2")
        assert (output / "train/good/b__1.png").is_file()

        # A box instead of the proposal.
        key("c")
        browser.wait_for("prn.maskPixels() === 0")
        key("d")
        assert "Mark where the defect is" in browser.evaluate("document.getElementById('message').textContent")
        key("x")
        drag((40, 30), (55, 40), (70, 50))
        assert browser.evaluate("prn.maskPixels()") == 30 * 20
        browser.evaluate("document.getElementById('kind').value = 'dent'")
        key("d")
        browser.wait_for("window.prn.shown === 3")
        mask = read_mask(output / "ground_truth/dent/a__1_mask.png")
        assert mask[30:50, 40:70].all()
        assert mask.sum() == 600

        # A stroke of the brush where nothing was found, half of it erased; its undo.
        key("b")
        browser.evaluate("document.getElementById('size').value = 10")
        drag((20, 60), (80, 60))
        whole = browser.evaluate("prn.maskPixels()")
        assert 500 < whole < 800
        key("e")
        drag((50, 60), (90, 60))
        assert 0.3 * whole < browser.evaluate("prn.maskPixels()") < 0.7 * whole
        browser.evaluate("takeStrokeBack()")
        assert browser.evaluate("prn.maskPixels()") == whole
        key("u")
        browser.wait_for("window.prn.shown === 4")
        key("z")
        browser.wait_for("window.prn.shown === 3 && items[3].mark === ''")
        assert browser.evaluate("document.getElementById('done').textContent") == "3 of 5 decided"
        key("ArrowLeft")
        browser.wait_for("window.prn.shown === 2")
        assert browser.evaluate("document.getElementById('kind').value") == "dent"
        assert browser.evaluate("prn.maskPixels()") == 600
    finally:
        browser.close()
    assert [sample.kind for sample in load_inspection_set(output).test] == ["defect", "dent"]


@needs.chromium
def test_a_phone_shows_the_picture_and_what_can_be_decided(page, tmp_path):
    browser = Browser(page.url, tmp_path / "browser", (500, 844))  # no window is narrower
    try:
        browser.wait_for("window.prn && window.prn.shown === 0")
        assert browser.evaluate("innerWidth") == 500
        assert browser.evaluate("document.documentElement.scrollWidth") <= 500
        inside = "(() => { const box = document.getElementById('%s').getBoundingClientRect(); return "
        inside += "box.width > 300 && box.left >= 0 && box.right <= innerWidth && box.top < innerHeight - 40; })()"
        for name in ("stage", "good", "defect", "items"):
            assert browser.evaluate(inside % name), name
        browser.evaluate("document.getElementById('good').click()")
        browser.wait_for("window.prn.shown === 1")
    finally:
        browser.close()


DRAG = """(() => {
  const box = canvas.getBoundingClientRect(), where = place(), ratio = window.devicePixelRatio;
  const clientX = (x) => box.left + (where.left + x * where.zoom) / ratio;
  const clientY = (y) => box.top + (where.top + y * where.zoom) / ratio;
  const options = {pointerId: 1, button: 0, buttons: 1, bubbles: true, cancelable: true};
  canvas.dispatchEvent(new PointerEvent('%s', {...options, clientX: clientX(%s), clientY: clientY(%s)}));
})()"""


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_a_signal_and_says_what_was_decided(folder, number):
    command = [sys.executable, "-m", "prn_fast.cli.review", str(folder), "--address", ":0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        first = running.stdout.readline()
        assert first.startswith("5 images to review: http://127.0.0.1:")
        url = first.split()[-1]
        assert ask(url + "decide", "POST", json={"number": "1", "mark": "good"})[0] == 200
        running.send_signal(number)
        rest, errors = running.communicate(timeout=60)
    finally:
        running.kill()
    assert (running.returncode, errors) == (0, "")
    assert "good after all 1, defect 0, unclear 0, of 5: " in rest
    assert (folder.parent / "predicted-reviewed/train/good/b__1.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{w}/none"], "no such folder"),
        (["{w}"], "no predictions"),
        (["{f}", "--images", "{w}/none"], "no such folder"),
        (["{f}", "--kind", "good"], "--kind is 'good'"),
        (["{f}", "--kind", "a/b"], "--kind is 'a/b'"),
        (["{f}", "--pixel-threshold", "nan"], "pixel threshold is nan"),
        (["{f}", "--pixel-threshold", "2"], "pixel threshold is 2"),
        (["{f}", "--address", "here"], "--address is 'here'"),
        (["{f}", "--address", "no.such.host.invalid:0"], "the review page cannot listen on"),
        (["{f}", "--output", "{w}/images"], "the images lie in it"),
        (["{f}", "--output", "/proc/none/out"], "/proc/none/out"),
    ],
)
def test_bad_input_is_one_line(folder, tmp_path, capsys, arguments, message):
    assert main([one.format(w=tmp_path, f=folder) for one in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
