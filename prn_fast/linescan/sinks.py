"""Where defects go: JSON lines, Parquet, pictures, MQTT, a function."""

import json
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from prn_fast.data.images import write_image
from prn_fast.errors import ConfigError, LinescanError
from prn_fast.linescan.defects import Defect
from prn_fast.linescan.sources.base import Gap

if TYPE_CHECKING:
    from prn_fast.linescan.inspection import Snapshot

_MQTT_PORT = 1883
_MQTT_SECONDS = 5.0
_MQTT_WAITING = 10_000


class Sink:
    """Told what an inspection finds, all from one thread; a subclass takes what concerns it."""

    def start(self, source: str) -> None:
        """The inspection of a source begins; a LinescanError if the sink cannot take anything."""

    def defect(self, defect: Defect) -> None:
        """A defect ended."""

    def gap(self, gap: Gap) -> None:
        """Lines are missing."""

    def finish(self, snapshot: "Snapshot") -> None:
        """The inspection ended; `snapshot.error` says why it stopped, if it did."""


def moment() -> str:
    """UTC time to the millisecond, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _record(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "time": moment(), **values}


class CallbackSink(Sink):
    """Calls a function with each defect."""

    def __init__(self, function: Callable[[Defect], None]) -> None:
        self._function = function

    def defect(self, defect: Defect) -> None:
        """See `Sink.defect`."""
        self._function(defect)


class JSONLinesSink(Sink):
    """One JSON object a line, written out at once: "start", "defect", "gap" and "end" with the ledger.

    Args:
        path: appended to, so that a restart loses nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose another file") from None

    def start(self, source: str) -> None:
        """See `Sink.start`."""
        self._write(_record("start", {"source": source}))

    def defect(self, defect: Defect) -> None:
        """See `Sink.defect`."""
        self._write(_record("defect", defect.to_dict()))

    def gap(self, gap: Gap) -> None:
        """See `Sink.gap`."""
        self._write(_record("gap", vars(gap)))

    def finish(self, snapshot: "Snapshot") -> None:
        """See `Sink.finish`."""
        self._write(_record("end", snapshot.to_dict()))
        self._file.close()

    def _write(self, record: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise LinescanError(f"{self._path}: cannot be written ({error.strerror}); is the disk full?") from None


class ParquetSink(Sink):
    """A folder of Parquet files, one for each thousand defects and one for the rest.

    A Parquet file can be read only once it is complete, so each appears under its name when it is.

    Args:
        folder: made if needed; files there are kept.
        rows: defects in a file.
    """

    def __init__(self, folder: Path, rows: int = 1000) -> None:
        try:
            import pyarrow
        except ImportError:
            raise LinescanError("pyarrow is not installed: pip install 'prn-fast[linescan]'") from None
        self._folder = _made(folder)
        self._rows = rows
        self._waiting: list[dict[str, Any]] = []
        number, text = pyarrow.float64(), pyarrow.string()
        whole = pyarrow.int64()
        self._schema = pyarrow.schema(
            [
                ("time", pyarrow.timestamp("ms", tz="UTC")),
                ("source", text),
                ("number", whole),
                ("first_line", whole),
                ("left", whole),
                ("lines", whole),
                ("width", whole),
                ("area", whole),
                ("peak", number),
                ("severity", text),
                ("continues", pyarrow.bool_()),
                *((f"mm_{name}", number) for name in ("along", "across", "length", "width", "area")),
            ]
        )

    def start(self, source: str) -> None:
        """See `Sink.start`."""
        self._source = source
        self._begin = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self._files = 0

    def defect(self, defect: Defect) -> None:
        """See `Sink.defect`."""
        values = defect.to_dict()
        millimetres = values.pop("mm", {})
        row = {"time": datetime.now(UTC), "source": self._source, **values}
        self._waiting.append(row | {f"mm_{name}": value for name, value in millimetres.items()})
        if len(self._waiting) == self._rows:
            self._write()

    def finish(self, snapshot: "Snapshot") -> None:
        """See `Sink.finish`."""
        if self._waiting:
            self._write()

    def _write(self) -> None:
        import pyarrow
        import pyarrow.parquet

        self._files += 1
        path = self._folder / f"defects-{self._begin}-{self._files:05d}.parquet"
        partial = path.with_suffix(".partial")
        try:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(self._waiting, self._schema), partial)
            os.replace(partial, path)
        except OSError as error:
            raise LinescanError(f"{path}: cannot be written ({error}); is the disk full?") from None
        self._waiting.clear()


class CropSink(Sink):
    """A PNG of each defect with what is around it; the inspector's setting `crops` must be on.

    Args:
        folder: made if needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = _made(folder)

    def defect(self, defect: Defect) -> None:
        """See `Sink.defect`."""
        if defect.crop is None:
            return
        path = self._folder / f"line{defect.first_line:012d}-x{defect.left:05d}-{defect.severity}.png"
        try:
            write_image(path, defect.crop)
        except OSError as error:
            raise LinescanError(f"{path}: cannot be written ({error.strerror}); is the disk full?") from None


class MQTTSink(Sink):
    """Publishes to a broker: TOPIC/defect and TOPIC/gap, each once at least, and the retained TOPIC/status.

    The status is "inspecting", "ended" or "stopped" (with the reason); the broker itself says "lost" if this process
    dies. While the broker is away, messages wait, ten thousand at most; those beyond are counted in `lost`.

    Args:
        url: mqtt://[USER:PASSWORD@]HOST[:PORT]/TOPIC.
    """

    def __init__(self, url: str) -> None:
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError:
            raise LinescanError("paho-mqtt is not installed: pip install 'prn-fast[linescan]'") from None
        parts = urlsplit(url)
        self._topic = parts.path.strip("/")
        try:
            port = parts.port or _MQTT_PORT
        except ValueError:
            port = 0
        if parts.scheme != "mqtt" or not parts.hostname or not self._topic or not port:
            raise ConfigError("an MQTT sink is named mqtt://[USER:PASSWORD@]HOST[:PORT]/TOPIC")
        self._where = f"mqtt://{parts.hostname}:{port}"
        self._address = parts.hostname, port
        self.lost = 0
        self._connected = threading.Event()
        self._refused: str | None = None
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.max_queued_messages_set(_MQTT_WAITING)
        if parts.username:
            self._client.username_pw_set(parts.username, parts.password)
        self._client.will_set(f"{self._topic}/status", json.dumps({"status": "lost"}), qos=1, retain=True)
        self._client.on_connect = self._on_connect

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._refused = str(reason)
        self._connected.set()

    def start(self, source: str) -> None:
        """See `Sink.start`."""
        try:
            self._client.connect(*self._address)
        except OSError as error:
            raise LinescanError(f"{self._where}: no broker answers ({error}); is it running?") from None
        self._client.loop_start()
        if not self._connected.wait(_MQTT_SECONDS) or self._refused:
            self._client.loop_stop()
            raise LinescanError(f"{self._where}: the broker refuses the connection ({self._refused or 'no answer'})")
        self._publish("status", {"status": "inspecting", "source": source}, retain=True)

    def defect(self, defect: Defect) -> None:
        """See `Sink.defect`."""
        self._publish("defect", _record("defect", defect.to_dict()))

    def gap(self, gap: Gap) -> None:
        """See `Sink.gap`."""
        self._publish("gap", _record("gap", vars(gap)))

    def finish(self, snapshot: "Snapshot") -> None:
        """See `Sink.finish`."""
        status = "stopped" if snapshot.error else "ended"
        last = self._publish("status", {"status": status, **snapshot.to_dict()}, retain=True)
        # Messages are sent in their order: with the last one, all have arrived.
        if last is not None and self._client.is_connected():
            last.wait_for_publish(_MQTT_SECONDS)
        self._client.disconnect()
        self._client.loop_stop()

    def _publish(self, topic: str, values: dict[str, Any], retain: bool = False) -> Any:
        from paho.mqtt.enums import MQTTErrorCode

        sent = self._client.publish(f"{self._topic}/{topic}", json.dumps(values), qos=1, retain=retain)
        if sent.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            self.lost += 1
            return None
        return sent


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made ({error.strerror}); choose another folder") from None
    return folder
