"""The live page: its frames, its server, and itself in a browser."""

import asyncio
import threading

import cv2
import numpy as np
import pytest

from prn_fast.errors import ConfigError
from prn_fast.linescan.inspection import Inspection
from prn_fast.linescan.inspector import Inspected
from prn_fast.linescan.sources.base import Gap
from prn_fast.linescan.stitching import Stitched
from tests.linescan.browser import Browser
from tests.linescan.webs import THRESHOLD, ListSource, blocks, make_inspector, planted_strip

aiohttp = pytest.importorskip("aiohttp", reason="aiohttp is not installed: pip install 'prn-fast[linescan]'")

from prn_fast.linescan.dashboard import Dashboard  # noqa: E402
from prn_fast.linescan.dashboard.view import StripView  # noqa: E402

WIDTH = 2500


def lines_of(first_line, count, heat=0.0, width=WIDTH, channels=1):
    rng = np.random.default_rng(first_line)
    return Stitched(
        first_line,
        rng.integers(100, 140, (count, width, channels), dtype=np.uint8),
        np.full((count, width), heat, np.float32),
        np.zeros(count, bool),
    )


def decoded(frame):
    picture, heat = (
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) for data in (frame.picture, frame.heat)
    )
    assert picture.shape[:2] == heat.shape[:2] == (frame.rows, picture.shape[1])
    return picture, heat


def test_a_view_makes_lines_smaller_and_loses_none():
    view = StripView(WIDTH, 0.5)
    view.watched = True
    assert (view.factor, view.width) == (3, 833)
    first_line = 10
    for count in (100, 1, 1, 31, 64):
        view.add(Inspected([lines_of(first_line, count)], []))
        first_line += count
    frames = view.take()
    assert sum(frame.rows for frame in frames) == 197 // 3
    starts = [frame.first_line for frame in frames]
    assert starts == [10 + 3 * rows for rows in np.cumsum([0, *(frame.rows for frame in frames)])[:-1]]
    picture, heat = decoded(frames[0])
    assert abs(float(picture.mean()) - 120) < 2
    assert (heat[:, :, 3] == 0).all()
    assert view.take() == []


@pytest.mark.parametrize("channels", [1, 3])
def test_a_defect_of_one_pixel_is_visible(channels):
    view = StripView(WIDTH, 0.5)
    view.watched = True
    lines = lines_of(0, 60, channels=channels)
    lines.heat[31, 601] = 1.0
    view.add(Inspected([lines], []))
    _, heat = decoded(view.take()[0])
    assert np.argwhere(heat[:, :, 3] > 0).tolist() == [[31 // 3, 601 // 3]]
    blue, green, red, alpha = heat[31 // 3, 601 // 3]
    assert red > 200 > 100 > green
    assert blue < 100
    assert alpha > 200


def test_lines_without_a_verdict_are_a_band():
    view = StripView(WIDTH, 0.5)
    view.watched = True
    missing = lines_of(300, 30)
    missing.missing[:15] = True
    view.add(Inspected([lines_of(0, 30)], []))
    view.add(Inspected([missing], []))
    _, band, last = view.take()
    assert band.first_line == 30
    assert (decoded(band)[1][:, :, 3] == 255).all()
    assert (decoded(last)[1][:, 0, 3] == 255).tolist() == [True] * 5 + [False] * 5


def test_nothing_is_kept_while_nobody_looks():
    view = StripView(WIDTH, 0.5)
    view.add(Inspected([lines_of(0, 300)], []))
    view.watched = True
    assert view.take() == []


def test_a_page_that_is_not_fetched_does_not_fill_the_memory():
    view = StripView(WIDTH, 0.5)
    view.watched = True
    for number in range(40):
        view.add(Inspected([lines_of(300 * number, 300)], []))
    assert sum(frame.rows for frame in view.take()) <= 2000


@pytest.fixture
def dashboard():
    one = Dashboard("demo.prn", WIDTH, THRESHOLD)
    yield one
    one.close()


def fetch(url, **headers):
    async def request():
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
            return answer.status, answer.headers, await answer.text()

    return asyncio.run(request())


def test_the_page_is_served_on_loopback_with_a_strict_policy(dashboard):
    assert dashboard.url.startswith("http://127.0.0.1:")
    status, headers, text = fetch(dashboard.url)
    assert status == 200
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "http" not in text.replace(dashboard.url, ""), "the page asks for nothing from elsewhere"
    assert fetch(dashboard.url + "app.js")[0] == fetch(dashboard.url + "style.css")[0] == 200
    assert fetch(dashboard.url + "../server.py")[0] == 404


@pytest.mark.parametrize("path", ["", "live"])
def test_pages_of_other_sites_cannot_read_it(dashboard, path):
    assert fetch(dashboard.url + path, Host="evil.example")[0] == 403
    assert fetch(dashboard.url + path, Origin="http://evil.example")[0] == 403


def test_a_port_that_is_taken_is_explained(dashboard):
    port = int(dashboard.url.rsplit(":", 1)[1].strip("/"))
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
        Dashboard("other.prn", WIDTH, THRESHOLD, port=port)


def test_a_browser_shows_the_strip_its_heat_defects_and_ledger(dashboard, tmp_path):
    pixels, planted = planted_strip(WIDTH, 1024)
    # The browser must be there before the lines are.
    watching = threading.Event()

    class Waiting(ListSource):
        def events(self):
            watching.wait()
            yield from super().events()

    events = [*blocks(pixels, [256]), Gap(1024, 300, "incomplete"), *blocks(pixels, [256], 1324)]
    source = Waiting(WIDTH, events)
    inspection = Inspection(source, make_inspector(source, crops=True), depth=64, observers=[dashboard.add])
    dashboard.watch(inspection)
    running = threading.Thread(target=inspection.run)
    running.start()
    browser = Browser(dashboard.url, tmp_path / "browser")
    try:
        browser.wait_for("window.prn && hello !== null")
        watching.set()
        running.join()
        snapshot = inspection.snapshot()
        browser.wait_for("document.getElementById('status').textContent === 'ended'")
        browser.wait_for(f"window.prn.defects === {len(snapshot.recent)}")
        # Every line of the web is in one of the rows.
        browser.wait_for("pieces.reduce((lines, one) => lines + one.rows * one.lineFactor, 0) >= 2048")
        browser.wait_for("bottom - shown < 1")
        names = "['inspected', 'missing', 'dropped', 'waiting', 'missing-why']"
        text = browser.evaluate(f"{names}.map(id => document.getElementById(id).textContent)")
        assert text == ["2,048", "300", "0", "0", "incomplete 300"]
        assert browser.evaluate("document.querySelectorAll('#defects li img').length") == len(snapshot.recent)
        assert browser.evaluate("document.title") == "prn-inspect · demo.prn"
        picture = tmp_path / "page.png"
        browser.screenshot(picture)
        strip = cv2.imread(str(picture))[60:600, 10:1000].astype(int)
        assert 60 < strip.mean() < 180, "the strip is drawn"
        redness = strip[:, :, 2] - strip[:, :, 1]
        assert (redness > 60).sum() > 100, "the heat map is drawn over it"
    finally:
        watching.set()
        browser.close()
    assert len(planted) > 5
    assert snapshot.lines == snapshot.inspected + 300
