"""MLPerf LoadGen drives an engine: queries arrive as its scenario says, it takes the times and writes the log.

LoadGen tests one system at a time, so it cannot interleave engines within a scenario of single calls; offline and
server runs are short enough to alternate. Runs here are far shorter than a submission to MLPerf needs.
"""

import json
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prn_fast.bench.engines.output_checks import SpotChecks
from prn_fast.bench.scenarios.engine_under_test import EngineUnderTest
from prn_fast.bench.stats import MINIMUM_SAMPLES
from prn_fast.errors import ConfigError

SEED = 20231
LOGGED_PERCENTILES = {"p50": "50.00", "p90": "90.00", "p99": "99.00", "p999": "99.90"}
# LoadGen prepares and logs for a moment around its run; its clock may differ from ours by that much.
OVERHEAD_SECONDS = 0.5
CLOCK_SLACK = 0.02


@dataclass(frozen=True)
class LoadGenRun:
    """What LoadGen says of one run.

    Attributes:
        queries: how many were answered.
        samples_per_second: offline: images a second over the whole run; server: completed ones.
        latency_ms: "p50", "p90", "p99", "p999" (None with too few queries) and "max", from the scheduled arrival of a
            query to its answer.
        p99_ms: LoadGen's own, whatever the number of queries.
        faults: what was wrong with the answers or with the times.
    """

    queries: int
    samples_per_second: float
    latency_ms: dict[str, float | None]
    p99_ms: float
    faults: list[str]


def import_loadgen() -> Any:
    """The mlperf_loadgen module, or a ConfigError that names the extra to install."""
    try:
        import mlperf_loadgen
    except ImportError:
        raise ConfigError(
            "MLPerf LoadGen, which drives the offline and server scenarios, is not installed: "
            "pip install 'prn-fast[bench]'"
        ) from None
    return mlperf_loadgen


def offline(subject: EngineUnderTest, batch: int, queries: int) -> LoadGenRun:
    """All images are there at once; the engine takes them `batch` at a time."""
    loadgen = import_loadgen()
    settings = loadgen.TestSettings()
    settings.scenario = loadgen.TestScenario.Offline
    # LoadGen makes 1.1 times rate x duration samples, rounded down; with a duration of one second:
    settings.offline_expected_qps = (queries + 0.5) / 1.1
    settings.min_duration_ms = 1000
    settings.min_query_count = 1
    return _run(loadgen, settings, subject, batch, stream=True)


def server(
    subject: EngineUnderTest, batch: int, rate: float, seconds: float, queries: int, bound_ms: float
) -> LoadGenRun:
    """Queries of one image arrive at random (Poisson); the engine takes all that wait, up to `batch`, at a time."""
    loadgen = import_loadgen()
    settings = loadgen.TestSettings()
    settings.scenario = loadgen.TestScenario.Server
    settings.server_target_qps = rate
    settings.server_target_latency_ns = int(bound_ms * 1e6)
    settings.min_duration_ms = int(1000 * seconds)
    settings.min_query_count = queries
    return _run(loadgen, settings, subject, batch)


def _run(loadgen: Any, settings: Any, subject: EngineUnderTest, batch: int, stream: bool = False) -> LoadGenRun:
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.sample_index_rng_seed = settings.schedule_rng_seed = settings.qsl_rng_seed = SEED + subject.draws
    subject.draws += 1
    worker = _Worker(loadgen, subject, batch, stream)
    assert subject.library is not None
    count = len(subject.library)
    sut = loadgen.ConstructSUT(worker.issue, lambda: None)
    library = loadgen.ConstructQSL(count, count, lambda indices: None, lambda indices: None)
    with tempfile.TemporaryDirectory(prefix="prn-bench-") as folder:
        output = loadgen.LogOutputSettings()
        output.outdir = folder
        output.copy_summary_to_stdout = False
        logs = loadgen.LogSettings()
        logs.log_output = output
        logs.enable_trace = False
        start = time.monotonic()
        # Ctrl-C must not reach LoadGen's callbacks, where an exception ends the process; so LoadGen gets a thread.
        test = threading.Thread(target=loadgen.StartTestWithLogSettings, args=(sut, library, settings, logs))
        worker.start()
        test.start()
        try:
            while test.is_alive():
                test.join(0.1)
        except KeyboardInterrupt:
            worker.skip_the_rest()
            test.join()
            raise
        finally:
            worker.stop()
            loadgen.DestroyQSL(library)
            loadgen.DestroySUT(sut)
        seconds = time.monotonic() - start
        values = _logged(Path(folder) / "mlperf_log_detail.txt")
    return _result(values, worker, seconds)


def _result(values: dict[str, Any], worker: "_Worker", seconds: float) -> LoadGenRun:
    offline = "result_samples_per_second" in values
    rate = values["result_samples_per_second" if offline else "result_completed_samples_per_sec"]
    queries = worker.answered
    faults = worker.faults + worker.checks.verdict()
    counted = queries / rate if rate > 0 else 0.0
    if counted > (1 + CLOCK_SLACK) * seconds or counted < (1 - CLOCK_SLACK) * worker.busy_seconds - OVERHEAD_SECONDS:
        faults.append(
            f"the clock jumped: LoadGen counted {counted:.2f} s for a run of {seconds:.2f} s, of which the engine "
            f"worked {worker.busy_seconds:.2f} s"
        )
    logged = {name: values[f"result_{key}_percentile_latency_ns"] / 1e6 for name, key in LOGGED_PERCENTILES.items()}
    latency = {name: value if queries >= MINIMUM_SAMPLES[name] else None for name, value in logged.items()}
    latency["max"] = values["result_max_latency_ns"] / 1e6
    return LoadGenRun(queries, float(rate), latency, logged["p99"], faults)


def _logged(path: Path) -> dict[str, Any]:
    """Key and value of each line of LoadGen's log."""
    values = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(":::MLLOG "):
            entry = json.loads(line.removeprefix(":::MLLOG "))
            values[entry["key"]] = entry["value"]
    return values


class _Worker:
    """Answers queued queries in a thread of its own: a batch of those that wait at a time, or a stream of batches."""

    def __init__(self, loadgen: Any, subject: EngineUnderTest, batch: int, stream: bool) -> None:
        self._loadgen, self._subject, self._batch, self._stream = loadgen, subject, batch, stream
        self._queue: deque[tuple[int, int]] = deque()
        self._wake = threading.Condition()
        self._ended = self._skipping = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.checks: SpotChecks = subject.spot_checks()
        self.faults: list[str] = []
        self.answered = 0
        self.busy_seconds = 0.0

    def issue(self, samples: Any) -> None:
        """LoadGen's callback: queries have arrived."""
        with self._wake:
            self._queue.extend((sample.id, sample.index) for sample in samples)
            self._wake.notify()

    def start(self) -> None:
        self._thread.start()

    def skip_the_rest(self) -> None:
        """Answer everything at once and without work from here on; the run's result is void."""
        self._skipping = True

    def stop(self) -> None:
        with self._wake:
            self._ended = True
            self._wake.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._ended:
                    self._wake.wait()
                if not self._queue:
                    return
            self._answer_waiting()

    def _answer_waiting(self) -> None:
        """Answer a batch of what waits, or, as a stream, all of it."""
        start = time.monotonic()
        taken: deque[list[tuple[int, int]]] = deque()

        def batches() -> Iterator[np.ndarray]:
            while self._queue and not self._skipping:
                taken.append(self._take())
                yield np.array([index for _, index in taken[-1]])
                if not self._stream:
                    return

        try:
            if self._stream:
                for _ in self._subject.answer_many(batches(), self.checks):
                    self._complete(taken.popleft())
            else:
                for places in batches():
                    self._subject.answer(places, self.checks)
        except Exception as error:
            # Whatever a backend raises is its fault; the figures of the others must not be lost.
            self.faults.append(f"raised {type(error).__name__} at batch {self._batch}: {error}")
            self._skipping = True
        self.busy_seconds += time.monotonic() - start
        for batch in taken:
            self._complete(batch)
        if self._skipping:
            while self._queue:
                self._complete(self._take())

    def _take(self) -> list[tuple[int, int]]:
        with self._wake:
            return [self._queue.popleft() for _ in range(min(self._batch, len(self._queue)))]

    def _complete(self, taken: list[tuple[int, int]]) -> None:
        self.answered += len(taken)
        # The response's data is checked here and not by LoadGen, so it gets none.
        self._loadgen.QuerySamplesComplete([self._loadgen.QuerySampleResponse(query, 0, 0) for query, _ in taken])
