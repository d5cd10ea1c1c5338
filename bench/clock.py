"""The clock that is measured with, held against a second one."""

import time

from prn_fast.bench.answers import Clock

MILLISECOND = 1e6


class ClockError(Exception):
    """The measuring clock and the second clock disagree: no time measured with it means anything."""


class SteadyClock:
    """A clock that is held against a second one.

    The second clock is read before and after the first, so a pause between the readings only widens the bracket in
    which the elapsed time must lie.
    """

    # System clocks are corrected by up to 500 ppm.
    SLACK_NANOSECONDS, SLACK_SHARE = 1e5, 1e-3

    def __init__(self, clock: Clock, second: Clock) -> None:
        self.read = clock
        self._second = second

    def bracket(self) -> tuple[int, int, int]:
        """Readings of the second clock, the first, and the second again, in nanoseconds."""
        return self._second(), self.read(), self._second()

    def verify(self, start: tuple[int, int, int]) -> None:
        """A ClockError if the clocks disagree on the time since `start`."""
        end = self.bracket()
        elapsed, shortest, longest = end[1] - start[1], end[0] - start[2], end[2] - start[0]
        slack = self.SLACK_NANOSECONDS + self.SLACK_SHARE * longest
        if not shortest - slack <= elapsed <= longest + slack:
            raise ClockError(
                f"the clock jumped: it counted {elapsed / MILLISECOND:.1f} ms while a second clock counted "
                f"{longest / MILLISECOND:.1f} ms"
            )


def raw_clock() -> int:
    """The system's clock that nothing corrects, in nanoseconds."""
    if hasattr(time, "CLOCK_MONOTONIC_RAW"):
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
    return time.monotonic_ns()
