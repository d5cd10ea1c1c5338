"""What is known about the machine: ceilings, load, environment, memory."""

import multiprocessing
import time
from pathlib import Path

import pytest

from prn_fast.bench.engines.memory import measure_memory, peak_rss_bytes
from prn_fast.bench.machine import ceilings
from prn_fast.bench.machine.ceilings import (
    ceiling_fault,
    ceiling_of,
    flop_per_image,
    matrix_rates,
    screen_flop_per_image,
)
from prn_fast.bench.machine.environment import describe_environment
from prn_fast.bench.machine.load import LoadMeter
from prn_fast.model.config import preset
from prn_fast.package import Package
from tests.small_package import small_config, write_package

RATES = {"fp32": 200e9, "bf16": 1000e9, "fp16": 100e9}


def test_operations_of_the_published_network_are_those_that_were_counted() -> None:
    # As published 76.9 GFLOP; the optimized formulation leaves out what the fusion computes after upsampling.
    assert flop_per_image(preset("r18")) / 1e9 == pytest.approx(75.5, abs=0.5)


def test_operations_do_not_depend_on_grey_or_colour() -> None:
    assert flop_per_image(small_config(channels=1)) == flop_per_image(small_config(channels=3)) > 0


def test_a_screen_asks_for_less_than_the_network(tmp_path: Path) -> None:
    package = write_package(tmp_path / "small.prn", screen=True)
    assert 0 < screen_flop_per_image(package) < flop_per_image(package.config)


@pytest.mark.parametrize(("precision", "ceiling"), [("fp32", 200e9), ("bf16", 1000e9), ("fp16", 200e9), ("int8", None)])
def test_an_engine_may_use_wider_arithmetic(precision: str, ceiling: float | None) -> None:
    assert ceiling_of(precision, RATES) == ceiling


def test_a_rate_over_the_ceiling_is_refused() -> None:
    assert ceiling_fault("fp32", 190e9, RATES) is None
    assert "300 GFLOP/s is over the machine's measured 200 GFLOP/s in fp32" in str(ceiling_fault("fp32", 300e9, RATES))
    assert ceiling_fault("int8", 9e12, RATES) is None


def test_the_ceiling_of_int8_counts_the_convolutions_of_quantised_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    # On processors without VNNI, torch multiplies matrices of integers one number at a time.
    assert ceilings._int8_convolution_rate(0.01) > 0
    monkeypatch.setattr(ceilings, "_int8_convolution_rate", lambda seconds: 1e21)
    assert matrix_rates(seconds=0.01)["int8"] == 1e21


def test_matrix_rates_are_positive() -> None:
    rates = matrix_rates(seconds=0.01)
    assert {"fp32", "bf16", "fp16"} <= set(rates)
    assert min(rates.values()) > 1e8


def spin() -> None:
    while True:
        pass


def test_a_neighbour_shows_in_the_load() -> None:
    neighbour = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    neighbour.start()
    try:
        while not neighbour.is_alive():
            time.sleep(0.01)
        time.sleep(1.0)  # the new interpreter starts
        meter = LoadMeter()
        time.sleep(1.0)
        share = meter.others_share()
    finally:
        neighbour.kill()
        neighbour.join()
    # A core of its own would be 1 / cores; half of that leaves room for a machine that is busy otherwise.
    import psutil

    assert share >= 0.5 / psutil.cpu_count()


def test_own_work_is_no_load_of_others() -> None:
    meter = LoadMeter()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        pass
    assert 0.0 <= meter.others_share() <= 1.0


def test_the_environment_names_machine_and_versions() -> None:
    environment = describe_environment()
    assert environment["machine"]["usable_cores"] >= 1
    assert environment["machine"]["memory_bytes"] > 1e8
    assert {"prn-fast", "torch", "numpy"} <= set(environment["libraries"])


@pytest.mark.long
def test_memory_of_a_fresh_process_does_not_hold_that_of_this_one(package: Package) -> None:
    ballast = bytearray(800_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    assert peak_rss_bytes() > len(ballast)
    measured = measure_memory(package.path, "eager", 2)
    assert 5e7 < measured["baseline_rss_bytes"] < measured["peak_rss_bytes"] < len(ballast)


def test_memory_of_an_engine_that_is_not_there_is_an_error_line(package: Package) -> None:
    assert "holds no engine" in measure_memory(package.path, "openvino:fp32", 1)["error"]
