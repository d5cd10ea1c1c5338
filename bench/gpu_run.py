"""Everything that only a GPU can tell, in one run of under ten minutes: is it all right, and how fast is it.

    bench/gpu_run.sh FOLDER [--package PACKAGE.prn] [--pycuda SDIST]

Needs torch, triton, numpy and pytest, nothing else. The sections below run in the order of their importance, each in a
process of its own, so that one that crashes or takes too long costs only itself. FOLDER/results.json is written anew
whenever there is something new, so that a run cut short keeps what it had; FOLDER/log.txt has all that was printed.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prn_fast.bench.ceilings import copy_rate, matrix_rates
from prn_fast.bench.gpu_network import Setting, check_reference, compare_formulations, compile_published
from prn_fast.bench.gpu_tests import run_tests
from prn_fast.bench.kernels import Report, Shapes, check_operations, time_operations
from prn_fast.environment import commit
from prn_fast.kernels.catalogue import Scale, Strip
from prn_fast.model.config import PRNConfig

FORMAT = 1
SECONDS_FOR_ALL = 560
# A section is not begun with less.
LEAST_SECONDS = 15
POLL_SECONDS = 0.5
# Set by gpu_run.sh where the files are no checkout.
COMMIT_VARIABLE = "PRN_FAST_COMMIT"
# Set by gpu_run.sh, which runs in a folder of its own: where relative paths start.
CALLED_FROM_VARIABLE = "PRN_FAST_CALLED_FROM"


@dataclass(frozen=True)
class Plan:
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
    package: Path | None = None
    pycuda: Path | None = None

    @property
    def setting(self) -> Setting:
        """Of the sections on the whole network."""
        return Setting(self.config, self.device, self.network_seconds, self.rounds)


def real_plan(device: torch.device) -> Plan:
    """ResNet-18 at 256x256."""
    dtypes = (torch.float16, torch.float32, torch.bfloat16)
    return Plan(device, Shapes(), PRNConfig(), dtypes, 3, (32, 1), (1, 32, 8, 128), 0.15, 1.5, 5)


def small_plan(device: torch.device) -> Plan:
    """The smallest shapes on which every path runs."""
    scales = (Scale(4, 32, 3), Scale(8, 16, 3), Scale(16, 8, 3))
    shapes = Shapes(scales, Strip(lines=32, width=100, channels=1, side=32, overlap=8), 32)
    config = PRNConfig(backbone="efficientnet_lite0", image_size=64, prototypes=(3, 3, 3), attention_layers=1)
    return Plan(device, shapes, config, (torch.float32,), 2, (1,), (2,), 0.001, 0.01, 1)


def describe(plan: Plan, report: Report) -> None:
    """Device, versions, and the device's measured ceilings."""
    row: dict[str, Any] = {
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
        report([row])
        row["copy_bytes_per_second"] = copy_rate(device="cuda")
        row["matrix_flop_per_second"] = matrix_rates(device="cuda")
    report([row])


def compiled(batch: int, plan: Plan, report: Report) -> None:
    """The section on torch.compile at one batch size."""
    compile_published(plan.setting, batch, report)


def tensorrt(plan: Plan, report: Report) -> None:
    """The section on TensorRT: which flavours there are, and how the package's engines run in them."""
    try:
        from prn_fast.bench.gpu_tensorrt import findings
    except ImportError as error:
        report([{"skipped": f"{error}; packages have to be brought along for this section"}])
        return
    rows = []
    for row in findings(plan.package, plan.pycuda):
        rows.append(row)
        report(rows)


# Name, seconds that it may take at most, and what it does; the most important first.
SECTIONS: dict[str, tuple[int, Callable[[Plan, Report], None]]] = {
    "environment": (60, describe),
    "operations": (
        140,
        lambda plan, report: check_operations(plan.device, plan.dtypes, plan.shapes, plan.check_batch, report),
    ),
    "reference": (60, lambda plan, report: check_reference(plan.setting, report)),
    "engine": (200, lambda plan, report: compare_formulations(plan.setting, plan.batches, report)),
    "kernels": (
        90,
        lambda plan, report: time_operations(
            plan.device, plan.dtypes[0], plan.shapes, plan.operation_batches, plan.operation_seconds, report
        ),
    ),
    "compiled-32": (150, partial(compiled, 32)),
    "tests": (70, lambda plan, report: run_tests(plan.device, report)),
    "tensorrt": (120, tensorrt),
    "compiled-1": (150, partial(compiled, 1)),
    "compiled-8": (150, partial(compiled, 8)),
    "compiled-128": (150, partial(compiled, 128)),
}


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
            self.content["device"] = entry["rows"][0]["device"]
        written = self.path.with_suffix(".tmp")
        written.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        written.replace(self.path)

    @property
    def right(self) -> bool:
        """Whether all that was run came to its end, and all that was checked is right."""
        sections = self.content["sections"].values()
        return all(one["state"] in ("done", "skipped") for one in sections) and all(
            row.get("right", True) for one in sections for row in one["rows"]
        )


def run_section(name: str, seconds: float, results: Results, arguments: Sequence[str]) -> None:
    """Run one section in a process of its own, keeping its rows as they come; end it when its time is over."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, (results.path.parent / "log.txt").open("a") as log:
        rows = Path(folder, "rows.json")
        print(f"== {name}", file=log, flush=True)
        command = [sys.executable, "-m", "prn_fast.bench.gpu_run", "--section", name, "--rows", str(rows), *arguments]
        # A session of its own, so that all that it has started ends with it.
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

        def keep(state: str) -> None:
            found = json.loads(rows.read_text(encoding="utf-8")) if rows.exists() else []
            results.put(name, state=state, seconds=round(time.monotonic() - start, 1), rows=found)

        try:
            while child.poll() is None and time.monotonic() - start < seconds:
                keep("running")
                time.sleep(POLL_SECONDS)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                keep("cut short")
            else:
                keep("done" if child.returncode == 0 else f"failed with exit code {child.returncode}; see log.txt")
    entry = results.content["sections"][name]
    print(f"{name}: {entry['state']}, {entry['seconds']:.0f} s, {len(entry['rows'])} rows", flush=True)


def run_all(folder: Path, options: argparse.Namespace) -> int:
    """Run all sections; 0 if everything was right, 1 if something was not."""
    # Told to stop, it stops its section too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    end = time.monotonic() + SECONDS_FOR_ALL
    results = Results(folder, options)
    arguments = ["--device", options.device, *(["--small"] if options.small else [])]
    for name in ("package", "pycuda"):
        arguments += [f"--{name}", str(getattr(options, name))] if getattr(options, name) else []
    for name in options.sections or SECTIONS:
        remaining = end - time.monotonic()
        if remaining < LEAST_SECONDS:
            results.put(name, state="skipped", reason="no time left")
            continue
        # A small run only tries the procedure, on whatever machine: its sections take the time that they need.
        limit = remaining if options.small else min(SECTIONS[name][0], remaining)
        run_section(name, limit, results, arguments)
    return 0 if results.right else 1


def run_here(name: str, rows: Path, plan: Plan) -> None:
    """Run one section in this process; its rows are written to a file after each."""

    def report(found: list[dict[str, Any]]) -> None:
        written = rows.with_suffix(".tmp")
        written.write_text(json.dumps(found), encoding="utf-8")
        written.replace(rows)

    torch.manual_seed(0)
    # Float32 that is float32, wherever a section does not say otherwise.
    torch.backends.cudnn.allow_tf32 = False
    SECTIONS[name][1](plan, report)


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
    parser.add_argument("--package", type=existing, help="with TensorRT engines, for the section on TensorRT")
    parser.add_argument("--pycuda", type=existing, help="its sdist, to be built and tried with the package")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, help="only these, in this order; by default all")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: no CUDA device; this run measures on a GPU only", file=sys.stderr)
        return 2
    if options.device == "cpu" and not options.small:
        parser.error("on the CPU only --small runs; it tries the procedure and measures nothing")
    if options.section:
        device = torch.device(options.device)
        plan = small_plan(device) if options.small else real_plan(device)
        plan = replace(plan, package=options.package, pycuda=options.pycuda)
        run_here(options.section, options.rows, plan)
        return 0
    if options.folder is None:
        parser.error("the folder for the results is missing")
    return run_all(options.folder, options)


if __name__ == "__main__":
    raise SystemExit(main())
