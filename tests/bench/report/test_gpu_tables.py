"""The table of GPU figures says what was recorded, and nothing else."""

import json

import pytest

from prn_fast.bench.report.gpu_tables import NOTHING, gpu_figures
from prn_fast.errors import ConfigError

RUN = {
    "format": 1,
    "device": "Test GPU",
    "small": False,
    "commit": "abc",
    "started": "2030-01-02T03:04:05+00:00",
    "command": "bench/gpu_run.sh FOLDER",
    "sections": {
        "environment": {"state": "done", "rows": [{"device": "Test GPU", "torch": "9.0", "triton": "8.0"}]},
        "engine": {
            "state": "done",
            "rows": [
                {"name": "fused fp16", "batch": 32, "p50_ms": 7.125, "p90_ms": 7.5, "p99_ms": None}
                | {"images_per_second": 4491.2, "samples": 60, "right": True},
                {"name": "eager fp16", "batch": 32, "right": False, "refused": "the output is wrong"},
                {"name": "fused fp16", "batch": 32, "kernel_shares": [{"kernel": "x", "percent": 50.0}]},
            ],
        },
        "kernels": {
            "state": "cut short",
            "rows": [
                {"op": "stitch_tiles", "shape": "256x8192", "dtype": "torch.float16", "batch": 32, "p50_ms": 0.0123}
                | {"gigabytes_per_second": 2000.4, "percent_of_copy": 66.7},
                {"op": "anomaly_score", "shape": "256x256", "dtype": "torch.float16", "batch": 32, "p50_ms": 0.5}
                | {"gigabytes_per_second": 100.0, "percent_of_copy": 3.3},
            ],
        },
        "published-kernels": {
            "state": "done",
            "rows": [
                {"op": "stitch_tiles", "shape": "256x8192", "dtype": "torch.float16", "batch": 32, "p50_ms": 0.2583},
                {"op": "anomaly_score", "shape": "256x256", "dtype": "torch.float16", "batch": 32, "refused": "no"},
            ],
        },
    },
}


def record(folder, name, **changes):
    (folder / name).mkdir()
    (folder / name / "results.json").write_text(json.dumps(RUN | changes), encoding="utf-8")


def test_without_results_it_says_so(tmp_path):
    assert gpu_figures(tmp_path) == NOTHING


def test_figures_come_from_the_file_with_their_origin(tmp_path):
    record(tmp_path, "test-gpu")
    figures = gpu_figures(tmp_path)
    assert "Test GPU, torch 9.0, triton 8.0, `bench/gpu_run.sh FOLDER`, commit abc, 2030-01-02." in figures
    assert "Not whole: kernels cut short." in figures
    # Too few samples for a p99: an empty cell.
    assert "| fused fp16 | 32 | 7.12 | 7.50 |  | 4,491 | 60 |" in figures
    assert "| eager fp16 | 32 | refused: the output is wrong |" in figures
    assert "| stitch_tiles | 256x8192 | 32 | 0.0123 | 2,000 | 67 | 21.0 |" in figures
    assert "| anomaly_score | 256x256 | 32 | 0.5000 | 100 | 3 |  |" in figures


@pytest.mark.parametrize(
    "changes", [{"small": True}, {"device": "cpu"}, {"device": None}], ids=["small", "cpu", "none"]
)
def test_runs_that_measured_nothing_are_left_out(tmp_path, changes):
    record(tmp_path, "tried", **changes)
    assert gpu_figures(tmp_path) == NOTHING


def test_a_file_that_is_no_run_is_named(tmp_path):
    (tmp_path / "some-gpu").mkdir()
    (tmp_path / "some-gpu" / "notes.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"notes\.json"):
        gpu_figures(tmp_path)
