import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from prn_fast.data.folders import find_images
from prn_fast.data.images import read_image
from prn_fast.drift import DriftMonitor
from prn_fast.errors import ConfigError, EngineError, LinescanError, StorageError
from prn_fast.linescan.defects import Defect, PixelSize, Severity
from prn_fast.linescan.sinks import CallbackSink, CropSink, JSONLinesSink, MQTTSink, ParquetSink, Sink, mqtt, outbox
from prn_fast.linescan.sinks.outbox import Outbox
from prn_fast.linescan.sinks.record_file import RecordFile
from prn_fast.linescan.snapshot import SinkState, describe_sinks
from tests import needs
from tests.faults import full_disk
from tests.linescan.webs import THRESHOLD, DarknessEngine, ListSource, three_defects, web_with_three_defects
from tests.linescan.webs import inspect_three_defects as inspect
from tests.processes import running


def test_json_lines_hold_defects_gaps_and_the_ledger(tmp_path):
    path = tmp_path / "found.jsonl"
    inspect([JSONLinesSink(path)])
    inspect([JSONLinesSink(path)])
    records = [json.loads(line) for line in path.read_text().splitlines()]
    # The gap may be told at any place.
    assert sorted(one["type"] for one in records[: len(records) // 2]) == ["defect"] * 3 + ["end", "gap", "start"]
    defects = [one for one in records if one["type"] == "defect"]
    assert [one["first_line"] for one in defects] == [50, 120, 200] * 2
    end = records[-1]
    assert end["lines"] == end["inspected"] + sum(end["missing"].values()) == 350
    assert end["missing"] == {"incomplete": 50}
    assert end["error"] is None


DEFECT = Defect(1, 10, 20, 3, 4, 12, 0.75, Severity.MINOR)


def records_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        ('{"type": "start"}\n{"type": "defect", "num', ["start"]),
        ('{"ty', []),
        ('{"type": "start"}', ["start"]),
        ('{"type": "start"}\n', ["start"]),
        ("", []),
    ],
)
def test_json_lines_go_on_after_half_a_line(tmp_path, before, kept):
    path = tmp_path / "found.jsonl"
    path.write_text(before)
    sink = JSONLinesSink(path)
    sink.start("web")
    sink.defect(DEFECT)
    assert [one["type"] for one in records_of(path)] == [*kept, "start", "defect"]


def test_a_file_of_another_kind_is_appended_to_and_nothing_of_it_is_cut(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(b"\xff\xfe notes")
    JSONLinesSink(path).start("web")
    assert path.read_bytes().startswith(b'\xff\xfe notes\n{"type": "start"')


def test_json_lines_stay_whole_when_the_disk_is_full(tmp_path):
    path = tmp_path / "found.jsonl"
    sink = JSONLinesSink(path)
    sink.start("web")
    # The system writes the first half of the record only.
    with full_disk(path.stat().st_size + 50), pytest.raises(StorageError, match="cannot be written"):
        sink.defect(DEFECT)
    sink.finish(inspect([]))
    assert [one["type"] for one in records_of(path)] == ["start", "end"]


def test_json_lines_go_to_a_pipe(tmp_path):
    command = ["cat", "/dev/stdin"]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        sink = JSONLinesSink(Path(f"/proc/self/fd/{process.stdin.fileno()}"))
        sink.start("web")
        sink.finish(inspect([]))
        start, _ = process.communicate(timeout=30)[0].splitlines()
    assert json.loads(start)["source"] == "web"


class Failing(Sink):
    """Fails at one call."""

    def __init__(self, call):
        setattr(self, call, self.fail)

    def fail(self, _):
        raise LinescanError("the reject gate does not answer")


@pytest.mark.parametrize("call", ["start", "defect", "gap", "finish"])
@pytest.mark.parametrize("order", [1, -1])
def test_the_other_sinks_are_told_the_end_where_one_fails(tmp_path, call, order):
    path = tmp_path / "found.jsonl"
    with pytest.raises(LinescanError, match="gate"):
        inspect([JSONLinesSink(path), Failing(call)][::order])
    types = [one["type"] for one in records_of(path)]
    # One that comes after a sink that does not start is not started either.
    assert types.count("start") == types.count("end") == (0 if (call, order) == ("start", -1) else 1)
    if types:
        end = records_of(path)[-1]
        assert end["type"] == "end"
        assert end["waiting"] == 0
        # A failing end is told to those before it, or after, not to itself.
        assert end["error"] == (None if call == "finish" and order == 1 else "the reject gate does not answer") or (
            call == "finish"
        )


def test_json_lines_say_why_the_line_stopped(tmp_path):
    path = tmp_path / "found.jsonl"
    with pytest.raises(EngineError):
        inspect([JSONLinesSink(path)], DarknessEngine(broken_from=3))
    end = json.loads(path.read_text().splitlines()[-1])
    assert "NaN" in end["error"]
    assert end["lines"] == end["inspected"] + sum(end["missing"].values()) + sum(end["dropped"].values())


def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written"):
        JSONLinesSink(tmp_path / "missing" / "found.jsonl")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made"):
        CropSink(tmp_path / "file")


def test_parquet_files_are_complete_and_hold_all_defects(tmp_path):
    inspect([ParquetSink(tmp_path, rows=2)], scale=PixelSize(0.1, 0.2))
    files = sorted(tmp_path.iterdir())
    assert [path.suffix for path in files] == [".parquet"] * 2
    rows = [row for path in files for row in parquet.read_table(path).to_pylist()]
    assert [row["first_line"] for row in rows] == [50, 120, 200]
    assert [row["number"] for row in rows] == [1, 2, 3]
    assert rows[0]["mm_along"] == pytest.approx(10.0)
    assert rows[0]["source"] == "list"


def test_parquet_without_a_scale_has_no_millimetres(tmp_path):
    inspect([ParquetSink(tmp_path)])
    assert parquet.read_table(next(tmp_path.iterdir())).to_pylist()[0]["mm_area"] is None


def parquet_rows(folder):
    return [row for path in sorted(folder.glob("*.parquet")) for row in parquet.read_table(path).to_pylist()]


CRASH = """
import os, signal, sys
from pathlib import Path
from prn_fast.linescan.defects import Defect, Severity
from prn_fast.linescan.sinks import ParquetSink

sink = ParquetSink(Path(sys.argv[1]), rows=4)
sink.start("web")
for number in range(1, 7):
    sink.defect(Defect(number, 10 * number, 20, 3, 4, 12, 0.75, Severity.MINOR))
print("ready", flush=True)
signal.pause()
"""


def test_parquet_rows_outlive_a_crash(tmp_path):
    with running([sys.executable, "-c", CRASH, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        # While that process lives, its journal is its own.
        ParquetSink(tmp_path).start("other")
        assert [row["number"] for row in parquet_rows(tmp_path)] == [1, 2, 3, 4]
        process.send_signal(signal.SIGKILL)
    (journal,) = tmp_path.glob("*.journal")
    with journal.open("a") as file:
        file.write('{"time": "2026-01-01T00:0')
    inspect([ParquetSink(tmp_path)])
    rows = parquet_rows(tmp_path)
    assert [row["number"] for row in rows] == [1, 2, 3, 4, 5, 6, 1, 2, 3]
    assert rows[4]["source"] == "web"
    assert rows[4]["time"].tzinfo is not None
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet"}


def test_a_journal_whose_file_was_completed_adds_nothing(tmp_path):
    sink = ParquetSink(tmp_path, rows=2)
    sink.start("web")
    sink.defect(DEFECT)
    (journal,) = tmp_path.glob("*.journal")
    copy = journal.read_bytes()
    sink.finish(inspect([]))
    journal.write_bytes(copy)
    ParquetSink(tmp_path).start("web")
    assert len(parquet_rows(tmp_path)) == 1
    assert list(tmp_path.glob("*.journal")) == []


def test_a_damaged_journal_is_named(tmp_path):
    (tmp_path / "defects-1.journal").write_text("nothing\n")
    with pytest.raises(LinescanError, match=r"defects-1\.journal: line 1 is damaged"):
        ParquetSink(tmp_path).start("web")
    (tmp_path / "defects-1.journal").write_text('{"a": 1}\n')
    with pytest.raises(LinescanError, match=r"defects-1\.journal: is not a journal of defects"):
        ParquetSink(tmp_path).start("web")


def test_crops_are_pictures_of_the_defects(tmp_path):
    inspect([CropSink(tmp_path)], crops=True)
    names = sorted(path.name for path in tmp_path.glob("*.png"))
    assert names == [f"line{top:012d}-x00060-minor.png" for top in (50, 120, 200)]
    assert np.array_equal(read_image(tmp_path / names[0], 1)[:, :, 0], web_with_three_defects()[34:74, 44:91])
    heat = read_image(tmp_path / ".maps" / names[0], 1)[:, :, 0]
    assert heat.shape == (40, 47)
    assert heat[16:-16, 16:-16].max() > THRESHOLD * 255 > heat[0].max()
    assert list(find_images(tmp_path).images) == [tmp_path / name for name in names]


def test_crops_of_an_earlier_inspection_are_kept(tmp_path):
    for _ in range(2):
        inspect([CropSink(tmp_path)], crops=True)
    assert len(list(tmp_path.glob("*.png"))) == len(list((tmp_path / ".maps").iterdir())) == 6


def test_a_callback_gets_each_defect():
    found = []
    inspect([CallbackSink(found.append)])
    assert [one.first_line for one in found] == [50, 120, 200]


def test_a_journal_that_another_process_completes_meanwhile_is_its_affair(tmp_path, monkeypatch):
    class CompletedMeanwhile(RecordFile):
        def __init__(self, path, own=False):
            super().__init__(path, own)
            path.unlink()

    (tmp_path / "defects-1.journal").touch()
    monkeypatch.setattr("prn_fast.linescan.sinks.parquet.RecordFile", CompletedMeanwhile)
    ParquetSink(tmp_path).start("web")
    assert list(tmp_path.iterdir()) == []


def test_a_sink_that_fails_stops_the_line():
    def fail(defect):
        raise LinescanError("the reject gate does not answer")

    with pytest.raises(LinescanError, match="gate"):
        inspect([CallbackSink(fail)])


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def broker(tmp_path):
    """A mosquitto on loopback: (port, function that stops and restarts it)."""
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    brokers = []

    def start():
        brokers.append(subprocess.Popen([str(needs.BROKER), "-c", str(config)], stderr=subprocess.DEVNULL))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError("mosquitto does not listen")

    def stop():
        process = brokers.pop()
        process.kill()
        process.wait()

    try:
        start()
        yield port, start, stop
    finally:
        if brokers:
            stop()


class Listener:
    """A subscriber of all topics."""

    def __init__(self, port):
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.messages = []
        self.subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: self.subscribed.set()
        self._client.on_message = lambda client, data, one: self.messages.append((one.topic, json.loads(one.payload)))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self.subscribed.wait(10)

    def wait_for(self, topic, **values):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for name, content in list(self.messages):
                if name == topic and values.items() <= content.items():
                    return content
            time.sleep(0.02)
        raise AssertionError(f"no {topic} with {values} in {self.messages}")

    def of(self, topic):
        return [content for name, content in self.messages if name == topic]

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()


@needs.mosquitto
def test_mqtt_tells_a_real_broker_everything_in_order(broker):
    port, _, _ = broker
    listener = Listener(port)
    inspect([MQTTSink(f"mqtt://127.0.0.1:{port}/plant/line1")])
    end = listener.wait_for("plant/line1/status", status="ended")
    listener.close()
    assert end["lines"] == end["inspected"] + sum(end["missing"].values()) == 350
    assert [content["first_line"] for name, content in listener.messages if name == "plant/line1/defect"] == [
        50,
        120,
        200,
    ]
    assert [content["lines"] for name, content in listener.messages if name == "plant/line1/gap"] == [50]
    # The status stays at the broker for those who come later.
    late = Listener(port)
    late.wait_for("plant/line1/status", status="ended")
    late.close()


@needs.mosquitto
def test_mqtt_keeps_the_state_of_drift_for_those_who_come_later(broker):
    port, _, _ = broker
    sink = MQTTSink(f"mqtt://127.0.0.1:{port}/line")
    sink.start("list")
    monitor = DriftMonitor(None, "fp32", 104)
    sink.drift(monitor.drift)
    sink.drift(monitor.add(np.random.default_rng(0).random((300, 3))))
    sink.flush()
    late = Listener(port)
    told = late.wait_for("line/drift", state="ok")
    assert sorted(told["quantities"]) == ["brightness", "contrast", "score"]
    assert len(late.of("line/drift")) == 1
    late.close()
    sink.finish(inspect([]))


@needs.mosquitto
def test_mqtt_says_that_the_line_stopped(broker):
    port, _, _ = broker
    listener = Listener(port)
    with pytest.raises(EngineError):
        inspect([MQTTSink(f"mqtt://127.0.0.1:{port}/line")], DarknessEngine(broken_from=3))
    assert "NaN" in listener.wait_for("line/status", status="stopped")["error"]
    listener.close()


@needs.mosquitto
def test_mqtt_survives_a_broker_that_comes_back(broker):
    port, start, stop = broker
    sink = MQTTSink(f"mqtt://127.0.0.1:{port}/line")
    sink.start("list")
    stop()
    found = []
    inspect([CallbackSink(found.append)])
    for one in found:
        sink.defect(one)
    start()
    listener = Listener(port)
    for one in found:
        listener.wait_for("line/defect", number=one.number)
    assert sink.lost == 0
    sink.finish(inspect([]))
    listener.wait_for("line/status", status="ended")
    listener.close()


def test_mqtt_without_a_broker_is_refused_at_the_start(tmp_path):
    path = tmp_path / "found.jsonl"
    with pytest.raises(LinescanError, match="no broker answers"):
        inspect([JSONLinesSink(path), MQTTSink(f"mqtt://127.0.0.1:{free_port()}/line")])
    start, end = records_of(path)
    assert (start["type"], end["type"]) == ("start", "end")
    assert "no broker answers" in end["error"]


@needs.mosquitto
def test_mqtt_status_does_not_stay_inspecting_where_another_sink_does_not_start(broker):
    port, _, _ = broker
    with pytest.raises(LinescanError, match="gate"):
        inspect([MQTTSink(f"mqtt://127.0.0.1:{port}/line"), Failing("start")])
    listener = Listener(port)
    assert "gate" in listener.wait_for("line/status", status="stopped")["error"]
    listener.close()


@pytest.fixture
def short_wait(monkeypatch):
    monkeypatch.setattr(mqtt, "_SECONDS", 0.3)


class BrokerDies(Sink):
    """Takes the broker away with the first defect."""

    def __init__(self, stop, dead):
        self.stop, self.dead = stop, dead

    def start(self, source):
        self.stop()
        self.dead.set()


def inspect_while_the_broker_dies(sink, stop):
    dead = threading.Event()

    class Waiting(ListSource):
        def events(self):
            dead.wait(30)
            yield from super().events()

    source = Waiting(200, list(three_defects().events()))
    return inspect([sink, BrokerDies(stop, dead)], source=source)


@needs.mosquitto
def test_mqtt_counts_what_a_dead_broker_did_not_get(broker, short_wait):
    port, _, stop = broker
    snapshot = inspect_while_the_broker_dies(MQTTSink(f"mqtt://127.0.0.1:{port}/line"), stop)
    # Three defects, a gap, and the last status.
    assert snapshot.lost == {f"mqtt://127.0.0.1:{port}/line": 5}
    assert describe_sinks(snapshot) == [f"mqtt://127.0.0.1:{port}/line: 5 messages lost"]


@needs.mosquitto
def test_mqtt_messages_wait_on_disk_for_the_next_start(broker, short_wait, tmp_path):
    port, start, stop = broker
    url = f"mqtt://127.0.0.1:{port}/line?queue={tmp_path / 'line.queue'}"
    snapshot = inspect_while_the_broker_dies(MQTTSink(url), stop)
    name = f"mqtt://127.0.0.1:{port}/line"
    assert snapshot.sinks[name] == SinkState(lost=1, waiting=4)  # only the last status is lost
    assert describe_sinks(snapshot) == [f"{name}: 1 messages lost, 4 messages not delivered yet"]
    # It also starts while the broker is away.
    assert inspect([MQTTSink(url)]).sinks[name].waiting == 8
    start()
    listener = Listener(port)
    assert inspect([MQTTSink(url)]).sinks[name] == SinkState()
    listener.wait_for("line/status", status="ended")
    listener.close()
    assert [one["first_line"] for one in listener.of("line/defect")] == [50, 120, 200] * 3
    assert len(listener.of("line/gap")) == 3
    assert inspect([MQTTSink(url)]).sinks[name] == SinkState()
    assert len(listener.of("line/defect")) == 9


@needs.mosquitto
def test_mqtt_messages_beyond_the_room_on_disk_are_lost_and_counted(broker, short_wait, tmp_path, monkeypatch):
    port, _, stop = broker
    monkeypatch.setattr(outbox, "MAX_ON_DISK", 3)
    url = f"mqtt://127.0.0.1:{port}/line?queue={tmp_path / 'line.queue'}"
    snapshot = inspect_while_the_broker_dies(MQTTSink(url), stop)
    assert snapshot.sinks[f"mqtt://127.0.0.1:{port}/line"] == SinkState(lost=2, waiting=3)


def test_a_queue_on_disk_outlives_a_crash_and_serves_one_inspection(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from prn_fast.linescan.sinks.outbox import Outbox\n"
        "box = Outbox(Path(sys.argv[1]), 10); box.add('t', 'one'); box.add('t', 'two'); box.confirm(1); os._exit(1)"
    )
    path = tmp_path / "line.queue"
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    box = Outbox(path, 2)
    assert box.messages() == [(2, "t", "two")]
    assert box.add("t", "three") == 3
    assert box.add("t", "four") is None
    with pytest.raises(ConfigError, match=r"line\.queue: cannot be used as a queue"):
        MQTTSink(f"mqtt://host/line?queue={path}")
    box.close()
    (tmp_path / "picture").write_bytes(bytes(range(256)) * 20)
    with pytest.raises(ConfigError, match="picture: cannot be used as a queue"):
        MQTTSink(f"mqtt://host/line?queue={tmp_path / 'picture'}")


@needs.mosquitto
def test_mqtt_status_comes_again_with_a_broker_that_forgot_it(broker):
    port, start, stop = broker
    sink = MQTTSink(f"mqtt://127.0.0.1:{port}/line")
    sink.start("list")
    stop()
    start()
    listener = Listener(port)
    listener.wait_for("line/status", status="inspecting")
    sink.finish(inspect([]))
    listener.wait_for("line/status", status="ended")
    listener.close()


@pytest.mark.parametrize(
    "url",
    [
        *("mqtt://host", "http://host/topic", "mqtt:///topic", "mqtt://host:x/topic", "mqtt://[::1/t", "mqtt://h:0/t"),
        *("mqtt://h:99999/t", "mqtt://h:-1/t", "mqtt://h/a/#", "mqtt://h/+", "mqtt://h/t?queue", "mqtt://h/t?queue="),
        *("mqtt://h/t?other=1", "mqtt://h/t?queue=a&queue=b", "mqtt://[x]/t", ""),
    ],
)
def test_an_mqtt_url_that_cannot_work_is_explained(url):
    with pytest.raises(ConfigError, match="mqtt://"):
        MQTTSink(url)


def test_an_mqtt_host_that_no_name_server_takes_is_explained():
    with pytest.raises(LinescanError, match="no broker answers"):
        inspect([MQTTSink(f"mqtt://{'a' * 300}/topic")])
