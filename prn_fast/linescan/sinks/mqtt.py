"""Everything to an MQTT broker."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from prn_fast.drift import Drift
from prn_fast.errors import ConfigError, LinescanError
from prn_fast.extras import require_extra
from prn_fast.linescan.defects import Defect
from prn_fast.linescan.sinks.base import as_record
from prn_fast.linescan.sinks.outbox import OutboxSink
from prn_fast.linescan.snapshot import Snapshot
from prn_fast.linescan.sources.base import Gap

MQTT_URL = "mqtt://[USER:PASSWORD@]HOST[:PORT]/TOPIC[?queue=FILE]"
_PORT = 1883
# Seconds for the broker to answer at the start, and to confirm waiting messages at the end.
_SECONDS = 5.0
_RECONNECT_SECONDS = 5


class MQTTSink(OutboxSink):
    """Publishes to a broker: TOPIC/defect and TOPIC/gap, each at least once, the retained TOPIC/status and TOPIC/drift.

    The status is "inspecting", "ended" or "stopped" (with the reason); the broker itself says "lost" if this process
    dies or cannot be reached.

    While the broker is away, messages wait: ten thousand at most in memory, where those that the broker has not
    confirmed at the end are lost, or fifty thousand in a file, from which they are sent at the next start. Those beyond
    are lost, and so is a last status that the broker does not confirm. With a file, an inspection also starts while the
    broker is away.

    Args:
        url: mqtt://[USER:PASSWORD@]HOST[:PORT]/TOPIC[?queue=FILE]; characters of the user and password that a URL
            cannot hold are percent-encoded. One file serves one inspection at a time.
    Raises:
        ConfigError: a URL that cannot work, a file that cannot be used, or paho-mqtt is not installed.
    """

    def __init__(self, url: str) -> None:
        require_extra("linescan", "paho")
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        parts, port, queue = _split(url)
        assert parts.hostname is not None
        self._topic = parts.path.strip("/")
        self._address = parts.hostname, port
        self._where = f"mqtt://{f'[{parts.hostname}]' if ':' in parts.hostname else parts.hostname}:{port}"
        super().__init__(queue)
        self._status = ""
        self._refused: str | None = None
        self._connected = threading.Event()
        # Which message of the outbox is behind paho's number; confirmations may come before that is known. paho calls
        # back with its own lock held: none of its methods is called with this one held.
        self._lock = threading.Lock()
        self._numbers: dict[int, int | None] = {}
        self._early: set[int] = set()
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.max_queued_messages_set(0)
        self._client.reconnect_delay_set(1, _RECONNECT_SECONDS)
        if parts.username:
            self._client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        self._client.will_set(f"{self._topic}/status", json.dumps({"status": "lost"}), qos=1, retain=True)
        self._client.on_connect = self._on_connect
        self._client.on_publish = self._on_publish

    @property
    def name(self) -> str:
        """See `Sink.name`."""
        return f"{self._where}/{self._topic}"

    def start(self, source: str) -> None:
        """See `Sink.start`."""
        self._status = json.dumps({"status": "inspecting", "source": source})
        try:
            self._connect()
        except LinescanError:
            self._client.disconnect()
            self._client.loop_stop()
            self._outbox.close()
            raise
        for number, topic, payload in self._outbox.messages():
            self._publish(topic, payload, number)

    def _connect(self) -> None:
        """Connect; `_on_connect` publishes the status."""
        try:
            self._client.connect(*self._address)
        except (OSError, UnicodeError) as error:
            if not self._on_disk:
                raise LinescanError(f"{self._where}: no broker answers ({error}); is it running?") from None
            self._client.connect_async(*self._address)
            self._client.loop_start()
            return
        self._client.loop_start()
        if not self._connected.wait(_SECONDS) or self._refused:
            raise LinescanError(f"{self._where}: the broker refuses the connection ({self._refused or 'no answer'})")

    def defect(self, defect: Defect) -> None:
        """See `Sink.defect`."""
        self._send("defect", as_record("defect", defect.to_dict()))

    def gap(self, gap: Gap) -> None:
        """See `Sink.gap`."""
        self._send("gap", as_record("gap", vars(gap)))

    def drift(self, drift: Drift) -> None:
        """See `Sink.drift`."""
        self._send("drift", as_record("drift", drift.to_dict()), retain=True)

    def flush(self) -> None:
        """See `Sink.flush`."""
        self._wait(lambda: not len(self._outbox))
        self._forgets = not self._on_disk

    def finish(self, snapshot: Snapshot) -> None:
        """See `Sink.finish`."""
        self._status = json.dumps({"status": "stopped" if snapshot.error else "ended", **snapshot.to_dict()})
        if self._client.is_connected():
            self._publish(f"{self._topic}/status", self._status, None, retain=True)
            self._wait(self._status_is_confirmed)
        self._given_up += not (self._client.is_connected() and self._status_is_confirmed())
        self._client.disconnect()
        self._client.loop_stop()
        self._outbox.close()

    def _status_is_confirmed(self) -> bool:
        with self._lock:
            return None not in self._numbers.values()

    def _wait(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _SECONDS
        while not done() and time.monotonic() < deadline:
            time.sleep(0.01)

    def _send(self, topic: str, record: dict[str, Any], retain: bool = False) -> None:
        topic, payload = f"{self._topic}/{topic}", json.dumps(record)
        number = self._outbox.add(topic, payload)
        if number is None:
            self._given_up += 1
        else:
            self._publish(topic, payload, number, retain)

    def _publish(self, topic: str, payload: str, number: int | None, retain: bool = False) -> None:
        """Hand a message to paho, which sends it in its turn, and again after each connection until it is confirmed."""
        sent = self._client.publish(topic, payload, qos=1, retain=retain).mid
        with self._lock:
            confirmed = sent in self._early
            self._early.discard(sent)
            if not confirmed:
                self._numbers[sent] = number
        if confirmed and number is not None:
            self._outbox.confirm(number)

    # -- called by paho's thread --------------------------------------------------------------------------------

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._refused = str(reason)
        else:
            # At each connection: the broker may have published "lost" meanwhile, or have lost the status.
            self._publish(f"{self._topic}/status", self._status, None, retain=True)
        self._connected.set()

    def _on_publish(self, client: Any, data: Any, sent: int, reason: Any, properties: Any) -> None:
        with self._lock:
            known = sent in self._numbers
            number = self._numbers.pop(sent, None)
            if not known:
                self._early.add(sent)
        if number is not None:
            self._outbox.confirm(number)


def _split(url: str) -> tuple[SplitResult, int, Path | None]:
    """The parts of the URL, its port, and the file of its queue."""
    wrong = ConfigError(f"an MQTT sink is named {MQTT_URL}")
    try:
        parts = urlsplit(url)
        port = _PORT if parts.port is None else parts.port
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise wrong from None
    topic = parts.path.strip("/")
    if parts.scheme != "mqtt" or not parts.hostname or not port or "#" in url:
        raise wrong
    if not topic or set("+#") & set(topic):
        raise wrong
    unknown = [name for name, value in options if name != "queue" or not value]
    if unknown or len(options) > 1:
        raise wrong
    return parts, port, Path(options[0][1]) if options else None
