"""The measurement: check every engine, warm up, time in rounds, check every timed answer.

Each round gives every engine one slice of time, in a new random order, so that drift of the machine (clock,
temperature, neighbours) hits all alike. A fast engine makes many calls in its slice, a slow one a single call.

Two engines in one process have two thread pools on the same cores. After a change of engine the first call was seen
0.5 to 2 ms slower, the following ones as fast as alone. So there is a short pause before each slice, in which the
other pool's threads go to sleep, and the first call of a slice is not counted where calls are short enough for it to
matter. Waiting policies of the thread pools stay as users have them.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.bench.engines.agreement import Agreement, Exits, dependence_faults, form_faults
from prn_fast.bench.engines.answers import (
    SupportsInfer,
    answers_to,
    ask,
    copied,
    timed_ask,
)
from prn_fast.bench.engines.output_checks import KnownAnswers
from prn_fast.bench.machine.clock import MILLISECOND, Clock
from prn_fast.bench.machine.load import LoadMeter
from prn_fast.bench.settings import ClosedLoopSettings
from prn_fast.engine.base import Detections
from prn_fast.engine.parity import STRICTEST, TOLERANCES, precision_of

CHECK_BATCH = 8
MIXED_IMAGES = 400  # at 1 %, four of them have a defect
PAUSE_SECONDS = 0.01
SLICE_SECONDS = (0.1, 1.0)  # shortest and longest slice; between them, one call of the slowest engine
SETTLE_BELOW = 0.25  # calls shorter than this share of a slice: the first one of a slice is not counted
WARM_UP_SHARE = 0.25
STEADY_WITHIN = 0.05
WARM_UP_WINDOW = 3
NANOSECONDS = 1e9

# (phase, what it works on, share of the phase that is done)
Progress = Callable[[str, str, float], None]


@dataclass
class Measurement:
    """Latencies of one engine at one batch size.

    Attributes:
        rounds: milliseconds of each counted call, one list a round.
        warm_up_calls, warm_up_seconds, steady: how long until latencies stayed within 5 %, and whether they did.
        settled: the first call of each slice was not counted.
        others_share: share (0..1) of the machine that other processes used meanwhile.
    """

    engine: str
    batch: int
    rounds: list[list[float]] = field(default_factory=list)
    warm_up_calls: int = 0
    warm_up_seconds: float = 0.0
    steady: bool = False
    settled: bool = False
    others_share: float = 0.0


@dataclass
class Checked:
    """The verdict on one engine: agreement where its answers were well-formed, who leaves early where some may, and
    everything that was wrong."""

    engine: str
    precision: str
    agreement: Agreement | None = None
    faults: list[str] = field(default_factory=list)
    exits: Exits | None = None


@dataclass
class BenchResult:
    """What was measured before the time was up or the user interrupted; no measurement of an engine with faults.

    Attributes:
        known: the checked answers of each engine that has well-formed ones; later answers are compared with them.
        library: indices of the images that are timed, in their mixture.
    """

    checks: list[Checked] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    known: dict[str, KnownAnswers] = field(default_factory=dict)
    library: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    interrupted: bool = False
    seconds: float = 0.0


def run_bench(
    engines: Mapping[str, SupportsInfer],
    reference: SupportsInfer,
    images: NDArray[np.uint8],
    labels: NDArray[np.integer],
    settings: ClosedLoopSettings,
    *,
    on_progress: Progress = lambda phase, detail, share: None,
    clock: Clock = time.perf_counter_ns,
) -> BenchResult:
    """Check and time engines against a reference, interleaved.

    Args:
        engines: what to time, by name; the name states the precision ("openvino:int8").
        reference: float32 eager; may be one of `engines`.
        images: (N, S, S, C), at least two different ones.
        labels: (N,) 0 (good) or 1 (defect).
        clock: the clock that is measured with, in nanoseconds.
    Returns:
        The result; an interruption (ctrl-C) returns what there is so far.
    """
    result = BenchResult()
    bench = _Bench(engines, images, settings, result, on_progress, clock)
    try:
        bench.check(reference, labels)
        bench.measure()
    except KeyboardInterrupt:
        result.interrupted = True
    faulty = {check.engine for check in result.checks if check.faults}
    for measurement in result.measurements:
        measurement.rounds = [r for r in measurement.rounds if r]
    result.measurements = [m for m in result.measurements if m.rounds and m.engine not in faulty]
    return result


def mixture(labels: NDArray[np.integer], share: float | None, seed: int) -> NDArray[np.int64]:
    """Indices of images, of which `share` have a defect: what is timed; each image once, where `share` is None.

    At least one has a defect where `share` is above 0, and images come several times where there are too few.
    """
    if share is None:
        return np.arange(len(labels))
    rng = np.random.default_rng([seed, len(labels)])
    count = MIXED_IMAGES if 0 < share < 1 else len(labels)
    defects = min(count, max(int(share > 0), round(share * count)))
    kinds = [(np.flatnonzero(labels == 1), defects), (np.flatnonzero(labels == 0), count - defects)]
    return rng.permutation(np.concatenate([np.resize(rng.permutation(of), n) for of, n in kinds if len(of)]))


class _ImageStream:
    """Indices of the next batch: all of the library once, in random order, before any comes again."""

    def __init__(self, library: NDArray[np.int64], batch: int, rng: np.random.Generator) -> None:
        self._library, self._batch, self.rng = library, batch, rng
        self._queue = np.empty(0, dtype=np.int64)

    def next(self) -> NDArray[np.int64]:
        while len(self._queue) < self._batch:
            self._queue = np.concatenate([self._queue, self.rng.permutation(self._library)])
        indices, self._queue = self._queue[: self._batch], self._queue[self._batch :]
        return indices


class _Whole:
    """An engine whose images all run whole."""

    def __init__(self, engine: Any) -> None:
        self.infer = engine.infer_whole


class _Bench:
    def __init__(
        self,
        engines: Mapping[str, SupportsInfer],
        images: NDArray[np.uint8],
        settings: ClosedLoopSettings,
        result: BenchResult,
        on_progress: Progress,
        clock: Clock,
    ) -> None:
        self.engines, self.images, self.settings = engines, images, settings
        self.result, self.on_progress, self.clock = result, on_progress, clock

    # Checks

    def check(self, reference: SupportsInfer, labels: NDArray[np.integer]) -> None:
        """Ask the reference and every engine for answers to all images, and compare them."""
        self._library = self.result.library = mixture(labels, self.settings.defect_share, self.settings.seed)
        subjects = len(self.engines) + all(engine is not reference for engine in self.engines.values())
        batches = -(-len(self.images) // CHECK_BATCH)
        done = 0

        def on_batch() -> None:
            nonlocal done
            done += 1
            self.on_progress("check", name, done / (subjects * batches))

        name = "reference"
        self.on_progress("check", name, 0.0)
        reference_check = Checked(name, STRICTEST)
        expected = self._well_formed_answers(reference_check, reference, on_batch)
        for name, engine in self.engines.items():
            check = Checked(name, precision_of(name))
            if engine is reference:
                answers, check.faults = expected, list(reference_check.faults)
            elif expected is None:
                check.faults = [f"the float32 reference is faulty: {'; '.join(reference_check.faults)}"]
                answers = None
            else:
                answers = self._well_formed_answers(check, engine, on_batch)
            if answers is not None and expected is not None:
                self._compare(check, engine, answers, expected, labels)
                self.result.known[name] = KnownAnswers.of(self.images, answers)
            self.result.checks.append(check)

    def _compare(
        self,
        check: Checked,
        engine: SupportsInfer,
        answers: Detections,
        expected: Detections,
        labels: NDArray[np.integer],
    ) -> None:
        """Hold an engine's network against the reference's, and look for detections that early exit loses."""
        screening = getattr(engine, "screening", None)
        if screening is not None:
            check.exits = Exits.of(answers, expected, labels)
            check.faults += check.exits.faults()
            if screening.alone:  # another network than the reference's
                return
            answers = answers_to(_Whole(engine), self.images, CHECK_BATCH)
        check.agreement = Agreement.of(answers, expected, labels)
        check.faults += check.agreement.faults(TOLERANCES[check.precision])

    def _well_formed_answers(
        self, check: Checked, engine: SupportsInfer, on_batch: Callable[[], None]
    ) -> Detections | None:
        """Answers to all images, or None and the reasons in `check.faults`."""
        try:
            answers = answers_to(engine, self.images, CHECK_BATCH, on_batch)
            check.faults += form_faults(answers, len(self.images), self.images.shape[1])
            if not check.faults:
                check.faults += dependence_faults(answers)
                check.faults += self._overwriting_faults(engine)
        except Exception as error:
            # Whatever a backend raises is its fault; the figures of the others must not be lost.
            check.faults.append(f"raised {type(error).__name__}: {error}")
        return None if check.faults else answers

    def _overwriting_faults(self, engine: SupportsInfer) -> list[str]:
        """Does a call change the answer that the call before it handed out?"""
        first = engine.infer(self.images[:1])
        kept = copied(first)
        ask(engine, self.images[1:2])
        now = copied(first)
        if np.array_equal(kept.raw_scores, now.raw_scores) and np.array_equal(kept.maps, now.maps):
            return []
        return ["an answer is overwritten by the next call"]

    # Timing

    def measure(self) -> None:
        """All batch sizes, one after the other; each gets an equal part of the time that is left."""
        begin = time.monotonic()
        for position, batch in enumerate(self.settings.batches):
            left = self.settings.seconds - (time.monotonic() - begin)
            share = max(0.0, left) / (len(self.settings.batches) - position)
            try:
                self._measure_batch(batch, share, position)
            finally:
                self.result.seconds = time.monotonic() - begin
        self.on_progress("measure", "", 1.0)

    def _measure_batch(self, batch: int, seconds: float, position: int) -> None:
        begin = time.monotonic()
        rng = np.random.default_rng([self.settings.seed, batch])
        streams = {
            name: _ImageStream(self._library, batch, np.random.default_rng([self.settings.seed, batch]))
            for name in self.engines
        }

        def report(detail: str) -> None:
            within = min(1.0, (time.monotonic() - begin) / max(seconds, 1e-9))
            self.on_progress("measure", detail, (position + within) / len(self.settings.batches))

        measurements = {name: Measurement(name, batch) for name in self._sound()}
        self.result.measurements += measurements.values()
        expected_ns = {}
        for name, measurement in measurements.items():
            report(f"batch {batch}, warm-up of {name}")
            allowed = WARM_UP_SHARE * seconds / len(measurements)
            if latencies := self._warm_up(measurement, streams[name], allowed):
                expected_ns[name] = float(np.median(latencies[-WARM_UP_WINDOW:]))
        if not expected_ns:
            return

        shortest, longest = (limit * NANOSECONDS for limit in SLICE_SECONDS)
        slice_ns = min(max(shortest, max(expected_ns.values())), longest)
        for name, call_ns in expected_ns.items():
            measurements[name].settled = call_ns <= SETTLE_BELOW * slice_ns
        meter = LoadMeter()
        rounds = 0
        try:
            while sound := [name for name in expected_ns if name in self._sound()]:
                # At least one call of each engine, also where that takes longer than the time that was given.
                round_seconds = sum(max(slice_ns, expected_ns[name]) / NANOSECONDS for name in sound)
                if rounds and time.monotonic() - begin + round_seconds > seconds:
                    break
                report(f"batch {batch}, round {rounds + 1}")
                for index in rng.permutation(len(sound)):
                    name = sound[index]
                    time.sleep(PAUSE_SECONDS)
                    self._run_slice(measurements[name], streams[name], slice_ns, expected_ns[name])
                rounds += 1
        finally:
            for measurement in measurements.values():
                measurement.others_share = meter.others_share()

    def _warm_up(self, measurement: Measurement, stream: _ImageStream, seconds: float) -> list[int]:
        """Calls until the last few are as fast as the few before, or the time is up; at least two."""
        begin = time.monotonic()
        latencies: list[int] = []
        while len(latencies) < 2 or (
            not _is_steady(latencies) and time.monotonic() - begin + latencies[-1] / NANOSECONDS < seconds
        ):
            latency = self._call(measurement, stream)
            if latency is None:
                return []
            latencies.append(latency)
        measurement.warm_up_calls = len(latencies)
        measurement.warm_up_seconds = time.monotonic() - begin
        measurement.steady = _is_steady(latencies)
        return latencies

    def _run_slice(self, measurement: Measurement, stream: _ImageStream, slice_ns: float, call_ns: float) -> None:
        """Calls that fit into one slice of time, at least one that counts."""
        if measurement.settled and self._call(measurement, stream) is None:
            return
        samples: list[float] = []
        measurement.rounds.append(samples)
        begin = time.monotonic_ns()
        while not samples or time.monotonic_ns() - begin + call_ns <= slice_ns:
            latency = self._call(measurement, stream)
            if latency is None:
                return
            samples.append(latency / MILLISECOND)

    def _call(self, measurement: Measurement, stream: _ImageStream) -> int | None:
        """One timed call and the check of its answer; None, and the fault noted, if anything was wrong."""
        name = measurement.engine
        indices = stream.next()
        try:
            latency, answers = timed_ask(self.engines[name], self.images[indices], self.clock)
            faults = self.result.known[name].faults(indices, answers)
            if latency <= 0:
                faults.append(f"a call took {latency} ns: the clock does not count")
        except Exception as error:
            faults = [f"raised {type(error).__name__} at batch {measurement.batch}: {error}"]
        if faults:
            next(check for check in self.result.checks if check.engine == name).faults += faults
            return None
        return latency

    def _sound(self) -> list[str]:
        return [check.engine for check in self.result.checks if not check.faults]


def _is_steady(latencies: list[int]) -> bool:
    """Are the median of the last calls and of those before within 5 %?"""
    window = min(WARM_UP_WINDOW, len(latencies) // 2)
    if window == 0:
        return False
    last, before = np.median(latencies[-window:]), np.median(latencies[-2 * window : -window])
    return bool(abs(last / before - 1) <= STEADY_WITHIN)
