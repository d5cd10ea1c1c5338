"""The webhook sink against a real HTTP server, which can be away, refuse and answer late."""

import base64
import hashlib
import hmac
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from prn_fast.drift import DriftMonitor
from prn_fast.errors import ConfigError, LinescanError
from prn_fast.linescan.sinks import WebhookSink, outbox, webhook
from prn_fast.linescan.snapshot import SinkState
from tests.linescan.webs import inspect_three_defects


def inspect(*sinks):
    return inspect_three_defects(sinks)


class Receiver:
    """Keeps what it is sent.

    Attributes:
        statuses: of the next answers; then 204.
    """

    def __init__(self):
        self.requests, self.statuses = [], []
        self._server = None
        self.start()
        self.url = f"http://127.0.0.1:{self.port}/defects?token=secret"

    def start(self, port=0):
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.port = self._server.server_port

    def stop(self):
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    @property
    def records(self):
        return [json.loads(body) for _, body in self.requests]

    @property
    def types(self):
        return [record["type"] for record in self.records]


@pytest.fixture
def receiver(monkeypatch):
    monkeypatch.setattr(webhook, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(webhook, "_LONGEST_PAUSE", 0.02)
    running = Receiver()
    yield running
    running.stop()


@pytest.fixture
def short_wait(monkeypatch):
    monkeypatch.setattr(webhook, "_SECONDS", 0.3)


def test_a_server_gets_everything_in_order(receiver):
    snapshot = inspect(WebhookSink(receiver.url))
    assert receiver.types[0] == "start"
    assert receiver.types[-1] == "end"
    # The gap may be told at any place.
    assert sorted(receiver.types[1:-1]) == ["defect"] * 3 + ["gap"]
    assert [one["first_line"] for one in receiver.records if one["type"] == "defect"] == [50, 120, 200]
    assert receiver.records[-1]["lines"] == 350
    name = f"http://127.0.0.1:{receiver.port}/defects"
    assert snapshot.sinks == {name: SinkState()}
    headers = [headers for headers, _ in receiver.requests]
    assert len({one["webhook-id"] for one in headers}) == 6
    assert all(one["content-type"] == "application/json" and "webhook-signature" not in one for one in headers)


def test_messages_are_signed(receiver, tmp_path):
    secret = os.urandom(32)
    key = tmp_path / "key"
    key.write_text(f"whsec_{base64.b64encode(secret).decode()}\n")
    inspect(WebhookSink(receiver.url, key))
    assert len(receiver.requests) == 6
    for headers, body in receiver.requests:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        wanted = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{wanted}"
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 300


def test_a_signature_is_that_of_the_specifications_libraries():
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = webhook.signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_what_is_not_taken_is_sent_again_under_the_same_id(receiver):
    receiver.statuses = [503, 302, 404, 429, 200]
    assert inspect(WebhookSink(receiver.url)).lost == {}
    assert receiver.types[:5] == ["start"] * 5
    assert len({headers["webhook-id"] for headers, _ in receiver.requests[:5]}) == 1
    assert len(receiver.requests) == 10


def test_a_message_that_is_refused_is_lost_and_the_others_go_on(receiver):
    receiver.statuses = [200, 422]
    snapshot = inspect(WebhookSink(receiver.url))
    assert sum(snapshot.lost.values()) == 1
    assert len(receiver.requests) == 6


def test_a_server_that_does_not_answer_is_refused_at_the_start(receiver, short_wait):
    url = receiver.url
    receiver.stop()
    with pytest.raises(LinescanError, match=r"takes no messages \(.*refused"):
        inspect(WebhookSink(url))


def test_a_server_that_takes_nothing_is_named_with_its_status(receiver, short_wait):
    receiver.statuses = [403] * 1000
    with pytest.raises(LinescanError, match=r"takes no messages \(status 403\)"):
        inspect(WebhookSink(receiver.url))


def test_messages_wait_on_disk_for_the_next_start(receiver, short_wait, tmp_path):
    queue, name = tmp_path / "queue", f"http://127.0.0.1:{receiver.port}/defects"
    receiver.stop()
    sink = WebhookSink(receiver.url, queue=queue)
    # It also starts while nobody answers; the end is not yet among what waits when its figures are taken.
    assert inspect(sink).sinks[name].lost == 0
    receiver.start(receiver.port)
    assert inspect(WebhookSink(receiver.url, queue=queue)).sinks[name] == SinkState()
    # Those of the first inspection, and those of the second.
    assert [kind for kind in receiver.types if kind != "gap"] == ["start", *["defect"] * 3, "end"] * 2
    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 12


def test_messages_in_memory_that_are_not_taken_are_lost_and_counted(receiver, short_wait):
    sink = WebhookSink(receiver.url)
    sink.start("list")
    receiver.stop()
    found = inspect()
    for defect in found.recent:
        sink.defect(defect)
    sink.flush()
    assert (sink.lost, sink.waiting) == (3, 0)
    sink.finish(found)
    assert (sink.lost, sink.waiting) == (4, 0)


def test_messages_beyond_the_room_are_lost_and_counted(receiver, short_wait, tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "MAX_ON_DISK", 3)
    receiver.stop()
    sink = WebhookSink(receiver.url, queue=tmp_path / "queue")
    found = inspect()
    sink.start("list")
    for defect in found.recent:
        sink.defect(defect)
    assert (sink.lost, sink.waiting) == (1, 3)
    sink.finish(found)
    assert (sink.lost, sink.waiting) == (2, 3)


def test_a_queue_that_breaks_stops_the_line(receiver, tmp_path, monkeypatch):
    sink = WebhookSink(receiver.url, queue=tmp_path / "queue")

    def break_disk():
        raise LinescanError("queue: cannot be read")

    monkeypatch.setattr(sink._outbox, "oldest", break_disk)
    with pytest.raises(LinescanError, match="queue: cannot be read"):
        inspect(sink)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "host",
            "ftp://host/a",
            "http:///a",
            "http://host:x/",
            "http://host:0/",
            "http://u:p@host/",
            "http://[::1/",
        ),
        *("http://host/a#b", "http://host/a b", "http://host/\n", "http://höst/"),
    ],
)
def test_a_url_that_cannot_work_is_explained(url):
    with pytest.raises(ConfigError, match="a webhook is named http"):
        WebhookSink(url)


@pytest.mark.parametrize("content", ["", "short", "whsec_c2hvcnQ=", "é", base64.b64encode(bytes(65)).decode()])
def test_a_key_that_is_none_is_explained(tmp_path, content):
    (tmp_path / "key").write_text(content)
    with pytest.raises(ConfigError, match="key: holds no key"):
        WebhookSink("http://host/", tmp_path / "key")
    with pytest.raises(ConfigError, match="none: cannot be read"):
        WebhookSink("http://host/", tmp_path / "none")


def test_the_state_of_drift_is_told(receiver):
    sink, monitor = WebhookSink(receiver.url), DriftMonitor(None, "fp32", 104)
    sink.start("test")
    sink.drift(monitor.drift)
    sink.flush()
    sink.finish(inspect())
    assert receiver.types == ["start", "drift", "end"]
    assert receiver.records[1]["state"] == "learning"
