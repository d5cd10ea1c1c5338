"""The base class of sinks, and the form of their records."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prn_fast.drift import Drift
from prn_fast.errors import ConfigError
from prn_fast.linescan.defects import Defect
from prn_fast.linescan.snapshot import Snapshot
from prn_fast.linescan.sources.base import Gap


class Sink:
    """Told what an inspection finds, all from one thread of its own; a subclass takes what concerns it.

    An error that it raises ends the inspection; the other sinks are notified.
    """

    @property
    def name(self) -> str:
        """For people: what it is and where it writes to."""
        return type(self).__name__

    @property
    def lost(self) -> int:
        """Messages that it accepted and could not deliver; callable from any thread."""
        return 0

    @property
    def waiting(self) -> int:
        """Messages that it accepted and has yet to deliver; callable from any thread."""
        return 0

    def start(self, source: str) -> None:
        """The inspection of a source begins; a LinescanError if the sink cannot take anything.

        `finish` is called once for each sink that started, and for no other.
        """

    def defect(self, defect: Defect) -> None:
        """A defect ended."""

    def gap(self, gap: Gap) -> None:
        """Lines are missing."""

    def drift(self, drift: Drift) -> None:
        """The state of drift: at the start (learning), and whenever it changes."""

    def flush(self) -> None:
        """No more defects or gaps follow: deliver what still waits, within seconds, so that `lost` is final."""

    def finish(self, snapshot: Snapshot) -> None:
        """The inspection ended; `snapshot.error` says why it stopped, if it did."""


def utc_now() -> str:
    """UTC time to the millisecond, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def as_record(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """The record of one event, as JSON lines and MQTT carry it."""
    return {"type": kind, "time": utc_now(), **values}


def made_folder(folder: Path) -> Path:
    """The folder, made if needed; a ConfigError if that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made ({error.strerror}); choose another folder") from None
    return folder
