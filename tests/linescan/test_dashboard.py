"""The live page: its frames, its server, and itself in a browser."""

import asyncio
import json
import logging
import socket
import threading
from urllib.parse import urlsplit

import aiohttp
import cv2
import numpy as np
import pytest

from prn_fast import local_server
from prn_fast.errors import ConfigError
from prn_fast.linescan.dashboard import Dashboard
from prn_fast.linescan.dashboard.view import StripView
from prn_fast.linescan.inspection import Inspection
from prn_fast.linescan.inspector import Inspected
from prn_fast.linescan.sources.base import Gap
from prn_fast.linescan.stitching import Stitched
from tests import needs
from tests.linescan.browser import Browser
from tests.linescan.webs import THRESHOLD, ListSource, blocks, make_inspector, planted_strip

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


def raw_answer(url, *lines):
    """The status of an answer to header lines that no client library would send."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(b"\r\n".join([*lines, b"Connection: close", b"", b""]))
        answer = b""
        while part := connection.recv(4096):
            answer += part
    return int(answer.split()[1]) if answer else None


MALFORMED = [
    *(b"[", b"[::1", b"[::1]x", b"]", b"[evil.example]", b"localhost:x", b"localhost:-1"),
    *(b"a b", b"", b"@", b"x@localhost", b"localhost/", b"localhost#", b"\xff\xfe", b"%00", b"a" * 5000, b"127.0.0.1."),
]


@pytest.mark.parametrize("host", MALFORMED)
def test_a_malformed_host_is_refused_without_a_trace(dashboard, capfd, caplog, host):
    path = urlsplit(dashboard.url).path.encode()
    for request in (path, path + b"live"):
        status = raw_answer(dashboard.url, b"GET " + request + b" HTTP/1.1", b"Host: " + host)
        assert status in (400, 403)
        good = urlsplit(dashboard.url).netloc.encode()
        origin = [b"Host: " + good, b"Origin: http://" + host]
        assert raw_answer(dashboard.url, b"GET " + request + b" HTTP/1.1", *origin) in (400, 403)
    assert capfd.readouterr().err == ""
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    "request_line", [b"OPTIONS * HTTP/1.1", b"GET http://evil.example/ HTTP/1.1", b"GET // HTTP/1.1"]
)
def test_an_odd_request_is_no_fault_of_the_server(dashboard, capfd, request_line):
    assert raw_answer(dashboard.url, request_line, b"Host: " + urlsplit(dashboard.url).netloc.encode()) < 500
    assert capfd.readouterr().err == ""


@pytest.fixture(params=["0.0.0.0", "127.0.0.2", "localhost"])
def reachable(request, monkeypatch):
    """A dashboard that the network can reach, and an address that leads to it from here."""
    host = request.param
    if host != "0.0.0.0":
        # They stand for an address and a name in the plant's network.
        monkeypatch.setattr(local_server, "is_loopback", lambda host: False)
    one = Dashboard("demo.prn", WIDTH, THRESHOLD, host)
    yield one, one.url if host != "0.0.0.0" else one.url.replace(socket.gethostname(), "127.0.0.1")
    one.close()


async def open_live(url, **headers):
    async with aiohttp.ClientSession() as session:
        try:
            async with session.ws_connect(url, headers=headers) as socket_:
                return json.loads((await socket_.receive()).data)["type"]
        except aiohttp.WSServerHandshakeError as error:
            return error.status


def test_where_the_network_can_reach_it_the_token_is_needed(reachable):
    one, url = reachable
    origin, path = url.split("//")[0] + "//" + urlsplit(url).netloc, urlsplit(url).path
    assert len(path) > 20
    assert path in one.url
    assert fetch(url)[0] == fetch(url + "app.js")[0] == fetch(url + "style.css")[0] == 200
    assert asyncio.run(open_live(url + "live")) == "hello"
    wrong = path[:-3] + ("a" if path[-3] != "a" else "b") + path[-2:]
    for other in ("/", wrong, "/é/", path[:-3] + "/", path.upper() if path.upper() != path else "/x/"):
        assert fetch(origin + other)[0] == 403
        assert fetch(origin + other + "app.js")[0] == 403
        assert asyncio.run(open_live(origin + other + "live")) == 403


def test_where_the_network_can_reach_it_other_names_are_refused(reachable):
    _, url = reachable
    for path in ("", "live", "app.js"):
        assert fetch(url + path, Host="evil.example")[0] == 403
        assert fetch(url + path, Host="evil.example", Origin="http://evil.example")[0] == 403
        assert fetch(url + path, Origin="http://evil.example")[0] == 403
    assert asyncio.run(open_live(url + "live", Host="evil.example")) == 403
    assert asyncio.run(open_live(url + "live", Origin="http://evil.example")) == 403


def test_each_token_is_new():
    urls = set()
    for _ in range(2):
        one = Dashboard("demo.prn", WIDTH, THRESHOLD, "0.0.0.0")
        urls.add(urlsplit(one.url).path)
        one.close()
    assert len(urls) == 2


@pytest.mark.parametrize("host", ["a" * 300, "no.such.host.invalid", "192.0.2.1"])
def test_a_host_that_is_not_here_is_explained(host, capfd):
    with pytest.raises(ConfigError, match="the dashboard cannot listen on"):
        Dashboard("demo.prn", WIDTH, THRESHOLD, host)
    assert capfd.readouterr().err == ""


def test_a_port_that_is_taken_is_explained(dashboard):
    port = int(dashboard.url.rsplit(":", 1)[1].strip("/"))
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
        Dashboard("other.prn", WIDTH, THRESHOLD, port=port)


@needs.chromium
@pytest.mark.parametrize("reachable", ["0.0.0.0"], indirect=True)
def test_a_browser_shows_the_strip_its_heat_defects_and_ledger(reachable, tmp_path):
    dashboard, url = reachable
    pixels, planted = planted_strip(WIDTH, 1024)
    # The browser must be there before the lines are.
    watching = threading.Event()

    class Waiting(ListSource):
        def events(self):
            watching.wait(60)
            yield from super().events()

    events = [*blocks(pixels, [256]), Gap(1024, 300, "incomplete"), *blocks(pixels, [256], 1324)]
    source = Waiting(WIDTH, events)
    inspection = Inspection(source, make_inspector(source, crops=True), depth=64, observers=[dashboard.add])
    dashboard.watch(inspection)
    running = threading.Thread(target=inspection.run, daemon=True)
    running.start()
    browser = None
    try:
        browser = Browser(url, tmp_path / "browser")
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
        running.join()
        if browser is not None:
            browser.close()
    assert len(planted) > 5
    assert snapshot.lines == snapshot.inspected + 300
