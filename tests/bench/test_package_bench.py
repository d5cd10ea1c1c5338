"""Choice of images, and refusal of speeds that cannot be."""

import numpy as np
import pytest

from prn_fast.bench.engines.runner import run_bench
from prn_fast.bench.package_bench import bench_package, choose_images, refuse_impossible
from prn_fast.bench.scenarios import ScenarioRun
from prn_fast.bench.scenarios.offline import OfflineResult
from prn_fast.bench.settings import ClosedLoopSettings
from prn_fast.errors import ConfigError, EngineError
from prn_fast.package import Package
from tests.bench.stand_ins import ConvolutionEngine, blob_images


@pytest.mark.parametrize(
    ("good", "bad", "count", "anomalies"),
    [(50, 50, 20, 10), (50, 3, 20, 3), (3, 50, 20, 17), (5, 4, 64, 4), (6, 0, 4, 0)],
    ids=["balanced", "few-anomalies", "few-good", "fewer-than-asked", "no-anomalies"],
)
def test_half_of_the_images_are_anomalous_where_possible(good: int, bad: int, count: int, anomalies: int) -> None:
    labels = np.array([0] * good + [1] * bad)
    chosen = choose_images(labels, count, seed=0)
    assert len(chosen) == len(set(chosen.tolist())) == min(count, good + bad)
    assert labels[chosen].sum() == anomalies


def test_a_speed_over_the_ceiling_is_taken_away() -> None:
    images, labels = blob_images()
    reference = ConvolutionEngine()
    result = run_bench({"eager": reference}, reference, images, labels, ClosedLoopSettings((1,), seconds=0.3))
    assert [m.engine for m in result.measurements] == ["eager"]
    refuse_impossible(result, ScenarioRun(), flop=1e6, rates={"fp32": 1e15})
    assert len(result.measurements) == 1
    refuse_impossible(result, ScenarioRun(), flop=1e12, rates={"fp32": 1e9})
    assert result.measurements == []
    assert "over the machine's measured" in result.checks[0].faults[0]


def test_an_engine_with_early_exit_does_no_more_than_the_screens_work_for_each_image() -> None:
    images, labels = blob_images()
    reference = ConvolutionEngine()
    name = "eager/screen"
    result = run_bench({name: reference}, reference, images, labels, ClosedLoopSettings((1,), seconds=0.3))
    refuse_impossible(result, ScenarioRun(), flop=1e12, rates={"fp32": 1e9}, screen_flop=1e3)
    assert [m.engine for m in result.measurements] == [name]
    refuse_impossible(result, ScenarioRun(), flop=1e12, rates={"fp32": 1e9}, screen_flop=1e12)
    assert result.measurements == []


def test_a_scenario_over_the_ceiling_is_taken_away() -> None:
    images, labels = blob_images()
    reference = ConvolutionEngine()
    result = run_bench({"eager": reference}, reference, images, labels, ClosedLoopSettings((1,), seconds=0.3))
    run = ScenarioRun([OfflineResult("eager", 8, [1e9], 8)])
    refuse_impossible(result, run, flop=1e6, rates={"fp32": 1e14})
    assert run.results == []
    assert result.checks[0].faults[0].startswith("offline: 1000000 GFLOP/s is over the machine's measured")


def test_a_named_engine_must_open_and_an_unnamed_one_may_be_missing(package: Package) -> None:
    with pytest.raises(EngineError, match="holds no engine openvino:fp32"):
        bench_package(package.path, ["eager", "openvino:fp32"], ClosedLoopSettings((1,), seconds=0.1))
    with pytest.raises(EngineError, match="unknown backend"):
        bench_package(package.path, ["warp"], ClosedLoopSettings((1,), seconds=0.1))


def test_one_image_is_not_enough(package: Package) -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        bench_package(package.path, check_images=1)
