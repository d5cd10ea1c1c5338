"""Server: images arrive one by one at random times; the highest rate whose p99 latency holds a bound.

Arrivals are a Poisson process, drawn and timed by MLPerf LoadGen; latency counts from the scheduled arrival.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from prn_fast.bench.scenarios import loadgen
from prn_fast.bench.scenarios.engine_under_test import EngineUnderTest
from prn_fast.bench.scenarios.queueing import rate_within
from prn_fast.bench.scenarios.rate_search import RateSearch
from prn_fast.bench.stats import MINIMUM_SAMPLES

# Of the rate that the bound allows by calculation, with service times that never vary.
FIRST_SHARE_OF_ESTIMATE = 0.8
RUNS_IN_TIME = 8
MAX_TRIAL_CALLS = 64


@dataclass(frozen=True)
class ServerRun:
    """One run: images a second that were asked for, queries, latency, and whether p99 kept the bound."""

    rate: float
    queries: int
    latency_ms: dict[str, float | None]
    sustained: bool


@dataclass
class ServerResult:
    """What the search found.

    Attributes:
        bound_ms: of p99.
        sustained: the run at the highest rate that was sustained; None if there is none, and `reason` says why.
        confirmed: `sustained` is a run of its own after the search.
    """

    scenario: ClassVar[str] = "server"

    engine: str
    batch: int
    bound_ms: float
    runs: list[ServerRun] = field(default_factory=list)
    sustained: ServerRun | None = None
    confirmed: bool = False
    reason: str | None = None


class ServerScenario:
    """The search with one engine, a run at a time; the caller alternates it with those of others."""

    def __init__(self, subject: EngineUnderTest, batch: int, bound_ms: float, seconds: float) -> None:
        self.subject = subject
        self._batch, self._bound_ms = batch, bound_ms
        single = subject.seconds_per_call(1)
        # What the engine answers at most, with the driver's own work.
        call = subject.seconds_per_call(batch)
        trial = loadgen.offline(
            subject, batch, batch * max(1, min(MAX_TRIAL_CALLS, round(seconds / RUNS_IN_TIME / call)))
        )
        subject.faults += trial.faults
        allowed = rate_within(bound_ms / 1000, single, batch, batch / trial.samples_per_second)
        self._search = RateSearch(
            FIRST_SHARE_OF_ESTIMATE * allowed,
            seconds / RUNS_IN_TIME,
            MINIMUM_SAMPLES["p99"],
            self._run,
            most=trial.samples_per_second,
        )
        if 1000 * single > bound_ms:
            self._search.reason = f"one image alone takes {1000 * single:.0f} ms, over the bound of {bound_ms:g} ms"

    @property
    def result(self) -> ServerResult:
        """What was found so far."""
        found = self._search
        return ServerResult(
            self.subject.name, self._batch, self._bound_ms, found.runs, found.sustained, found.confirmed, found.reason
        )

    def step(self, seconds_left: float) -> bool:
        """One run; False when the search is over."""
        return not self.subject.faults and self._search.step(seconds_left)

    def _run(self, rate: float, seconds: float) -> ServerRun | None:
        run = loadgen.server(self.subject, self._batch, rate, seconds, MINIMUM_SAMPLES["p99"], self._bound_ms)
        self.subject.faults += run.faults
        if run.faults:
            return None
        return ServerRun(rate, run.queries, run.latency_ms, run.p99_ms <= self._bound_ms)
