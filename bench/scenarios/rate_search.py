"""The highest rate that is sustained, found by runs at rates that are chosen from the outcomes before."""

import math
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

STEP = 1.3  # to the next rate while only one side is known; wider with each failure
PRECISION = 0.04  # relative distance of the highest sustained and the lowest failed rate at the end
RETREAT = 0.95  # after a confirming run that failed
CONFIRM_TIMES = 2  # a confirming run is that many times longer than a search run
NEAR_ESTIMATE = 0.97  # of the rate that a run itself says could be sustained
FIRST_RUN_TIMES = 3  # the first run of a slow engine may take that many times the time that is left


class RateRun(Protocol):
    """One run at one rate."""

    @property
    def rate(self) -> float:
        """Events a second."""

    @property
    def sustained(self) -> bool:
        """Whether the rate was sustained."""


SomeRun = TypeVar("SomeRun", bound=RateRun)


class RateSearch(Generic[SomeRun]):
    """Steps up or down until one rate is sustained and one is not, then halving between them on a logarithmic scale.

    Where runs say which rate could be sustained, the next is near that one instead. The highest sustained rate is run
    once more, for longer, and lowered until that run sustains it too.

    Args:
        first: the rate to begin with.
        run_seconds, events: a run ends after this time, or after this many events.
        run: one run at a rate for a number of seconds; None if the engine was found faulty.
        most: no higher rate is tried; a short run far over an engine's capacity could still seem to hold.
        estimate: the highest rate that could be sustained, judged by one run; None where a run says only whether it
            sustained its own.

    Attributes:
        runs: all that were made.
        sustained: the confirming run; where time ran out before it, the best run of the search under every rate that
            failed (`confirmed` is False).
        reason: why no rate was shown to be sustained.
    """

    def __init__(
        self,
        first: float,
        run_seconds: float,
        events: int,
        run: Callable[[float, float], SomeRun | None],
        most: float = math.inf,
        estimate: Callable[[SomeRun], float] | None = None,
    ) -> None:
        self.runs: list[SomeRun] = []
        self.sustained: SomeRun | None = None
        self.confirmed = False
        self.reason: str | None = None
        self._first, self._run_seconds, self._events, self._run = min(first, most), run_seconds, events, run
        self._most, self._estimate = most, estimate
        self._best: SomeRun | None = None
        self._failed = math.inf
        self._failures = 0
        self._confirm_at: float | None = None

    def step(self, seconds_left: float) -> bool:
        """One run; False when the search is over."""
        if self.reason or self.sustained:
            return False
        if self._confirm_at is None:
            rate = self._next()
            if rate is None or (self._best and self._needs(rate, 1 + CONFIRM_TIMES) > seconds_left):
                assert self._best is not None  # without one, the next rate is known
                self._confirm_at = rate = self._best.rate
        else:
            rate = self._confirm_at
        confirming = self._confirm_at is not None
        needed = self._needs(rate, CONFIRM_TIMES if confirming else 1)
        if needed > seconds_left * (1 if self.runs else FIRST_RUN_TIMES):
            self._give_up(needed)
            return False
        run = self._run(rate, needed)
        if run is None:
            return False
        self.runs.append(run)
        if confirming and run.sustained:
            self.sustained, self.confirmed = run, True
        elif confirming:
            self._failed, self._confirm_at = rate, RETREAT * rate
        elif run.sustained:
            self._best = run
        else:
            self._failed = rate
            self._failures += 1
        return True

    def _next(self) -> float | None:
        """The next rate to try; None when it is known well enough."""
        if self._estimate and self.runs:
            near = min(NEAR_ESTIMATE * self._estimate(self.runs[-1]), self._most)
            if self._best and near <= self._best.rate * (1 + PRECISION):
                return None
            if near < self._failed:
                return near
        if self._best is None:
            return self._first if math.isinf(self._failed) else self._failed / STEP**self._failures
        if math.isinf(self._failed):
            higher = min(self._best.rate * STEP, self._most)
            return higher if higher > self._best.rate * (1 + PRECISION) else None
        if self._failed / self._best.rate <= 1 + PRECISION:
            return None
        return math.sqrt(self._best.rate * self._failed)

    def _needs(self, rate: float, times: int) -> float:
        return times * max(self._run_seconds, self._events / rate)

    def _give_up(self, needed: float) -> None:
        under = [run for run in self.runs if run.sustained and run.rate < self._failed]
        self.sustained = max(under, key=lambda run: run.rate, default=None)
        if self.sustained is None:
            self.reason = f"the next run needs {needed:.3g} s and the time was up; raise --seconds"
