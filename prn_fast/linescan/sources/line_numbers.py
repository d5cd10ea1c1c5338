"""Line numbers from what cameras count: block numbers that wrap around, or a counter of lines."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prn_fast.linescan.sources.base import Gap

if TYPE_CHECKING:
    from prn_fast.linescan._native import MissingReason

# GigE Vision block numbers have 16 bits and leave out 0.
GIGE_VISION_IDS = 65535
# A block may come this many numbers late; a number further back means that the camera counts anew.
_LATEST = 4096
# Most consecutive failed blocks that wait for a whole one to show where they belong.
_MAX_WAITING = 16


@dataclass(frozen=True)
class Placement:
    """Where a block that arrived lies on the web.

    Attributes:
        first_line: number of the first line that is taken.
        skipped: lines of the block before it: they were counted as missing already.
        before: gaps in front of the block.
        after: gap behind it: lines that the block lacks.
    """

    first_line: int
    skipped: int = 0
    before: tuple[Gap, ...] = ()
    after: Gap | None = None


class LineNumbers:
    """Places the blocks of a camera on the web: every line gets one number, and what lies between blocks is a gap.

    With a line counter, a block's first line is what the counter says. Without one, it follows from the block numbers:

        first line = line after the last block + lines of a block x (advance of the block number - 1)

    A block takes the place of a whole block on the web, even if it arrives with fewer lines: the lines that
    it lacks are missing ("incomplete"). With a line counter, the next block shows how many they were.

    The number of a failed block is not trusted, since hardly any of its packets may have arrived: failed blocks are
    only counted, and the next block with lines shows how many lines they were.

    A camera that starts to count anew (after it was lost) continues behind the last line; how many lines passed
    meanwhile is estimated from the time and the line rate, since nothing counted them.

    Args:
        lines: lines of a whole block.
        ids: block numbers run from 1 to this and start again; None if they do not wrap.
        line_rate: lines per second; None if it is not known.
        fault: reason under which the lines of a block without usable lines count as missing.
    """

    def __init__(
        self, lines: int, ids: int | None, line_rate: float | None, fault: "MissingReason" = "incomplete"
    ) -> None:
        self._lines = lines
        self._fault = fault
        self._ids = ids
        self._line_rate = line_rate
        self._last_id: int | None = None
        self._line_after_last = 0  # the one after the block of that number, whole or not
        self._failed_ids: set[int] = set()
        self._waiting = 0  # failed blocks without a gap yet
        self._next_line: int | None = None
        self._received_end = 0  # the line after the last one that arrived
        self._last_ns = 0
        self._counter_shift = 0

    @property
    def next_line(self) -> int:
        """The line after the last one that was placed; 0 before the first."""
        return self._next_line or 0

    def reconnected(self) -> None:
        """The camera was lost and is back: its block numbers begin anew."""
        self._last_id = None
        self._failed_ids.clear()

    def received(
        self, block_id: int, now_ns: int, counter: int | None = None, lines: int | None = None
    ) -> Placement | None:
        """A block arrived.

        Args:
            block_id: the camera's number of the block.
            now_ns: its arrival on the monotonic clock.
            counter: value of the camera's line counter for its first line, if it has one.
            lines: how many it holds, 1 to those of a whole block; None for a whole one.
        Returns:
            Its place. None for a block whose lines were all counted as missing before (it arrived out of order);
            leave it out.
        """
        lines = self._lines if lines is None else lines
        advance = self._advance(block_id)
        late = advance is not None and advance <= 0
        # A counter of lines is more reliable than block numbers that stand still.
        if late and (counter is None or counter + self._counter_shift < self._received_end):
            return None
        failed = self._waiting * self._lines
        away = estimated = False
        if self._next_line is None:
            # Blocks that failed before the first one that arrives lie before it.
            first = failed if counter is None else counter
            self._next_line = max(0, first - failed)
        elif counter is not None and self._received_end <= counter + self._counter_shift:
            first = counter + self._counter_shift
            away = advance is None
        elif counter is None and advance is not None:
            first = self._line_after_last + (advance - 1) * self._lines
        else:
            away = estimated = True
            first = self._next_line + self._lines_missed(now_ns, lines)
            if counter is not None:
                self._counter_shift = first - counter
        self._last_id, self._last_ns = (self._last_id if late else block_id), now_ns
        self._line_after_last = first + self._lines
        self._waiting = 0
        self._failed_ids.clear()
        # Failed blocks that were reported counted as whole ones; only now does it show if they were shorter, or fewer.
        skipped = max(0, self._next_line - first)
        if skipped >= lines:
            return None
        if away:
            before = [_gap(self._next_line, first, "camera_lost", estimated)]
        else:
            middle = min(first, self._next_line + failed)
            before = [_gap(self._next_line, middle, self._fault), _gap(middle, first, "gap")]
        self._received_end = self._next_line = first + lines
        after = None
        if counter is None and lines < self._lines:
            after = _gap(self._next_line, self._line_after_last, "incomplete")
            self._next_line = self._line_after_last
        return Placement(first + skipped, skipped, tuple(one for one in before if one is not None), after)

    def failed(self, block_id: int) -> Gap | None:
        """A block arrived without usable lines.

        Returns:
            The gap of the failed blocks that wait, once they are so many that a block with lines may not come soon.
            Mostly None: the gap comes with that block.
        """
        late = self._last_id is not None and -_LATEST <= self._steps(self._last_id, block_id) <= 0
        if late or block_id in self._failed_ids:
            return None
        if len(self._failed_ids) == _LATEST:
            self._failed_ids.clear()
        self._failed_ids.add(block_id)
        self._waiting += 1
        # Before the first block with lines there is no place to count from.
        return self.end() if self._next_line is not None and self._waiting == _MAX_WAITING else None

    def end(self) -> Gap | None:
        """The gap of the failed blocks that no block with lines has followed, each counted as a whole one."""
        gap = _gap(self.next_line, self.next_line + self._waiting * self._lines, self._fault)
        if gap is not None:
            self._next_line = gap.end_line
        self._waiting = 0
        return gap

    def _lines_missed(self, now_ns: int, lines: int) -> int:
        """How many lines passed since the last block, from the time; 0 if the line rate is not known."""
        if not self._line_rate:
            return 0
        away = max(0, now_ns - self._last_ns) / 1e9
        # The block itself was recorded during its own time.
        return max(0, round(away * self._line_rate) - lines)

    def _advance(self, block_id: int) -> int | None:
        """How many blocks later than the last one; None if the camera counts anew."""
        if self._last_id is None:
            return None
        advance = self._steps(self._last_id, block_id)
        if advance < -_LATEST:
            self.reconnected()
            return None
        return advance

    def _steps(self, earlier: int, later: int) -> int:
        """How many blocks later one number is; negative for one up to half a round before."""
        if self._ids is None:
            return later - earlier
        return (later - earlier + self._ids // 2) % self._ids - self._ids // 2


def _gap(first_line: int, end_line: int, reason: "MissingReason", estimated: bool = False) -> Gap | None:
    return Gap(first_line, end_line - first_line, reason, estimated) if end_line > first_line else None
