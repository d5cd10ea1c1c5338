"""All checks and measurements that need a GPU, in one run of under ten minutes.

    bench/gpu_run.sh FOLDER [--data DIR] [--package PACKAGE.prn] [--pycuda SDIST]

Needs torch, triton, numpy and pytest, and the C compiler with which Triton makes its launchers. The sections below run
in the order of their importance, each in a process of its own, so that one that crashes or takes too long costs only
itself; within a section, an error costs one row. FOLDER/results.json is written anew whenever there is something new,
so that a run cut short keeps what it had; FOLDER/log.txt has all that was printed.

`make gpu-kit` prepares what makes such a run quicker and more: compiled kernels, what training needs, data. It is
used where it lies, in .build/gpu-kit.

What TensorRT is there, and what it says of a package's engines, is one of the sections; its wheels are brought along
by PYTHONPATH, and pycuda as its sdist.

With `--device cpu --small` the same procedure runs on tiny shapes without a GPU. Its times mean nothing.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prn_fast.bench.gpu.network import NetworkSettings, compiled_steps, eager_steps, engine_steps, smoke_steps
from prn_fast.bench.gpu.operations import check_steps, published_steps, time_steps
from prn_fast.bench.gpu.steps import DEVICE_LOST, Row, Rows, Step, failure, run_steps
from prn_fast.bench.gpu.tests import run_tests
from prn_fast.bench.gpu.training import train_and_evaluate
from prn_fast.bench.machine.ceilings import Ceilings
from prn_fast.environment import commit
from prn_fast.files import replace_file
from prn_fast.kernels.operation import PyramidLevel, Shapes, Strip
from prn_fast.model.config import PRNConfig

FORMAT = 2
SECONDS_FOR_ALL = 560
# A section is not begun with less.
MIN_SECONDS = 15
POLL_SECONDS = 0.5
# Compute capabilities that TensorRT-RTX leaves out between its lowest and its highest.
WITHOUT_TENSORRT_RTX = ((9, 0),)
# Set by gpu_run.sh where the files are no checkout.
COMMIT_VARIABLE = "PRN_FAST_COMMIT"
# Set by gpu_run.sh: when it began, seconds as `time.time` counts them. Starting Python on a fresh machine takes some.
STARTED_VARIABLE = "PRN_FAST_STARTED"
# What is said of a section until then, whatever ends the run.
NOT_BEGUN = "not begun"
# Set by gpu_run.sh, which runs in a folder of its own: where relative paths start.
CALLED_FROM_VARIABLE = "PRN_FAST_CALLED_FROM"


@dataclass(frozen=True)
class RunPlan:
    """What is run: the real network on a GPU, or everything small to try the procedure."""

    device: torch.device
    shapes: Shapes
    config: PRNConfig
    dtypes: tuple[torch.dtype, ...]
    check_batch: int
    operation_batches: tuple[int, ...]
    batches: tuple[int, ...]
    operation_seconds: float
    network_seconds: float
    rounds: int
    training_minutes: float | None
    folder: Path = Path()
    data: Path | None = None
    package: Path | None = None
    pycuda: Path | None = None
    measured: Ceilings | None = None

    @property
    def ceilings(self) -> Ceilings:
        """Of the device, measured earlier in this run, or now. On a CPU there are none."""
        if self.device.type == "cpu":
            return Ceilings(copy=float("inf"), matrix={})
        return self.measured or Ceilings.measure(self.device.type)

    def setting(self, with_ceilings: bool = True) -> NetworkSettings:
        """Of the sections on the whole network."""
        rates = self.ceilings.matrix if with_ceilings else {}
        return NetworkSettings(self.config, self.device, self.network_seconds, self.rounds, rates)


def real_plan(device: torch.device) -> RunPlan:
    """ResNet-18 at 256x256."""
    dtypes = (torch.float16, torch.float32, torch.bfloat16)
    return RunPlan(device, Shapes(), PRNConfig(), dtypes, 3, (32, 1), (1, 32, 8, 128), 0.1, 1.0, 5, 1.5)


def small_plan(device: torch.device) -> RunPlan:
    """The smallest shapes on which every path runs."""
    scales = (PyramidLevel(4, 32, 3), PyramidLevel(8, 16, 3), PyramidLevel(16, 8, 3))
    shapes = Shapes(scales, Strip(lines=32, width=100, channels=1, side=32, overlap=8), 32)
    config = PRNConfig(backbone="efficientnet_lite0", image_size=64, prototypes=(3, 3, 3), attention_layers=1)
    return RunPlan(device, shapes, config, (torch.float32,), 2, (1,), (2,), 0.001, 0.01, 1, None)


def describe(plan: RunPlan) -> Rows:
    """Device and versions."""
    row: Row = {
        "device": "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    if plan.device.type == "cuda":
        import triton

        found = torch.cuda.get_device_properties(plan.device)
        row |= {
            "device": found.name,
            "capability": f"{found.major}.{found.minor}",
            "multiprocessors": found.multi_processor_count,
            "memory_bytes": found.total_memory,
            "l2_bytes": found.L2_cache_size,
            "triton": triton.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    # Set by gpu_run.sh where a kit is used.
    return [row | {"kit": "used" if "TRITON_CACHE_DIR" in os.environ else "none"}]


def measure_ceilings(plan: RunPlan) -> Rows:
    """The device's ceilings, which the sections after this one go by."""
    if plan.device.type == "cpu":
        return [{"skipped": "ceilings are measured on a GPU"}]
    found = Ceilings.measure(plan.device.type)
    return [{"copy_bytes_per_second": found.copy, "matrix_flop_per_second": found.matrix}]


def environment_steps(plan: RunPlan) -> Iterator[Step]:
    """Of the section on the environment."""
    yield Step({"name": "environment"}, partial(describe, plan))
    yield Step({"name": "ceilings"}, partial(measure_ceilings, plan))


def tensorrt(plan: RunPlan) -> Iterator[Row]:
    """Which flavours of TensorRT there are, and how the package's engines run in them."""
    if plan.device.type == "cuda" and torch.cuda.get_device_capability(plan.device) in WITHOUT_TENSORRT_RTX:
        yield {"skipped": "TensorRT-RTX 1.7 builds nothing for this compute capability, so that it is not tried"}
        if plan.package is None:
            return
    try:
        from prn_fast.bench.gpu.tensorrt import findings
    except ImportError as error:
        yield {"skipped": f"{error}; packages have to be brought along for this section"}
        return
    yield from findings(plan.package, plan.pycuda)


def only(name: str, run: Callable[[RunPlan], Iterable[Row]]) -> Callable[[RunPlan], Iterator[Step]]:
    """The steps of a section that has one."""
    return lambda plan: iter([Step({"name": name}, partial(run, plan))])


# Name, seconds that it may take at most, and its steps; the most important first. Published formulations run apart from
# the fused ones: an error on a GPU can cost a whole process.
SECTIONS: dict[str, tuple[int, Callable[[RunPlan], Iterator[Step]]]] = {
    # Before anything is measured.
    "smoke": (90, lambda plan: smoke_steps(plan.setting(with_ceilings=False))),
    "environment": (60, environment_steps),
    "operations": (140, lambda plan: check_steps(plan.device, plan.dtypes, plan.shapes, plan.check_batch)),
    "engine": (150, lambda plan: engine_steps(plan.setting(), plan.batches)),
    "tests": (120, only("tests", lambda plan: run_tests(plan.device))),
    "kernels": (
        60,
        lambda plan: time_steps(
            plan.device,
            plan.dtypes[0],
            plan.shapes,
            plan.operation_batches,
            plan.operation_seconds,
            plan.ceilings.copy,
        ),
    ),
    "eager": (100, lambda plan: eager_steps(plan.setting(), plan.batches)),
    "published-kernels": (
        60,
        lambda plan: published_steps(
            plan.device, plan.dtypes[0], plan.shapes, plan.operation_batches, plan.operation_seconds
        ),
    ),
    "tensorrt": (60, only("tensorrt", tensorrt)),
    "training": (
        180,
        only("training", lambda plan: train_and_evaluate(plan.device, plan.data, plan.training_minutes, plan.folder)),
    ),
    "compiled-32": (150, lambda plan: compiled_steps(plan.setting(), 32 if plan.device.type == "cuda" else 2)),
}


# What others offer: that it is refused, or slow, is a result.
BASELINES = ("eager", "published-kernels", "compiled-32")


class Results:
    """FOLDER/results.json, whole at any time."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "results.json"
        self.content: dict[str, Any] = {
            "format": FORMAT,
            "device": None,
            "small": options.small,
            "commit": os.environ.get(COMMIT_VARIABLE) or commit(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": "bench/gpu_run.sh FOLDER" + (" --small" if options.small else ""),
            "sections": {},
        }

    def put(self, section: str, **values: Any) -> None:
        """Set values of a section and write the file."""
        entry = self.content["sections"].setdefault(section, {"rows": []})
        entry |= values
        if section == "environment" and entry["rows"]:
            self.content["device"] = entry["rows"][0].get("device")
        replace_file(self.path, (json.dumps(self.content, indent=1) + "\n").encode())

    @property
    def right(self) -> bool:
        """Whether all that was run came to its end, and all that was checked is right; baselines may be refused."""
        sections = [entry for name, entry in self.content["sections"].items() if name not in BASELINES]
        return all(one["state"] in ("done", "skipped") for one in sections) and all(
            row.get("right", True) for one in sections for row in one["rows"]
        )


def run_section(name: str, seconds: float, results: Results, arguments: Sequence[str]) -> None:
    """Run one section, keeping its rows as they come, and end it when its time is over.

    It runs in a process of its own. One that ends within a step is followed by another, at the next step.
    """
    start = time.monotonic()
    before: Rows = []
    first = 0
    while True:
        with tempfile.TemporaryDirectory() as folder, (results.path.parent / "log.txt").open("a") as log:
            progress = Path(folder, "progress.json")
            print(f"== {name}" + (f", from step {first} on" if first else ""), file=log, flush=True)
            own = ["--section", name, "--first", str(first), "--progress", str(progress)]
            command = [sys.executable, "-m", "prn_fast.bench.gpu.run", *own, *arguments]
            # A session of its own, so that all that it has started ends with it.
            child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

            def keep(state: str, found: Row, earlier: Rows = before) -> None:
                taken = round(time.monotonic() - start, 1)
                results.put(name, state=state, seconds=taken, rows=[*earlier, *found["rows"]])

            try:
                while child.poll() is None and time.monotonic() - start < seconds:
                    keep("running", progress_of(progress))
                    time.sleep(POLL_SECONDS)
            finally:
                if cut := child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    # Before it is waited for: a GPU takes seconds to let go of a process, and this one may be ended.
                    keep("cut short", progress_of(progress))
                    child.wait()
            found = progress_of(progress)
        code = child.returncode
        if cut or code == 0 or found["step"] < first:
            if not cut:
                keep("done" if code == 0 else f"failed with exit code {code}; see log.txt", found)
            break
        if code != DEVICE_LOST:
            found["rows"].append(failure(found["label"], f"its process ended with exit code {code}; see log.txt"))
        before, first = [*before, *found["rows"]], found["step"] + 1
    entry = results.content["sections"][name]
    print(f"{name}: {entry['state']}, {entry['seconds']:.0f} s, {len(entry['rows'])} rows", flush=True)


def progress_of(path: Path) -> Row:
    """The last progress of a section's process: its step's number and name, and the rows so far."""
    if not path.exists():
        return {"step": -1, "label": {}, "rows": []}
    return json.loads(path.read_text(encoding="utf-8"))


def run_all(folder: Path, options: argparse.Namespace) -> int:
    """Run all sections; 0 if everything was right, 1 if something was not."""
    # Told to stop, it stops its section too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    begun = float(os.environ.get(STARTED_VARIABLE, time.time()))
    end = time.monotonic() + SECONDS_FOR_ALL - (time.time() - begun)
    results = Results(folder, options)
    for name in options.sections or SECTIONS:
        results.put(name, state=NOT_BEGUN)
    if options.device == "cpu":
        # On tiny shapes, threads of PyTorch that wait for each other take several times the work itself.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    arguments = ["--device", options.device, *(["--small"] if options.small else [])]
    for name in ("data", "package", "pycuda"):
        arguments += [f"--{name}", str(getattr(options, name))] if getattr(options, name) else []
    arguments += ["--results", str(results.path)]
    for name in options.sections or SECTIONS:
        remaining = end - time.monotonic()
        if remaining < MIN_SECONDS:
            results.put(name, state="skipped", reason="no time left")
            continue
        # A small run only tries the procedure, on whatever machine: its sections take the time that they need.
        limit = remaining if options.small else min(SECTIONS[name][0], remaining)
        run_section(name, limit, results, arguments)
    return 0 if results.right else 1


def run_here(name: str, first: int, progress: Path, plan: RunPlan) -> int:
    """Run one section's steps in this process, from a number on; a file records its progress and its rows so far."""

    def tell(step: int, label: Row, rows: Rows) -> None:
        replace_file(progress, json.dumps({"step": step, "label": label, "rows": rows}).encode())

    torch.manual_seed(0)
    # Float32 that is float32, wherever a section does not say otherwise.
    torch.backends.cudnn.allow_tf32 = False
    return run_steps(SECTIONS[name][1](plan), first, plan.device, tell)


def measured_in(results: Path | None) -> Ceilings | None:
    """The ceilings that an earlier section of a run has measured."""
    if results is None:
        return None
    environment = json.loads(results.read_text(encoding="utf-8"))["sections"].get("environment", {"rows": []})
    for row in environment["rows"]:
        if "copy_bytes_per_second" in row:
            return Ceilings(row["copy_bytes_per_second"], row["matrix_flop_per_second"])
    return None


def existing(text: str) -> Path:
    """The absolute path of an argument that must exist."""
    path = Path(os.environ.get(CALLED_FROM_VARIABLE, "."), text).resolve()
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{text}: no such file or folder")
    return path


def main() -> int:
    """Run all sections, or, as their child, one; 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="bench/gpu_run.sh", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="where results.json and log.txt are written")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny shapes, to try the procedure; needed for the CPU")
    parser.add_argument("--data", type=existing, help="images of one product, for the section on training")
    parser.add_argument("--package", type=existing, help="with TensorRT engines, for the section on TensorRT")
    parser.add_argument("--pycuda", type=existing, help="its sdist, to be built and tried with the package")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, help="only these, in this order; by default all")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--progress", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: no CUDA device; this run measures on a GPU only", file=sys.stderr)
        return 2
    if options.device == "cpu" and not options.small:
        parser.error("on the CPU only --small runs; it tries the procedure and measures nothing")
    if options.section:
        device = torch.device(options.device)
        plan = small_plan(device) if options.small else real_plan(device)
        plan = replace(
            plan,
            folder=options.results.parent,
            data=options.data,
            package=options.package,
            pycuda=options.pycuda,
            measured=measured_in(options.results),
        )
        return run_here(options.section, options.first, options.progress, plan)
    if options.folder is None:
        parser.error("the folder for the results is missing")
    return run_all(options.folder, options)


if __name__ == "__main__":
    raise SystemExit(main())
