"""Simulated lines against what can be worked out by hand, and tables against the report that they rest on."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from prn_fast.bench.plant.__main__ import main
from prn_fast.bench.plant.figures import archive_figures, plant_figures, plant_table, remote_figures, service_times
from prn_fast.bench.plant.simulation import Run, Server, ServiceTimes, lines_held, simulate
from prn_fast.bench.report.document import write_json
from prn_fast.errors import ConfigError
from tests.bench.reports import make_report

STEADY = ServiceTimes.of({1: [0.010], 4: [0.016]})


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_one_line_that_is_slower_than_the_engine_never_waits() -> None:
    run = simulate(1, 0.1, 1, Server(overhead=0.002), STEADY, rng(), seconds=10)
    np.testing.assert_allclose(run.latencies, 0.012)
    assert len(run.latencies) == 100
    assert run.refused == 0
    assert run.busy == pytest.approx(0.1, abs=0.002)


def test_times_between_measured_sizes_lie_between() -> None:
    assert [STEADY.draw(size, 0.5) for size in (1, 2, 4, 8)] == pytest.approx([0.010, 0.012, 0.016, 0.032])
    spread = ServiceTimes.of({1: [0.03, 0.01, 0.02]})
    assert [spread.draw(1, share) for share in (0, 0.5, 0.999)] == [0.01, 0.02, 0.03]


def test_every_request_is_answered_or_refused_once() -> None:
    for lines in (1, 7, 64):
        run = simulate(lines, 0.05, 1, Server(batch=4, queue=3), STEADY, rng(lines), seconds=5)
        assert len(run.latencies) + run.refused == lines * 100
        assert run.latencies.min() >= 0.010 - 1e-9
    assert run.refused > 0


def test_beyond_its_capacity_the_queue_bounds_the_wait_and_refuses_the_rest() -> None:
    """Four images take 16 ms: 250 a second. At 1000 a second three quarters are refused."""
    run = simulate(50, 0.05, 1, Server(batch=4, queue=8), STEADY, rng(), seconds=20)
    assert run.refused / (run.refused + len(run.latencies)) == pytest.approx(0.75, abs=0.02)
    # Eight wait, in two batches, behind the one under way.
    assert run.latencies.max() <= 3 * 0.016 + 1e-9
    assert run.busy == pytest.approx(1, abs=0.01)
    assert run.p99 == math.inf


def test_holding_back_makes_fuller_batches_and_longer_waits() -> None:
    at_once = simulate(20, 0.2, 1, Server(batch=4), STEADY, rng(), seconds=20)
    held = simulate(20, 0.2, 1, Server(batch=4, delay=0.03), STEADY, rng(), seconds=20)
    assert held.busy < at_once.busy
    assert np.median(held.latencies) > np.median(at_once.latencies)
    # A lone request is held back for the whole delay.
    alone = simulate(1, 1.0, 1, Server(batch=4, delay=0.03), STEADY, rng(), seconds=5)
    np.testing.assert_allclose(alone.latencies, 0.040)


def test_lines_are_held_up_to_what_the_engine_can_do() -> None:
    """One image in 10 ms, each line ten a second: ten lines fill the engine, and waits have no end beyond."""
    held, runs = lines_held(0.100, 64, 0.1, 1, Server(batch=1, queue=1000), STEADY, draws=3)
    assert held == 10
    assert max(run.p99 for run in runs) <= 0.100
    assert lines_held(0.009, 64, 0.1, 1, Server(), STEADY, draws=2) == (0, [])


def test_p99_counts_what_was_refused() -> None:
    answered = np.full(99, 0.01)
    assert Run(answered, 0, 0.5).p99 == 0.01
    assert Run(answered, 2, 0.5).p99 == math.inf
    assert Run(np.array([]), 0, 0.0).p99 == math.inf


def test_a_table_tells_what_it_rests_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = make_report()
    name, times = service_times(report)
    calls = [
        call
        for result in report["results"]
        if result["engine"] == name
        for part in result["rounds_ms"]
        for call in part
    ]
    assert sum(map(len, times.samples)) == len(calls)
    write_json(report, tmp_path / "report.json")
    assert main([str(tmp_path / "report.json"), "--rate", "1", "--bound-ms", "1000", "--lines", "4"]) == 0
    printed = capsys.readouterr().out
    assert f"`{name}`**, simulated from measured service times" in printed
    assert "| 1 | " in printed
    assert plant_table(report, Server(), rates=[1], bounds_ms=[1000], most=4) in printed


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["none.json"], "none.json"),
        (["--engine", "warp"], "warp"),
        (["--images", "9"], "a request of 9 images"),
        (["--delay-ms", "inf"], "delay inf"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert named in error
    assert error.count("\n") == 1


def test_a_measured_server_is_a_table(tmp_path: Path) -> None:
    way = {
        "images_per_second": 40.0,
        "latency_ms": {"p50": 800.0, "p99": None},
        "ratio": 0.95,
        "ratio_interval": (0.9, 1.0),
        "verdicts_differ": 0,
    }
    run = {"package": "tiles", "engine": "openvino:int8", "images": 96, "batch": 32, "rounds": 3, "ways": {"sent": way}}
    text = remote_figures(json.loads(json.dumps(run)))
    assert "| sent | 40.0 | 0.95 (0.90 to 1.00) | 800 | – | 0 |" in text
    assert plant_figures(tmp_path) == ""


def test_a_measured_archive_is_a_table() -> None:
    run = {"package": "tiles", "engine": "openvino:int8", "images": 20_000, "broken": 17, "killed_after": 6750}
    run |= {"actors": 2, "one_thread": {"images_per_second": 20.0}, "ray": {"images_per_second": 38.0}, "ratio": 1.9}
    text = archive_figures(run)
    assert "20,000 images, 17 of them broken; the run on Ray was killed after 6,750" in text
    assert "| Ray, 2 actors | 38.0 | 1.90 |" in text


def test_a_server_that_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="queue 0"):
        Server(queue=0)
