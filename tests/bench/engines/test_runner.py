"""The measurement finds engines that are wrong, and keeps what was measured."""

import dataclasses
import multiprocessing
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from prn_fast.bench.engines.runner import BenchResult, run_bench
from prn_fast.bench.report.document import build_report, conclusive
from prn_fast.bench.settings import ClosedLoopSettings
from prn_fast.engine import Detections
from tests.bench import stand_ins
from tests.bench.stand_ins import ConvolutionEngine, blob_images

SHORT = ClosedLoopSettings((1,), seconds=0.5, defect_share=None)


def bench(
    engine: ConvolutionEngine, settings: ClosedLoopSettings = SHORT, name: str = "tested", **options: object
) -> BenchResult:
    """Bench one engine beside a sound `eager`."""
    images, labels = blob_images()
    reference = ConvolutionEngine()
    return run_bench({"eager": reference, name: engine}, reference, images, labels, settings, **options)


def faults_of(result: BenchResult, name: str) -> str:
    return "; ".join(next(check.faults for check in result.checks if check.engine == name))


def measured(result: BenchResult) -> set[str]:
    return {measurement.engine for measurement in result.measurements}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(stand_ins.ZeroEngine, "do not depend on the image", id="zeros"),
        pytest.param(stand_ins.NaNEngine, "NaN", id="nan"),
        pytest.param(stand_ins.FirstAnswerEngine, "error", id="caches-first-answer"),
        pytest.param(stand_ins.LastAnswerEngine, "error", id="answers-one-call-late"),
        pytest.param(lambda: stand_ins.LazyAfterChecksEngine(6), "while timed", id="caches-after-checks"),
        pytest.param(stand_ins.EarlyEngine, "do not depend on the image", id="returns-too-early"),
        pytest.param(stand_ins.BufferEngine, "overwritten", id="overwrites-answers"),
        pytest.param(stand_ins.WrongShapeEngine, "shape", id="wrong-shape"),
        pytest.param(stand_ins.RaisingEngine, "raised RuntimeError: out of memory", id="raises"),
    ],
)
@pytest.mark.parametrize("name", ["tested:fp32", "tested:int8"])
def test_a_faulty_engine_gets_no_speed(make: Callable[[], ConvolutionEngine], reason: str, name: str) -> None:
    result = bench(make(), name=name)
    assert reason in faults_of(result, name)
    assert measured(result) == {"eager"}
    assert faults_of(result, "eager") == ""


def test_a_sound_engine_is_measured_at_every_batch() -> None:
    result = bench(ConvolutionEngine(), ClosedLoopSettings(batches=(1, 5), seconds=1.0))
    assert [(m.engine, m.batch) for m in result.measurements] == [
        ("eager", 1), ("tested", 1), ("eager", 5), ("tested", 5),
    ]  # fmt: skip
    for measurement in result.measurements:
        assert measurement.warm_up_calls >= 2
        assert all(sample > 0 for one_round in measurement.rounds for sample in one_round)
    agreement = result.checks[1].agreement
    assert agreement is not None
    parity = agreement.parity
    assert (parity.images, agreement.anomalies, parity.max_score, parity.max_map) == (12, 6, 0, 0)
    assert agreement.image_auroc == 1.0


class LeavingEngine(ConvolutionEngine):
    """Lets images leave whose largest pixel lies below a cut."""

    screening = SimpleNamespace(alone=False)

    def __init__(self, cut: float) -> None:
        super().__init__()
        self.cut = cut

    def infer(self, images: np.ndarray) -> Detections:
        found = super().infer(images)
        return dataclasses.replace(found, exited=found.maps.max(axis=(1, 2)) < self.cut)

    infer_whole = ConvolutionEngine.infer


@pytest.mark.parametrize(("cut", "good_left", "lost"), [(0.0, 0, 0), (0.5, 6, 0), (2.0, 6, 6)])
def test_a_lost_detection_costs_the_speed(cut: float, good_left: int, lost: int) -> None:
    """The planted fault: a cut that is set too high."""
    result = bench(LeavingEngine(cut), ClosedLoopSettings((1,), seconds=0.5, defect_share=0.5), name="tested/early")
    exits = result.checks[1].exits
    assert exits is not None
    assert (exits.good, exits.good_left, exits.flagged, exits.lost) == (6, good_left, 6, lost)
    assert ("tested/early" in measured(result)) == (not lost)
    assert ("6 of 6 detected defects leave early" in faults_of(result, "tested/early")) == bool(lost)


def test_engines_get_equal_numbers_of_rounds() -> None:
    result = bench(stand_ins.SlowEngine(), ClosedLoopSettings((1,), seconds=1.0))
    fast, slow = result.measurements
    assert len(fast.rounds) == len(slow.rounds) >= 1
    assert sum(map(len, fast.rounds)) > sum(map(len, slow.rounds))
    assert np.median(np.concatenate(slow.rounds)) >= 2.0


def test_a_faulty_reference_leaves_no_speed_at_all() -> None:
    images, labels = blob_images()
    reference = stand_ins.ZeroEngine()
    result = run_bench({"eager": reference, "other": ConvolutionEngine()}, reference, images, labels, SHORT)
    assert "reference is faulty" in faults_of(result, "other")
    assert measured(result) == set()


def test_a_reference_that_is_not_timed_is_still_compared_with() -> None:
    images, labels = blob_images()
    result = run_bench({"zeros": stand_ins.ZeroEngine()}, ConvolutionEngine(), images, labels, SHORT)
    assert [check.engine for check in result.checks] == ["zeros"]
    assert measured(result) == set()


def test_a_clock_that_stands_still_is_refused() -> None:
    result = bench(stand_ins.SlowEngine(), clock=lambda: 1)
    assert "clock" in faults_of(result, "tested")
    assert "tested" not in measured(result)


def test_an_interruption_keeps_what_was_measured() -> None:
    def interrupt(phase: str, detail: str, share: float) -> None:
        if "batch 3" in detail:
            raise KeyboardInterrupt

    result = bench(ConvolutionEngine(), ClosedLoopSettings(batches=(1, 3), seconds=1.0), on_progress=interrupt)
    assert result.interrupted
    assert [(m.engine, m.batch) for m in result.measurements] == [("eager", 1), ("tested", 1)]


def test_an_interruption_of_the_checks_gives_no_speed() -> None:
    def interrupt(phase: str, detail: str, share: float) -> None:
        raise KeyboardInterrupt

    result = bench(ConvolutionEngine(), on_progress=interrupt)
    assert result.interrupted
    assert result.measurements == []


def test_progress_of_each_phase_rises_to_one() -> None:
    shares: dict[str, list[float]] = {}
    bench(
        ConvolutionEngine(),
        ClosedLoopSettings(batches=(1, 2), seconds=0.5),
        on_progress=lambda phase, detail, share: shares.setdefault(phase, []).append(share),
    )
    assert list(shares) == ["check", "measure"]
    for values in shares.values():
        assert values == sorted(values)
        assert values[-1] == pytest.approx(1.0)


def spin() -> None:
    while True:
        pass


def test_a_noisy_neighbour_raises_the_warning() -> None:
    # A busy loop on one core of two, or as many as make a fifth of a larger machine.
    loops = [
        multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
        for _ in range(-(-psutil.cpu_count() // 5))
    ]
    for loop in loops:
        loop.start()
    try:
        time.sleep(1.5)  # new interpreters start
        result = bench(ConvolutionEngine(), ClosedLoopSettings((1,), seconds=1.0))
    finally:
        for loop in loops:
            loop.kill()
            loop.join()
    images, _ = blob_images()
    package = {"flop_per_image": None, "images": len(images), "anomalies": 6}
    report = build_report(result, SHORT, command="", package=package, environment={})
    assert {entry["engine"] for entry in report["results"]} == {"eager", "tested"}
    for entry in report["results"]:
        assert "other processes used" in "; ".join(entry["warnings"])
        assert not conclusive(entry)
