"""Line numbers from what cameras count: block numbers that wrap around, or a counter of lines."""

from typing import TYPE_CHECKING

from prn_fast.linescan.sources.base import Gap

if TYPE_CHECKING:
    from prn_fast.linescan._native import MissingReason

# GigE Vision block numbers have 16 bits and leave out 0.
GIGE_VISION_IDS = 65535


class LineNumbers:
    """Places the blocks of a camera on the web: every line gets one number, and what lies between blocks is a gap.

    With a line counter, a block's first line is what the counter says. Without one, it follows from the block numbers:

        first line = line after the last block + lines of a block x (advance of the block number - 1)

    A camera that starts to count anew (after it was lost) continues behind the last line; how many lines passed
    meanwhile is estimated from the time and the line rate, since nothing counted them.

    Args:
        lines: lines of a block.
        ids: block numbers run from 1 to this and start again; None if they do not wrap.
        line_rate: lines per second; None if it is not known.
    """

    def __init__(self, lines: int, ids: int | None, line_rate: float | None) -> None:
        self._lines = lines
        self._ids = ids
        self._line_rate = line_rate
        self._last_id: int | None = None
        self._first_failed_id: int | None = None
        self._next_line: int | None = None
        self._last_ns = 0
        self._counter_shift = 0

    @property
    def next_line(self) -> int:
        """The line after the last one that was placed; 0 before the first."""
        return self._next_line or 0

    def reconnected(self) -> None:
        """The camera was lost and is back: its block numbers begin anew."""
        self._last_id = self._first_failed_id = None

    def received(self, block_id: int, now_ns: int, counter: int | None = None) -> tuple[int | None, Gap | None]:
        """A whole block arrived.

        Args:
            block_id: the camera's number of the block.
            now_ns: its arrival on the monotonic clock.
            counter: what the camera's line counter says of its first line, if it has one.
        Returns:
            Number of its first line, and the gap before it. The number is None for a block whose lines were counted
            as missing before (it arrived out of order); leave it out.
        """
        advance = self._advance(block_id)
        if advance is not None and advance <= 0:
            return None, None
        away = estimated = False
        if self._next_line is None:
            # Blocks that failed before the first whole one lie before it.
            failed = 0 if self._first_failed_id is None else self._steps(self._first_failed_id, block_id)
            first = failed * self._lines if counter is None else counter
            self._next_line = first - failed * self._lines
        elif advance is None:
            away = True
            first, estimated = self._after_absence(now_ns, counter)
        elif counter is None:
            first = self._next_line + (advance - 1) * self._lines
        else:
            first = counter + self._counter_shift
            if first < self._next_line:
                away = True
                first, estimated = self._after_absence(now_ns, counter)
        gap = None
        if first > self._next_line:
            reason: MissingReason = "camera_lost" if away else "gap"
            gap = Gap(self._next_line, first - self._next_line, reason, estimated)
        self._last_id, self._last_ns = block_id, now_ns
        self._next_line = first + self._lines
        return first, gap

    def failed(self, block_id: int, reason: "MissingReason" = "incomplete") -> Gap | None:
        """A block arrived with lines missing; returns the gap, or None where these lines are already counted.

        Before the first whole block there is no place to count from: the gap then comes with that block.
        """
        if self._next_line is None or self._last_id is None:
            if self._first_failed_id is None:
                self._first_failed_id = block_id
            return None
        advance = self._advance(block_id)
        assert advance is not None
        if advance <= 0:
            return None
        gap = Gap(self._next_line, advance * self._lines, reason)
        self._last_id = block_id
        self._next_line = gap.end_line
        return gap

    def _after_absence(self, now_ns: int, counter: int | None) -> tuple[int, bool]:
        """First line of the first block after the camera was away, and whether it had to be estimated."""
        assert self._next_line is not None
        if counter is not None and counter + self._counter_shift >= self._next_line:
            return counter + self._counter_shift, False
        away = max(0, now_ns - self._last_ns) / 1e9
        # The block itself was recorded during its own time.
        missed = max(0, round(away * self._line_rate) - self._lines) if self._line_rate else 0
        first = self._next_line + missed
        if counter is not None:
            self._counter_shift = first - counter
        return first, True

    def _advance(self, block_id: int) -> int | None:
        return None if self._last_id is None else self._steps(self._last_id, block_id)

    def _steps(self, earlier: int, later: int) -> int:
        """How many blocks later one number is; negative for one that lies less than half a round before."""
        if self._ids is None:
            return later - earlier
        return (later - earlier + self._ids // 2) % self._ids - self._ids // 2
