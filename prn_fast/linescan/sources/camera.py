"""What all cameras share: numbered lines, and reconnecting to a lost camera."""

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.errors import ConfigError, LinescanError
from prn_fast.linescan.core import row_bytes
from prn_fast.linescan.sources.base import Block, Event, Source
from prn_fast.linescan.sources.line_numbers import LineNumbers
from prn_fast.linescan.sources.options import RANGES, check_options

if TYPE_CHECKING:
    from prn_fast.linescan._native import MissingReason

COUNTER_PIXELS = 8
# Names of pixel formats in cameras that are older than GenICam's naming convention; the bytes are the same.
_OLD_NAMES = {"RGB8": "RGB8Packed", "BGR8": "BGR8Packed"}
# Most consecutive blocks that may come late or twice.
_MAX_LATE = 1024
_GRAB_SECONDS = 0.2
_RETRY_SECONDS = 0.5


class CameraLost(Exception):
    """The camera no longer answers; `CameraSource.events` catches this and waits for the camera."""


@dataclass(frozen=True)
class Grabbed:
    """One buffer from a camera.

    Attributes:
        block_id: the camera's number of the block.
        rows: its lines, those that arrived (`CameraSource.rows_in`); None for a buffer that the camera library calls
            incomplete or failed.
        arrival_ns: monotonic clock.
    """

    block_id: int
    rows: NDArray[Any] | None
    arrival_ns: int


class CameraSource(Source):
    """A camera that delivers numbered blocks; subclasses say how to connect, start, grab and disconnect.

    A subclass checks its options (`check`), connects when it is made, and then calls this class' `__init__`; lines flow
    from the first call of `events` on.

    Args:
        ids: as for `LineNumbers`.
        counter: "block": lines are numbered by the camera's block numbers. "line": the first eight pixels of each line
            hold its number as 64-bit little-endian integer (Mono8 only); they are then replaced by their neighbours.

    Attributes:
        fault: reason under which the lines of a block without usable lines count as missing.
    """

    fault: "MissingReason" = "incomplete"

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
        # What a camera reports may be no rate, such as with an encoder.
        known = line_rate is not None and line_rate > 0 and RANGES["line_rate"].holds(line_rate)
        try:
            super().__init__(name, width, pixel_format, lines, line_rate if known else None)
            self.check(name, pixel_format, counter, width)
        except ConfigError:
            self.disconnect()
            raise
        self._row_bytes = row_bytes(pixel_format, width)
        self._counts_lines = counter == "line"
        self._numbers = LineNumbers(lines, ids, self.line_rate, self.fault)
        self._late = 0
        self.times_lost = 0

    @staticmethod
    def check(name: str, pixel_format: str, counter: str, width: int, **others: object) -> None:
        """Check options that all cameras share, and others as `check_options`; a ConfigError names what is wrong.

        Args:
            name: of the source, for the message.
            width: 0 where the camera's own is not known yet.
        """
        check_options(name, pixel_format=pixel_format, counter=counter, width=width, **others)
        try:
            row_bytes(pixel_format, width)
        except LinescanError as error:
            raise ConfigError(f"{name}: {error}") from None
        if counter == "line" and (pixel_format != "Mono8" or 0 < width < 2 * COUNTER_PIXELS):
            raise ConfigError(
                f"{name}: a counter in each line needs pixel format Mono8 and {2 * COUNTER_PIXELS} pixels"
            )

    def check_size(self, wanted: tuple[int, int], accepted: tuple[int, int]) -> None:
        """A LinescanError if the camera silently set another (width, lines) than it was given."""
        width, lines = (want or take for want, take in zip(wanted, accepted, strict=True))
        if (width, lines) != accepted:
            raise LinescanError(
                f"{self.name}: the camera takes a width of {accepted[0]} and blocks of {accepted[1]} lines, "
                f"not {width} and {lines}; give what it takes"
            )

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
        """Release the camera; must not fail if the camera is gone or already released."""

    def rows_in(
        self, memory: NDArray[np.uint8], height: int | None, width: int | None = None, padding: int = 0
    ) -> NDArray[np.uint8]:
        """The lines that a buffer holds; the memory behind them is left over from earlier blocks.

        Args:
            memory: one-dimensional, the bytes that were received; longer where the library does not count them.
            height: lines of the block as the camera or its library says; None if they do not.
            width: likewise, pixels in a line.
            padding: bytes between a line and the next.
        Returns:
            (lines, bytes of a line), a view of the memory.
        Raises:
            LinescanError: the block is wider or longer than the camera was set to deliver, or of another width.
        """
        height = self.lines if height is None else height
        if height > self.lines or width not in (None, self.width):
            raise LinescanError(
                f"{self.name}: the camera delivers {height} lines of {width or self.width} pixels now, not "
                f"{self.lines} of {self.width}; were its settings changed? Open it again"
            )
        pitch = self._row_bytes + padding
        # The last line need not be padded.
        height = max(0, min(height, (memory.size + padding) // pitch))
        shape, strides = (height, self._row_bytes), (pitch, 1)
        return np.lib.stride_tricks.as_strided(memory, shape, strides, writeable=memory.flags.writeable)

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
        gap = self._numbers.end()
        if gap is not None:
            yield gap

    def _place(self, grabbed: Grabbed) -> Iterator[Event]:
        """The block of a buffer with its number, and the gaps around it."""
        rows = grabbed.rows
        counter = None
        if rows is not None and len(rows) and self._counts_lines:
            counter = take_counter(rows)
        if rows is None or not len(rows) or (self._counts_lines and counter is None):
            gap = self._numbers.failed(grabbed.block_id)
            if gap is not None:
                yield gap
            return
        placed = self._numbers.received(grabbed.block_id, grabbed.arrival_ns, counter, len(rows))
        if placed is None:
            self._late += 1
            if self._late > _MAX_LATE:
                raise LinescanError(
                    f"{self.name}: block numbers do not go on: {_MAX_LATE} blocks came with numbers up to "
                    f"{grabbed.block_id} that came before; if the camera does not number blocks, use counter=line"
                )
            return
        self._late = 0
        yield from placed.before
        yield Block(rows[placed.skipped :], placed.first_line, grabbed.arrival_ns)
        if placed.after is not None:
            yield placed.after

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


def name_in_camera(pixel_format: str, available: Sequence[str]) -> str:
    """The name by which a camera knows a pixel format, of those that it offers; the name itself where it has none."""
    old = _OLD_NAMES.get(pixel_format, pixel_format)
    return old if pixel_format not in available and old in available else pixel_format


def take_counter(rows: NDArray[np.uint8]) -> int | None:
    """Read the numbers in the lines, and replace them by the neighbouring pixels.

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
