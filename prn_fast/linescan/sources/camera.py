"""What all cameras share: numbered lines, and coming back after the camera was lost."""

import time
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.errors import ConfigError, LinescanError
from prn_fast.linescan.sources.base import Block, Event, Gap, Source
from prn_fast.linescan.sources.line_numbers import LineNumbers

if TYPE_CHECKING:
    from prn_fast.linescan._native import MissingReason

COUNTERS = ("block", "line")
COUNTER_PIXELS = 8
_GRAB_SECONDS = 0.2
_RETRY_SECONDS = 0.5


class CameraLost(Exception):
    """The camera does not answer any more; `CameraSource.events` catches it and waits for the camera."""


@dataclass(frozen=True)
class Grabbed:
    """One buffer from a camera.

    Attributes:
        block_id: the camera's number of the block.
        rows: its lines; None for a buffer that the camera library calls incomplete or failed.
        arrival_ns: monotonic clock.
        fault: why its lines count as missing if there are no rows.
    """

    block_id: int
    rows: NDArray[Any] | None
    arrival_ns: int
    fault: "MissingReason" = "incomplete"


class CameraSource(Source):
    """A camera that delivers numbered blocks; subclasses say how to connect, start, grab and disconnect.

    A subclass connects when it is made; lines flow from the first call of `events` on.

    Args:
        ids: as for `LineNumbers`.
        counter: "block": lines are numbered by the camera's block numbers. "line": the first eight pixels of each line
            hold its number as 64-bit little-endian integer (Mono8 only); they are then replaced by their neighbours.
    """

    def __init__(
        self,
        name: str,
        width: int,
        pixel_format: str,
        lines: int,
        line_rate: float | None,
        *,
        ids: int | None,
        counter: str = "block",
    ) -> None:
        super().__init__(name, width, pixel_format, lines, line_rate)
        if counter not in COUNTERS:
            raise ConfigError(f"{name}: counter is {counter!r}; choose one of {', '.join(COUNTERS)}")
        if counter == "line" and (pixel_format != "Mono8" or width < 2 * COUNTER_PIXELS):
            raise ConfigError(
                f"{name}: a counter in each line needs pixel format Mono8 and {2 * COUNTER_PIXELS} pixels"
            )
        self._counts_lines = counter == "line"
        self._numbers = LineNumbers(lines, ids, line_rate)
        self.times_lost = 0

    @abstractmethod
    def connect(self) -> None:
        """Find and set up the camera; LinescanError where there is none."""

    @abstractmethod
    def start(self) -> None:
        """Let the lines flow; raises CameraLost."""

    @abstractmethod
    def grab(self, timeout: float) -> Grabbed | None:
        """The next buffer, None if none came in time; raises CameraLost. Its memory is lent until the next call."""

    @abstractmethod
    def disconnect(self) -> None:
        """Let go of the camera; must not fail for one that is gone, or twice."""

    def events(self) -> Iterator[Event]:
        """See `Source.events`."""
        started = False
        while not self.stopping:
            try:
                if not started:
                    self.start()
                    started = True
                grabbed = self.grab(_GRAB_SECONDS)
            except CameraLost:
                self.times_lost += 1
                self._wait_for_camera()
                started = False
                continue
            if grabbed is not None:
                yield from self._place(grabbed)

    def _place(self, grabbed: Grabbed) -> Iterator[Event]:
        """The block of a buffer with its number, and the gap before it."""
        gap: Gap | None
        first: int | None = None
        counter = None if grabbed.rows is None or not self._counts_lines else take_counter(grabbed.rows)
        if grabbed.rows is None or (self._counts_lines and counter is None):
            gap = self._numbers.failed(grabbed.block_id, grabbed.fault)
        else:
            first, gap = self._numbers.received(grabbed.block_id, grabbed.arrival_ns, counter)
        if gap is not None:
            yield gap
        if first is not None and grabbed.rows is not None:
            yield Block(grabbed.rows, first, grabbed.arrival_ns)

    def _wait_for_camera(self) -> None:
        self.disconnect()
        while not self._stopping.wait(_RETRY_SECONDS):
            try:
                self.connect()
            except LinescanError:
                continue
            self._numbers.reconnected()
            return

    def close(self) -> None:
        """See `Source.close`."""
        super().close()
        self.disconnect()


def take_counter(rows: NDArray[np.uint8]) -> int | None:
    """Read the numbers out of the lines, and put their neighbours in their place.

    Args:
        rows: (lines, width), changed.
    Returns:
        Number of the first line; None if the numbers do not follow each other.
    """
    numbers = np.ascontiguousarray(rows[:, :COUNTER_PIXELS]).view("<u8")[:, 0]
    rows[:, :COUNTER_PIXELS] = rows[:, COUNTER_PIXELS : 2 * COUNTER_PIXELS]
    first = int(numbers[0])
    if not np.array_equal(numbers - numbers[0], np.arange(len(rows), dtype=np.uint64)) or first >= 1 << 62:
        return None
    return first


def monotonic_from_epoch(epoch_ns: int) -> int:
    """A time of the system clock (nanoseconds since the epoch) on the monotonic clock."""
    return time.monotonic_ns() - max(0, time.time_ns() - epoch_ns)
