import json
import shutil
import socket
import subprocess
import threading
import time

import numpy as np
import pytest

from prn_fast.data.images import read_image
from prn_fast.errors import ConfigError, EngineError, LinescanError
from prn_fast.linescan.defects import Scale
from prn_fast.linescan.inspection import Inspection
from prn_fast.linescan.sinks import CallbackSink, CropSink, JSONLinesSink, MQTTSink, ParquetSink
from prn_fast.linescan.sources.base import Gap
from tests.linescan.webs import DarknessEngine, ListSource, blocks, make_inspector

WIDTH = 200


def web_with_three_defects():
    web = np.full((300, WIDTH), 150, np.uint8)
    for top in (50, 120, 200):
        web[top : top + 8, 60:75] = 10
    return web


def inspect(sinks, engine=None, **settings):
    events = [*blocks(web_with_three_defects(), [100]), Gap(300, 50, "incomplete")]
    source = ListSource(WIDTH, events)
    return Inspection(source, make_inspector(source, engine, **settings), sinks).run()


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
    parquet = pytest.importorskip("pyarrow.parquet")
    inspect([ParquetSink(tmp_path, rows=2)], scale=Scale(0.1, 0.2))
    files = sorted(tmp_path.iterdir())
    assert [path.suffix for path in files] == [".parquet"] * 2
    rows = [row for path in files for row in parquet.read_table(path).to_pylist()]
    assert [row["first_line"] for row in rows] == [50, 120, 200]
    assert [row["number"] for row in rows] == [1, 2, 3]
    assert rows[0]["mm_along"] == pytest.approx(10.0)
    assert rows[0]["source"] == "list"


def test_parquet_without_a_scale_has_no_millimetres(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    inspect([ParquetSink(tmp_path)])
    assert parquet.read_table(next(tmp_path.iterdir())).to_pylist()[0]["mm_area"] is None


def test_crops_are_pictures_of_the_defects(tmp_path):
    inspect([CropSink(tmp_path)], crops=True)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"line{top:012d}-x00060-minor.png" for top in (50, 120, 200)]
    assert np.array_equal(read_image(tmp_path / names[0], 1)[:, :, 0], web_with_three_defects()[34:74, 44:91])


def test_a_callback_gets_each_defect():
    found = []
    inspect([CallbackSink(found.append)])
    assert [one.first_line for one in found] == [50, 120, 200]


def test_a_sink_that_fails_stops_the_line():
    def fail(defect):
        raise LinescanError("the reject gate does not answer")

    with pytest.raises(LinescanError, match="gate"):
        inspect([CallbackSink(fail)])


@pytest.fixture
def broker(tmp_path):
    """A mosquitto on loopback: (port, function that stops and restarts it)."""
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    running = []

    def start():
        running.append(subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError("mosquitto does not listen")

    def stop():
        process = running.pop()
        process.kill()
        process.wait()

    start()
    yield port, start, stop
    if running:
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


def test_mqtt_says_that_the_line_stopped(broker):
    port, _, _ = broker
    listener = Listener(port)
    with pytest.raises(EngineError):
        inspect([MQTTSink(f"mqtt://127.0.0.1:{port}/line")], DarknessEngine(broken_from=3))
    assert "NaN" in listener.wait_for("line/status", status="stopped")["error"]
    listener.close()


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


def test_mqtt_without_a_broker_is_refused_at_the_start():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(LinescanError, match="no broker answers"):
        inspect([MQTTSink(f"mqtt://127.0.0.1:{port}/line")])


@pytest.mark.parametrize("url", ["mqtt://host", "http://host/topic", "mqtt:///topic", "mqtt://host:x/topic"])
def test_an_mqtt_url_that_cannot_work_is_explained(url):
    with pytest.raises(ConfigError, match="mqtt://"):
        MQTTSink(url)
