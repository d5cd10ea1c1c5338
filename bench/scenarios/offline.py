"""Offline: how many images a second, when all of them are there at once. Driven by MLPerf LoadGen."""

from dataclasses import dataclass, field
from typing import ClassVar

from prn_fast.bench.scenarios import loadgen
from prn_fast.bench.scenarios.engine_under_test import EngineUnderTest

ROUND_SECONDS = 1.0
MAX_QUERIES = 8192  # answers are kept until they are checked


@dataclass
class OfflineResult:
    """Images a second of each run of LoadGen; `batch` images go to the engine at a time."""

    scenario: ClassVar[str] = "offline"

    engine: str
    batch: int
    rates: list[float] = field(default_factory=list)
    queries: int = 0


class OfflineScenario:
    """Short runs of one engine; the caller alternates them with those of others."""

    def __init__(self, subject: EngineUnderTest, batch: int) -> None:
        self.subject = subject
        self.result = OfflineResult(subject.name, batch)
        call = subject.seconds_per_call(batch)
        # Whole batches, so that no run ends with a smaller one.
        self._queries = batch * max(1, round(min(ROUND_SECONDS / call, MAX_QUERIES / batch)))
        self.run_seconds = self._queries / batch * call

    def step(self, seconds_left: float) -> bool:
        """One run; False if there is no time for it."""
        if self.result.rates and self.run_seconds > seconds_left:
            return False
        run = loadgen.offline(self.subject, self.result.batch, self._queries)
        self.subject.faults += run.faults
        self.result.rates.append(run.samples_per_second)
        self.result.queries += run.queries
        return not run.faults
