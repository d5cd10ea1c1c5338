"""The native core: lines in, strips out, every line counted once.

Words. *Line*: one row of the web, `width` pixels; lines are numbered from 0 as they leave the camera. *Strip*: `tile`
lines over the full width; strip r starts at line r * stride, stride = tile - overlap; the last one, after `finish`, is
flush with the web's end. *Tile*: a square of a strip. Positions are those of `tile_starts` in
`prn_fast.kernels.tile_normalize`, along the web and across it.
A strip *owns* the lines that the strip before it does not hold, and answers for them in the ledger: its last `stride`
lines, the first strip all. So each line has exactly one owner. A strip that owns no received line is not delivered.

Threads. One thread pushes (a second one at the same time is an error); any thread pops, settles and drops references.
`push`, `push_missing`, `pop` and `cut` work without the GIL. Errors are `prn_fast.errors.LinescanError`.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

MissingReason = Literal[
    "gap",  # the line counter jumped
    "incomplete",  # the camera delivered a block with lost packets, or ended it early
    "failed",  # the camera reported a failed buffer
    "camera_lost",  # the camera was gone
]
DropReason = Literal[
    "queue_full",  # the oldest waiting strip gave way to new lines: counted by the ring itself
    "overload",  # skipped to keep the latency budget
    "engine_error",  # the engine failed on the strip
    "abandoned",  # released without a verdict: counted when the last reference goes
    "closed",  # still waiting when the inspection was closed
]

ABI_VERSION: int
MISSING_REASONS: tuple[str, ...]
DROP_REASONS: tuple[str, ...]
# GenICam names of what `push` takes. Bayer mosaics stay one channel: their colours are made from the strip.
PIXEL_FORMATS: tuple[str, ...]

def pixel_format_name(code: int) -> str:
    """GenICam name of a PFNC code, as cameras' libraries report it; LinescanError if it is not one of PIXEL_FORMATS."""

def row_bytes(pixel_format: str, width: int) -> int:
    """Bytes of a row of `width` pixels without padding; LinescanError for an unknown format or a width that splits a
    group of packed pixels."""

class Ledger:
    """Where every line went, at one moment.

    After `finish`, with all strips settled, lines = inspected + sum(missing) + sum(dropped), to the line.

    Attributes:
        lines: on the wire so far, received or missing.
        inspected: received, and the owning strip was inspected.
        missing: reason -> lines that never arrived.
        dropped: reason -> lines that arrived and were not inspected.
        waiting: lines - inspected - missing - dropped: in strips that are being filled, queued or held.
    """

    @property
    def lines(self) -> int: ...
    @property
    def inspected(self) -> int: ...
    @property
    def missing(self) -> dict[str, int]: ...
    @property
    def dropped(self) -> dict[str, int]: ...
    @property
    def waiting(self) -> int: ...

class Strip:
    """`tile` lines over the full width, lent by the ring.

    Its memory goes back to the ring once it is settled, or gone, and all views of it are gone, also if the ring itself
    is gone by then: a view cannot dangle, but a kept view holds a place in the queue, so copy what you keep. Views are
    taken before the strip is settled; the numbers stay.
    A strip is settled once, by `inspected` or `drop`; one that goes away unsettled counts as dropped ("abandoned").

    Attributes:
        index: r; strips that were dropped, or own no received line, leave holes in the count.
        first_line: number of its first line.
        owned: the line numbers it answers for, range(start, stop) within its lines.
        pixels: (tile, width, channels) uint8, read-only view; a missing line repeats the last line received before it.
        missing: (tile,) bool, read-only view: True where the line never arrived (or lies past the end of a short web).
        arrival_ns: monotonic clock, when its last line was pushed (the `timestamp_ns` of that push).
    """

    @property
    def index(self) -> int: ...
    @property
    def first_line(self) -> int: ...
    @property
    def owned(self) -> range: ...
    @property
    def pixels(self) -> NDArray[np.uint8]: ...
    @property
    def missing(self) -> NDArray[np.bool_]: ...
    @property
    def arrival_ns(self) -> int: ...
    def inspected(self) -> None:
        """Count the owned lines as inspected. LinescanError if the strip was settled before."""
    def drop(self, reason: DropReason) -> None:
        """Count the owned lines as dropped. LinescanError if the strip was settled before."""

class LineRing:
    """Bounded queue from the grab thread to the inspecting one: lines in, strips out; full, it drops the oldest strip.

    Args:
        width: pixels a line.
        pixel_format: GenICam name, one of PIXEL_FORMATS; everything is kept as 8 bit (the upper 8 bits).
        tile: side S of the tiles, lines and pixels; at most `width`.
        overlap: pixels, 0..S / 2.
        depth: strips that may be held at once by the reader; as many wait. Memory: (depth + 3) * S * width * channels.
    Attributes:
        channels: of the strips: 1, or 3 (RGB order, also for BGR8).
        row_bytes: bytes of one incoming row without padding.
        next_line: number of the line that comes next.
        finished: `finish` was called and no strip waits: the reader may stop.
    """

    def __init__(
        self, width: int, pixel_format: str = "Mono8", *, tile: int, overlap: int = 0, depth: int = 8
    ) -> None: ...
    @property
    def width(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def pixel_format(self) -> str: ...
    @property
    def row_bytes(self) -> int: ...
    @property
    def tile(self) -> int: ...
    @property
    def overlap(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def next_line(self) -> int: ...
    @property
    def finished(self) -> bool: ...
    def push(self, rows: NDArray[Any], first_line: int | None = None, timestamp_ns: int | None = None) -> None:
        """Copy lines in; never waits.

        Args:
            rows: an array, never converted: (lines, width) uint8 for Mono8 and Bayer; (lines, width) uint16 for Mono10,
                Mono12, Mono16; (lines, row_bytes) uint8 for packed formats; (lines, width, 3) uint8 for RGB8, BGR8.
                (lines, row_bytes) uint8, the bytes of any format, is taken too. Any pitch between rows; pixels of a row
                lie side by side.
            first_line: number of the first row. Lines skipped since the last push count as missing ("gap").
                None: follows directly.
            timestamp_ns: arrival on the monotonic clock; None: now.
        Raises:
            LinescanError: wrong dtype, shape or strides; lines that came before (a lower number); after `finish`; or
                another thread is pushing. Nothing was taken then.
        """
    def push_missing(self, lines: int, reason: MissingReason, timestamp_ns: int | None = None) -> None:
        """Count lines that never arrived; the web goes on after them."""
    def finish(self) -> None:
        """End of the web: the lines since the last full strip come out as a last strip, flush with the end."""
    def pop(self, timeout: float = 0.0) -> Strip | None:
        """The oldest waiting strip; None if none came within `timeout` seconds or the web has ended (see `finished`).

        Raises:
            LinescanError: `depth` strips are held already: let go of strips and their views first.
        """
    def ledger(self) -> Ledger:
        """A snapshot."""
    @staticmethod
    def from_capsule(capsule: Any) -> LineRing:
        """The ring of a C++ host, shared with it (`prn_ring_reference` in linescan.h)."""

class Tiler:
    """Cuts strips into tiles.

    Args:
        width: pixels of a strip.
        tile, overlap: as for the ring.
    Attributes:
        lefts: left edges of the tiles, pixels: `tile_starts(width, tile, overlap)`.
    """

    def __init__(self, width: int, *, tile: int, overlap: int = 0) -> None: ...
    @property
    def lefts(self) -> list[int]: ...
    def cut(self, pixels: NDArray[np.uint8], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Copy the tiles of a strip, one after the other, as an engine takes them.

        Args:
            pixels: (tile, width, channels) uint8; pixels of a row side by side.
            out: (len(lefts), tile, tile, channels) uint8, contiguous, written and returned; None: a new array.
        A single tile without a copy is `pixels[:, left : left + tile]`.
        """
