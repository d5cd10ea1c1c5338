"""The tests of the operations and of the fused engine, run by pytest on the GPU instead of in Triton's interpreter.

Loaded by pytest as a plugin, this file writes one line for each test as it ends, so that a run that is cut short keeps
what it had.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import torch

from prn_fast.bench.gpu.steps import Row
from prn_fast.errors import printable

# Read by tests/conftest.py.
DEVICE_VARIABLE = "PRN_FAST_TEST_DEVICE"
# Set by gpu_run.sh: the folder that holds `tests`.
TESTS_VARIABLE = "PRN_FAST_TESTS"
# Where the plugin writes.
OUTCOMES_VARIABLE = "PRN_FAST_TEST_OUTCOMES"
# Compile for other devices, which needs none; or need hypothesis, which a bare machine lacks.
LEFT_OUT = ("test_aot.py", "test_tile_properties.py")
ENGINE = Path("engine", "test_fused.py")
# On the CPU only one file, and a quick one, to try the procedure.
SMALL = "test_convolution_relu.py"
MAX_PROCESSES = 8
POLL_SECONDS = 0.2
# Characters of what is told of a failed test; the log has the rest.
MAX_TOLD = 400


def run_tests(device: torch.device) -> Iterator[Row]:
    """A row for each test, and one with their numbers; a single one where the tests are not at hand."""
    root = os.environ.get(TESTS_VARIABLE)
    if root is None:
        yield {"skipped": f"{TESTS_VARIABLE} is not set; run bench/gpu_run.sh"}
        return
    files = files_of_tests(Path(root, "tests"), device)
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch, "outcomes.jsonl")
        written.touch()
        command = [sys.executable, "-m", "pytest", *options_of_pytest(), *map(str, files)]
        counts: dict[str, int] = {}
        with (
            written.open(encoding="utf-8") as outcomes,
            subprocess.Popen(command, env=environment_of(device, written), cwd=root) as tests,
        ):
            while True:
                ended = tests.poll() is not None
                for row in whole_lines(outcomes):
                    counts[row["outcome"]] = counts.get(row["outcome"], 0) + 1
                    yield row
                if ended:
                    break
                time.sleep(POLL_SECONDS)
        # 1: tests failed, which their rows say.
        fault = {} if tests.returncode in (0, 1) else {"refused": f"pytest ended with {tests.returncode}; see log.txt"}
        bad = sum(counts.get(outcome, 0) for outcome in ("failed", "error"))
        yield {"tests": sum(counts.values()), **counts, **fault, "right": not fault and not bad and "passed" in counts}


def files_of_tests(folder: Path, device: torch.device) -> list[Path]:
    """What is run of the tests in a folder: on a CPU only enough to try the procedure."""
    kernels = folder / "kernels"
    if device.type == "cpu":
        return [kernels / SMALL]
    return [folder / ENGINE, *(file for file in sorted(kernels.glob("test_*.py")) if file.name not in LEFT_OUT)]


def options_of_pytest() -> list[str]:
    """Without the project's options, which name plugins that are not everywhere; in parallel where pytest-xdist is."""
    options = ["-o", "addopts=", "-p", "no:cacheprovider", "-p", __name__, "--tb=short"]
    if find_spec("xdist") is not None:
        options += ["-n", str(min(MAX_PROCESSES, os.cpu_count() or 1))]
    return [*options, "--continue-on-collection-errors"]


def environment_of(device: torch.device, outcomes: Path) -> dict[str, str]:
    """Environment variables of the tests' process."""
    environment = {**os.environ, OUTCOMES_VARIABLE: str(outcomes)}
    if device.type == "cuda":
        environment[DEVICE_VARIABLE] = "cuda"
        environment.pop("TRITON_INTERPRET", None)
        # Else cuBLAS warns of its non-deterministic workspace.
        environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    return environment


def whole_lines(file: IO[str]) -> Iterator[Row]:
    """What has been added to a file of JSON lines since the last call."""
    while True:
        start = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(start)
            return
        yield json.loads(line)


# -- the plugin -------------------------------------------------------------------------------------------------------


def pytest_runtest_logreport(report: Any) -> None:
    """Write a line for a test that has ended. Processes of pytest-xdist report to the first, which alone writes."""
    path = os.environ.get(OUTCOMES_VARIABLE)
    if path is None or "PYTEST_XDIST_WORKER" in os.environ:
        return
    # A test is its call, unless something before or after it failed, or skipped it.
    if report.when != "call" and report.outcome == "passed":
        return
    outcome = "error" if report.when != "call" and report.outcome == "failed" else report.outcome
    row: Row = {"test": report.nodeid, "outcome": outcome, "seconds": round(report.duration, 2)}
    if outcome in ("failed", "error"):
        # What was raised, and not the place, which comes last; an error of collecting has no more than a text.
        crash = getattr(report.longrepr, "reprcrash", None)
        told = crash.message if crash is not None else str(report.longrepr)
        row |= {"right": False, "refused": printable(told.strip(), MAX_TOLD)}
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
