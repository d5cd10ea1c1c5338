"""The GPU run's procedure, on the CPU with a tiny network: what it checks, refuses, keeps and needs."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prn_fast.bench import gpu_network
from prn_fast.bench.gpu_network import Contender, Subject, check_reference, compare_formulations, compile_published
from prn_fast.bench.gpu_run import small_plan
from prn_fast.bench.kernels import Draw, cases, check_operations, residual_case, time_operations, times_of
from prn_fast.kernels.traffic import Traffic

SCRIPT = Path(__file__).parents[2] / "bench" / "gpu_run.sh"
# A machine for measuring has torch, triton, numpy and pytest.
MISSING_THERE = (
    "safetensors", "cv2", "rich", "psutil", "sklearn", "scipy", "PIL", "lightning_fabric", "torchmetrics", "jinja2",
    "openvino", "onnx", "nncf",
)  # fmt: skip
PLAN = small_plan(torch.device("cpu"))


class Rows(list):
    """Keeps the last report."""

    def __call__(self, rows):
        self[:] = rows


def test_every_operation_is_checked_forward_and_backward():
    rows = Rows()
    check_operations(PLAN.device, (torch.float16,), PLAN.shapes, 2, rows)
    assert all(row["right"] for row in rows), rows
    ops = {"prototype_residual", "multi_size_attention", "multi_scale_fusion"}
    assert {row["op"] for row in rows if row["direction"] == "backward"} == ops
    forward = {row["op"] for row in rows if row["direction"] == "forward"}
    assert forward == ops | {"tile_normalize", "anomaly_score", "stitch_tiles"}


def test_no_two_prototypes_are_as_near_as_each_other():
    for scale in PLAN.shapes.scales:
        features, prototypes = residual_case(2, scale, Draw(torch.float32, PLAN.device)).arguments
        distances = (features[:, None] - prototypes).square().sum(dim=(2, 3, 4)).sort(dim=1).values
        assert (distances[:, 1] > 1.1 * distances[:, 0]).all()


@pytest.mark.parametrize("spoil", [lambda x: x * 1.02, lambda x: x * float("nan")], ids=["two-percent", "nan"])
def test_a_wrong_operation_gets_no_speed(monkeypatch, spoil):
    right = next(iter(cases(1, torch.float16, PLAN.device, PLAN.shapes)))
    wrong = replace(right, fused=lambda *arguments: spoil(right.fused(*arguments)))
    monkeypatch.setattr("prn_fast.bench.kernels.cases", lambda *_: [wrong])
    rows = Rows()
    time_operations(PLAN.device, torch.float16, PLAN.shapes, (1,), 0.001, rows)
    (row,) = rows
    assert not row["right"]
    assert "wrong" in row["refused"]
    assert "p50_ms" not in row


def test_reading_faster_than_memory_is_refused():
    case = next(iter(cases(1, torch.float32, PLAN.device, PLAN.shapes)))
    slow_memory, fast_memory = 1.0, 1e18
    assert "cold" in times_of(case, Traffic(1, 1), PLAN.device, slow_memory, 0.001)["refused"]
    found = times_of(case, Traffic(1, 1), PLAN.device, fast_memory, 0.001)
    assert found["percent_of_copy"] == pytest.approx(100 * found["gigabytes_per_second"] * 1e9 / fast_memory)


def test_every_formulation_of_the_network_is_held_against_eager():
    rows = Rows()
    check_reference(PLAN.setting, rows)
    assert rows[0]["right"]
    assert rows[0]["map_spread"] > 100 * gpu_network.ALLOWED_OF_REFERENCE
    compare_formulations(PLAN.setting, (1,), rows)
    measured = [row for row in rows if "kernel_shares" not in row]
    assert measured[0]["name"] == "fused fp16, launch by launch"
    assert sum(row["name"].startswith("eager") for row in measured) == 4
    assert all(row["right"] and row["p50_ms"] > 0 for row in measured), measured
    (shares,) = (row["kernel_shares"] for row in rows if "kernel_shares" in row)
    assert 0 < sum(one["percent"] for one in shares) <= 100.1
    compile_published(PLAN.setting, 1, rows)
    assert [row["name"].split(",")[0] for row in rows] == ["torch.compile max-autotune fp16", "fused fp16"]
    assert all(row["right"] for row in rows), rows


def test_a_wrong_network_or_one_that_is_too_fast_gets_no_speed():
    maps = torch.rand(1, 8, 8)
    subject = Subject(PLAN.setting, None, None, maps, {"fp32": 1.0}, 1.0)  # type: ignore[arg-type]

    def broken():
        raise RuntimeError("no memory\nsecond line")

    runs = {
        "too fast": lambda: (None, maps),
        "wrong": lambda: (None, maps + 0.5),
        "nan": lambda: (None, maps * float("nan")),
        "broken": broken,
    }
    rows = {
        row["name"]: row for row in subject.measure([Contender(name, "fp32", 1, run) for name, run in runs.items()])
    }
    assert not any(row["right"] or "p50_ms" in row for row in rows.values())
    assert "over the machine's measured" in rows["too fast"]["refused"]
    assert rows["wrong"]["refused"] == rows["nan"]["refused"] == "the output is wrong"
    assert rows["broken"]["refused"] == "RuntimeError: no memory"


def test_the_script_runs_where_only_torch_triton_numpy_and_pytest_are(tmp_path):
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in MISSING_THERE:
        (blocked / f"{name}.py").write_text(f"raise ImportError('no {name} here')\n", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(blocked), "PYTHON": sys.executable, "PRN_FAST_COMMIT": "abc"}
    sections = ["environment", "tests", "tensorrt"]
    command = [SCRIPT, tmp_path / "out", "--device", "cpu", "--small", "--sections", *sections]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    log = (tmp_path / "out" / "log.txt").read_text(encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr + log
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert (results["device"], results["commit"], results["small"]) == ("cpu", "abc", True)
    assert list(results["sections"]) == sections
    assert all(section["state"] == "done" for section in results["sections"].values())
    (tests,) = results["sections"]["tests"]["rows"]
    assert tests["tests"] > 0
    assert tests["failed"] == []


def test_a_section_that_takes_too_long_keeps_what_it_had(tmp_path):
    code = f"""
import argparse, pathlib, sys
from prn_fast.bench import gpu_run
results = gpu_run.Results(pathlib.Path({str(tmp_path)!r}), argparse.Namespace(small=True))
sys.executable = {str(tmp_path / "section.sh")!r}
gpu_run.run_section("operations", 3, results, [])
sys.exit(not results.right)
"""
    section = tmp_path / "section.sh"
    # Stands for a child: arguments are -m MODULE --section NAME --rows FILE.
    section.write_text("#!/bin/sh\necho '[{\"right\": true}]' > $6\nsleep 60\n", encoding="utf-8")
    section.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    kept = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["sections"]["operations"]
    assert kept["state"] == "cut short"
    assert kept["rows"] == [{"right": True}]


def test_without_a_gpu_it_says_so():
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is there")
    command = [sys.executable, "-m", "prn_fast.bench.gpu_run", "somewhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: no CUDA device; this run measures on a GPU only\n"
