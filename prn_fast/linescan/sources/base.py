"""The base class of sources: blocks of lines in the order of the web, and the gaps between them."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from numpy.typing import NDArray

from prn_fast.errors import ConfigError
from prn_fast.linescan.sources.options import MAX_PIXELS, check_options

if TYPE_CHECKING:
    from prn_fast.linescan._native import MissingReason


# Longest single sleep of `wait_until`: the system's clock cannot wait for any length of time.
_WAIT_SECONDS = 3600.0


@dataclass(frozen=True)
class Block:
    """Lines that arrived.

    Attributes:
        rows: (lines, ...) in the source's pixel format, as `LineRing.push` takes them; a view of the source's memory,
            valid until the next event is asked for.
        first_line: number of the first line, from the camera's counter.
        arrival_ns: when it arrived, monotonic clock; where the source knows its schedule, when it was due.
    """

    rows: NDArray[Any]
    first_line: int
    arrival_ns: int

    @property
    def end_line(self) -> int:
        """One past the number of the last line."""
        return self.first_line + len(self.rows)


@dataclass(frozen=True)
class Gap:
    """Lines that went over the wire, or past the camera, and did not arrive.

    Attributes:
        first_line: number of the first missing line.
        lines: how many, at least 1.
        reason: as the ledger names it.
        estimated: the camera did not count them; their number comes from the time that passed.
    """

    first_line: int
    lines: int
    reason: "MissingReason"
    estimated: bool = False

    @property
    def end_line(self) -> int:
        """One past the number of the last missing line."""
        return self.first_line + self.lines


Event = Block | Gap


class Source(ABC):
    """Delivers lines; one subclass for each kind of camera.

    Events follow each other without a hole or an overlap: each begins where the one before it ended.

    Attributes:
        name: for people.
        width: pixels in a line.
        pixel_format: of the rows, GenICam name.
        lines: most lines in one block.
        line_rate: lines per second that the source was told to deliver; None where it does not know.
        live: lines come whether or not anyone keeps up; sources that are not live wait for their reader, and have no
            gaps.
        notes: what its user should know before it starts, one line each.
    """

    live = True
    notes: tuple[str, ...] = ()

    def __init__(self, name: str, width: int, pixel_format: str, lines: int, line_rate: float | None = None) -> None:
        check_options(name, width=width, lines=lines, line_rate=line_rate)
        if width < 1 or width * lines > MAX_PIXELS:
            raise ConfigError(
                f"{name}: blocks of {lines} lines of {width} pixels cannot be; give 1 to {MAX_PIXELS:,} pixels in all"
            )
        self.name = name
        self.width = width
        self.pixel_format = pixel_format
        self.lines = lines
        self.line_rate = line_rate
        self._stopping = threading.Event()

    @abstractmethod
    def events(self) -> Iterator[Event]:
        """Blocks and gaps until the source ends or `stop` is called."""

    def wait_until(self, due_ns: int) -> bool:
        """Sleep until a moment of the monotonic clock; False if `stop` was called meanwhile."""
        while (left := due_ns - time.monotonic_ns()) > 0:
            if self._stopping.wait(min(left / 1e9, _WAIT_SECONDS)):
                return False
        return not self.stopping

    def stop(self) -> None:
        """Ask `events` to end within about a second, even if nothing arrives; may be called from any thread."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def close(self) -> None:
        """Release the camera; `events` must have ended."""
        self.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
