"""The GPU run's procedure, on the CPU with a tiny network: what it checks, refuses, keeps and needs."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch

from prn_fast.bench.gpu import network, run
from prn_fast.bench.gpu.network import (
    Contender,
    NetworkUnderTest,
    compiled_steps,
    eager_steps,
    engine_steps,
    smoke_steps,
)
from prn_fast.bench.gpu.operations import cases, check_steps, published_steps, time_steps, times_of
from prn_fast.bench.gpu.run import SECTIONS, Results, run_section, small_plan
from prn_fast.bench.gpu.steps import DEVICE_LOST, Step, is_device_lost, run_steps
from prn_fast.bench.gpu.tests import OUTCOMES_VARIABLE, files_of_tests, pytest_runtest_logreport
from prn_fast.bench.machine.timing import ColdCache
from prn_fast.engine import cuda_graph
from prn_fast.engine.cuda_graph import RecordedCall
from prn_fast.kernels import FUSED, REFERENCE
from prn_fast.kernels.operation import Draw
from prn_fast.kernels.prototype_residual.operation import case as residual_case
from prn_fast.model.engine_graph import EngineGraph
from prn_fast.model.prn import PRN
from tests import needs

SCRIPT = Path(__file__).parents[3] / "bench" / "gpu_run.sh"
# A machine for measuring has torch, triton, numpy and pytest.
MISSING_THERE = (
    "safetensors", "cv2", "rich", "psutil", "sklearn", "scipy", "PIL", "lightning_fabric", "jinja2",
    "openvino", "onnx", "nncf",
)  # fmt: skip
PLAN = small_plan(torch.device("cpu"))


def rows_of(steps):
    """The rows that a section's steps come to."""
    rows = []
    assert run_steps(steps, 0, PLAN.device, lambda number, label, found: rows.__setitem__(slice(None), found)) == 0
    return rows


def test_every_operation_is_checked_forward_and_backward():
    rows = rows_of(check_steps(PLAN.device, (torch.float16,), PLAN.shapes, 2))
    assert all(row["right"] for row in rows), rows
    ops = {"prototype_residual", "multi_size_attention", "multi_scale_fusion"}
    assert {row["op"] for row in rows if row["direction"] == "backward"} == ops
    forward = {row["op"] for row in rows if row["direction"] == "forward"}
    assert forward == ops | {
        "normalize_images",
        "convolution_relu",
        "logit_head",
        "anomaly_score",
        "learned_score",
        "stitch_tiles",
    }


def test_no_two_prototypes_are_as_near_as_each_other():
    for scale in PLAN.shapes.scales:
        features, prototypes = residual_case(2, scale, Draw(torch.float32, PLAN.device)).arguments
        distances = (features[:, None] - prototypes).square().sum(dim=(2, 3, 4)).sort(dim=1).values
        assert (distances[:, 1] > 1.1 * distances[:, 0]).all()


@pytest.mark.parametrize("spoil", [lambda x: x * 1.02, lambda x: x * float("nan")], ids=["two-percent", "nan"])
def test_a_wrong_operation_gets_no_speed(monkeypatch, spoil):
    right = next(iter(cases(1, torch.float16, PLAN.device, PLAN.shapes)))
    wrong = replace(right, fused=lambda *arguments: spoil(right.fused(*arguments)))
    monkeypatch.setattr("prn_fast.bench.gpu.operations.cases", lambda *_: [wrong])
    (row,) = rows_of(time_steps(PLAN.device, torch.float16, PLAN.shapes, (1,), 0.001, 1e18))
    assert not row["right"]
    assert "wrong" in row["refused"]
    assert "p50_ms" not in row


def test_reading_faster_than_memory_is_refused():
    case = next(iter(cases(1, torch.float32, PLAN.device, PLAN.shapes)))
    slow_memory, fast_memory = 1.0, 1e18
    assert "cold" in times_of(case, PLAN.device, slow_memory, 0.001)["refused"]
    found = times_of(case, PLAN.device, fast_memory, 0.001)
    assert found["percent_of_copy"] == pytest.approx(100 * found["gigabytes_per_second"] * 1e9 / fast_memory)


def test_the_published_formulation_is_timed_apart_and_attention_last():
    rows = rows_of(published_steps(PLAN.device, torch.float32, PLAN.shapes, (1,), 0.001))
    fused = rows_of(time_steps(PLAN.device, torch.float32, PLAN.shapes, (1,), 0.001, float("inf")))
    assert all(row["p50_ms"] > 0 and row["launch_by_launch_ms"] > 0 for row in [*rows, *fused])
    assert {(row["op"], row["shape"]) for row in rows} == {(row["op"], row["shape"]) for row in fused}
    attention = [row["op"] == "multi_size_attention" for row in rows]
    assert any(attention)
    assert attention == sorted(attention)


@pytest.mark.long
def test_every_formulation_of_the_network_is_held_against_eager():
    setting = PLAN.setting()
    exact, *measured = rows_of(engine_steps(setting, (1,)))
    assert exact["right"]
    assert exact["map_spread"] > 100 * network.ALLOWED_OF_REFERENCE
    fused, shares = measured
    assert fused["name"] == "fused fp16, launch by launch"
    assert 0 < sum(one["percent"] for one in shares["kernel_shares"]) <= 100.1
    eager = rows_of(eager_steps(setting, (1,)))
    assert len(eager) == 4
    compiled = rows_of(compiled_steps(setting, 1))
    assert [row["name"] for row in compiled] == ["torch.compile max-autotune fp16"]
    for row in (fused, *eager, *compiled):
        assert row["right"], row
        assert row["p50_ms"] > 0


def test_the_first_section_runs_the_network_forward_and_backward(monkeypatch):
    before, after = Counter({"Triton, after it": 1}), Counter({"Triton, after it": 1, "Triton, within it": 3})
    counts = iter([before, after])
    monkeypatch.setattr(network.choice, "trials", lambda: next(counts))
    forward, backward = rows_of(smoke_steps(PLAN.setting()))
    # What was chosen for this network, and nothing of what was not asked.
    assert forward["convolutions"] == {"Triton, within it": 3}
    assert "cudnn_epilogues" not in forward
    assert forward["name"].startswith("fused fp16")
    assert forward["right"], forward
    assert backward["right"], backward
    assert next(iter(SECTIONS)) == "smoke"
    assert list(SECTIONS)[-1] == "compiled-32"


def test_a_wrong_network_or_one_that_is_too_fast_gets_no_speed():
    maps = torch.rand(1, 8, 8)
    setting = replace(PLAN.setting(), rates={"fp32": 1.0})
    subject = NetworkUnderTest(setting, None, None, maps, 1.0)  # type: ignore[arg-type]

    class CompilationError(Exception):
        """Like Triton's, which is no RuntimeError."""

    def broken():
        raise CompilationError("no memory\nsecond line")

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
    assert rows["broken"]["refused"] == "CompilationError: no memory"


def test_the_run_imports_nothing_that_is_missing_there():
    blocked = f"sys.modules.update(dict.fromkeys({MISSING_THERE!r}))"
    command = f"import sys; {blocked}; import prn_fast.bench.gpu.run, prn_fast.engine.fused"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_its_tests_import_nothing_that_is_missing_there():
    root = Path(__file__).parents[3]
    files = files_of_tests(root / "tests", torch.device("cuda"))
    names = [".".join(file.relative_to(root).with_suffix("").parts) for file in files]
    assert "tests.engine.test_fused" in names
    assert "tests.kernels.test_anomaly_score" in names
    # The compiled part is missing there, too.
    blocked = f"sys.modules.update(dict.fromkeys({(*MISSING_THERE, 'prn_fast.linescan._native')!r}))"
    code = f"import sys, importlib; {blocked}; [importlib.import_module(name) for name in {names!r}]"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def run_script(folder, *sections):
    """Rows by section of a small run where only torch, triton, numpy and pytest are."""
    blocked = folder / "blocked"
    blocked.mkdir()
    for name in MISSING_THERE:
        (blocked / f"{name}.py").write_text(f"raise ImportError('no {name} here')\n", encoding="utf-8")
    # Not as part of the run of tests that this is.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    # Relative paths start where it is called; it runs in a folder of its own.
    environment |= {"PYTHONPATH": str(blocked), "PYTHON": os.path.relpath(sys.executable, folder)}
    environment |= {"PRN_FAST_GPU_KIT": "none", "PRN_FAST_COMMIT": "abc"}
    command = [SCRIPT, "out", "--device", "cpu", "--small", "--sections", *sections]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    logs = "".join(log.read_text(encoding="utf-8") for log in (folder / "out").glob("log.txt"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    results = json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))
    assert (results["commit"], results["small"]) == ("abc", True)
    assert list(results["sections"]) == list(sections)
    assert all(section["state"] == "done" for section in results["sections"].values())
    return {name: section["rows"] for name, section in results["sections"].items()}


# Those that are left run in one more test, below.
WITHOUT_NETWORK = ("environment", "tests", "tensorrt", "training")


@pytest.mark.long
def test_the_script_runs_where_only_torch_triton_numpy_and_pytest_are(tmp_path):
    rows = run_script(tmp_path, *WITHOUT_NETWORK)
    described, ceilings = rows["environment"]
    assert described["device"] == "cpu"
    assert "on a GPU" in ceilings["skipped"]
    *each, total = rows["tests"]
    assert total["passed"] == total["tests"] == len(each) > 0
    assert all(row["outcome"] == "passed" and "test_convolution_relu.py::" in row["test"] for row in each)
    assert "there are no images" in rows["training"][0]["skipped"]


@pytest.mark.long
def test_the_script_goes_through_all_other_sections(tmp_path):
    sections = [name for name in SECTIONS if name not in WITHOUT_NETWORK]
    for name, rows in run_script(tmp_path, *sections).items():
        assert rows, name
        assert all(row.get("right", True) for row in rows), rows


def steps_with_errors():
    def broken():
        yield {"name": "half", "right": True}
        raise ValueError("no luck\nsecond line")

    def sound():
        return [{"name": "sound", "right": True}]

    return [Step({"name": "broken"}, broken), Step({"name": "sound"}, sound)]


def test_an_error_costs_one_row():
    assert rows_of(steps_with_errors()) == [
        {"name": "half", "right": True},
        {"name": "broken", "right": False, "refused": "ValueError: no luck"},
        {"name": "sound", "right": True},
    ]


def test_a_process_that_has_lost_its_device_ends(monkeypatch):
    told = []
    monkeypatch.setattr("prn_fast.bench.gpu.steps.is_device_lost", lambda device: True)
    code = run_steps(steps_with_errors(), 0, PLAN.device, lambda *progress: told.append(progress))
    assert code == DEVICE_LOST
    number, label, rows = told[-1]
    assert (number, label) == (0, {"name": "broken"})
    assert rows[-1]["refused"] == "ValueError: no luck"


@pytest.fixture
def failing_capture(monkeypatch):
    """CUDA streams and graphs that are none, where `torch.cuda.graph` fails as PyTorch's does: it leaves its stream."""
    current = ["the caller's"]

    class OnStream:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            self.before, current[0] = current[0], self.stream

        def __exit__(self, *raised):
            current[0] = self.before

    class Capture:
        def __init__(self, graph, pool, stream, capture_error_mode):
            self.stream = stream

        def __enter__(self):
            current[0] = self.stream

        def __exit__(self, *raised):
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "stream", OnStream)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(cuda_graph, "_failed", False)
    return current


def test_a_capture_that_fails_ends_the_process_and_leaves_the_callers_stream(monkeypatch, failing_capture):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    device = torch.device("cuda")
    assert not is_device_lost(device)
    with pytest.raises(RuntimeError, match="during capture"):
        RecordedCall(lambda: None, stream=mock.Mock())
    # What went wrong first is told.
    with pytest.raises(ZeroDivisionError):
        RecordedCall(lambda: 1 / 0, stream=mock.Mock(), warm_up=0)
    assert failing_capture == ["the caller's"]
    assert is_device_lost(device)
    assert not is_device_lost(PLAN.device)


def test_what_a_failed_test_raised_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv(OUTCOMES_VARIABLE, str(tmp_path / "outcomes.jsonl"))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    crash = mock.Mock(reprcrash=mock.Mock(message="RuntimeError: Triton Error\n  out of resources"))
    for told in (crash, "ImportError: no module\n"):
        pytest_runtest_logreport(mock.Mock(when="call", outcome="failed", nodeid="a", duration=1.0, longrepr=told))
    first, second = (json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines())
    assert first["refused"] == "RuntimeError: Triton Error out of resources"
    assert second["refused"] == "ImportError: no module"


def test_what_all_is_compared_with_needs_no_convolution_of_half_a_million_groups(monkeypatch):
    def refused(*arguments):
        raise RuntimeError("cuDNN has no such convolution")

    monkeypatch.setattr("prn_fast.kernels.multi_size_attention.reference.project", refused)
    forward, backward = rows_of(smoke_steps(PLAN.setting()))
    assert forward["right"], forward
    assert backward["right"], backward


def run_children(tmp_path, monkeypatch, script, seconds=30):
    """Run a section whose processes are a shell script with the variables `first` and `progress`."""
    child = tmp_path / "section.sh"
    # Its arguments are -m MODULE --section NAME --first N --progress FILE.
    child.write_text(f"#!/bin/sh\nfirst=$6 progress=$8\n{script}\n", encoding="utf-8")
    child.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(child))
    results = Results(tmp_path, argparse.Namespace(small=True))
    run_section("operations", seconds, results, [])
    return json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["sections"]["operations"], results.right


def test_a_section_that_takes_too_long_keeps_what_it_had(tmp_path, monkeypatch):
    script = """echo '{"step": 1, "label": {}, "rows": [{"right": true}]}' > $progress; sleep 60"""
    kept, right = run_children(tmp_path, monkeypatch, script, seconds=3)
    assert kept["state"] == "cut short"
    assert kept["rows"] == [{"right": True}]
    assert not right


def test_a_run_that_is_ended_while_a_section_is_cut_keeps_what_it_had(tmp_path, monkeypatch):
    def ended(process):
        raise SystemExit(1)

    script = """echo '{"step": 1, "label": {}, "rows": [{"right": true}]}' > $progress; sleep 60"""
    monkeypatch.setenv(run.COMMIT_VARIABLE, "abc")  # else git is asked, and waited for
    monkeypatch.setattr(subprocess.Popen, "wait", ended)
    with pytest.raises(SystemExit):
        run_children(tmp_path, monkeypatch, script, seconds=3)
    kept = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["sections"]["operations"]
    assert (kept["state"], kept["rows"]) == ("cut short", [{"right": True}])


def test_sections_that_a_run_does_not_come_to_are_told_and_time_counts_from_the_scripts_start(tmp_path, monkeypatch):
    begun = []

    def section(name, seconds, results, arguments):
        begun.append((name, seconds))
        if len(begun) == 2:
            raise SystemExit(1)
        results.put(name, state="done", rows=[])

    monkeypatch.setattr(run, "run_section", section)
    monkeypatch.setattr(run.signal, "signal", lambda *_: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(run.STARTED_VARIABLE, str(time.time() - 100))
    names = ["environment", "tests", "tensorrt"]
    options = argparse.Namespace(small=True, device="cpu", sections=names, data=None, package=None, pycuda=None)
    with pytest.raises(SystemExit):
        run.run_all(tmp_path, options)
    sections = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["sections"]
    assert [sections[name]["state"] for name in names] == ["done", "not begun", "not begun"]
    assert begun[0][1] == pytest.approx(run.SECONDS_FOR_ALL - 100, abs=5)


@pytest.mark.parametrize(("code", "rows"), [(DEVICE_LOST, []), (139, ["its process ended with exit code 139"])])
def test_a_process_that_ends_within_a_step_is_followed_by_one_at_the_next(tmp_path, monkeypatch, code, rows):
    script = f"""
if [ $first = 0 ]; then
  echo '{{"step": 4, "label": {{"name": "fifth"}}, "rows": [{{"name": "before"}}]}}' > $progress; exit {code}
fi
echo '{{"step": 9, "label": {{}}, "rows": [{{"name": "from '$first' on"}}]}}' > $progress"""
    kept, right = run_children(tmp_path, monkeypatch, script)
    assert kept["state"] == "done"
    first, *lost, last = kept["rows"]
    assert (first["name"], last["name"]) == ("before", "from 5 on")
    assert [row["refused"].split(";")[0] for row in lost] == rows
    assert right == (not rows)


def test_a_process_that_begins_no_step_is_not_started_again(tmp_path, monkeypatch):
    kept, right = run_children(tmp_path, monkeypatch, "exit 1")
    assert kept["state"].startswith("failed with exit code 1")
    assert not right


def test_baselines_may_be_refused(tmp_path):
    results = Results(tmp_path, argparse.Namespace(small=False))
    results.put("eager", state="done", rows=[{"right": False, "refused": "no such convolution"}])
    results.put("compiled-32", state="cut short", rows=[])
    assert results.right
    results.put("engine", state="done", rows=[{"right": False, "refused": "the output is wrong"}])
    assert not results.right


def test_ceilings_are_measured_once_and_passed_on(tmp_path, monkeypatch):
    results = Results(tmp_path, argparse.Namespace(small=False))
    assert run.measured_in(results.path if results.path.exists() else None) is None
    rows = [{"device": "a GPU"}, {"copy_bytes_per_second": 2e12, "matrix_flop_per_second": {"fp16": 8e14}}]
    results.put("environment", state="done", rows=rows)
    monkeypatch.setattr(run.Ceilings, "measure", lambda *_: pytest.fail("measured again"))
    plan = replace(PLAN, device=torch.device("cuda"), measured=run.measured_in(results.path))
    assert plan.ceilings.copy == 2e12
    assert plan.setting().rates == {"fp16": 8e14}


def test_the_cache_is_emptied_by_reading_after_writing():
    class Calls(torch.utils._python_dispatch.TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.made = []

        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            self.made.append((function.overloadpacket, arguments[0].data_ptr(), arguments[0].nbytes))
            return function(*arguments, **(options or {}))

    cache = ColdCache(PLAN.device, 4096)
    with Calls() as calls:
        cache.empty()
    (wrote, written, _), (read, source, size) = calls.made
    assert (wrote, read) == (torch.ops.aten.zero_, torch.ops.aten.sum)
    assert written != source
    assert size == 4096


class WaitsForTheHost(torch.utils._python_dispatch.TorchDispatchMode):
    """Sees what no CUDA graph can hold: constants made on the host (`torch.tensor`), and values that it reads."""

    FORBIDDEN = (torch.ops.aten.lift_fresh, torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function.overloadpacket in self.FORBIDDEN:
            self.seen.append(function.name())
        return function(*arguments, **(options or {}))


def waits_for_the_host(run):
    with WaitsForTheHost() as found, torch.no_grad():
        run()
    return found.seen


def test_what_is_timed_from_a_graph_can_be_recorded_in_one():
    assert waits_for_the_host(lambda: torch.tensor([1.0])) == ["aten::lift_fresh"]
    assert waits_for_the_host(lambda: torch.ones(1).item()) == ["aten::_local_scalar_dense"]
    for case in cases(1, torch.float32, PLAN.device, PLAN.shapes):
        assert not waits_for_the_host(lambda case=case: case.published(*case.arguments)), (case.op, case.shape)
    images = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    published, fused = PRN(PLAN.config, REFERENCE).eval(), EngineGraph(PRN(PLAN.config, FUSED).eval(), FUSED)
    assert not waits_for_the_host(lambda: published.detect(images))
    assert not waits_for_the_host(lambda: fused(images))


def test_what_cannot_be_on_a_machine_is_not_tried(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    (row,) = run.tensorrt(replace(PLAN, device=torch.device("cuda")))
    assert row["skipped"].startswith("TensorRT-RTX 1.7 builds nothing for this compute capability")


@needs.no_gpu
def test_without_a_gpu_it_says_so():
    command = [sys.executable, "-m", "prn_fast.bench.gpu.run", "somewhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: no CUDA device; this run measures on a GPU only\n"
