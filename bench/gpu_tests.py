"""The tests of the operations and of the fused engine, run by pytest on the GPU instead of in Triton's interpreter."""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import torch

from prn_fast.bench.kernels import Report

# Read by tests/kernels/conftest.py.
DEVICE_VARIABLE = "PRN_FAST_TEST_DEVICE"
# Set by gpu_run.sh: the folder that holds `tests`.
TESTS_VARIABLE = "PRN_FAST_TESTS"
# Compile for other devices, which needs none; or need hypothesis, which a bare machine lacks.
LEFT_OUT = ("test_aot.py", "test_tile_properties.py")
ENGINE = Path("engine", "test_fused.py")
# On the CPU only one file, to try the procedure.
SMALL = "test_prototype_residual.py"


def run_tests(device: torch.device, report: Report) -> None:
    """One row with the numbers of tests, and what failed; none where the tests are not at hand."""
    root = os.environ.get(TESTS_VARIABLE)
    if root is None:
        report([{"skipped": f"{TESTS_VARIABLE} is not set; run bench/gpu_run.sh"}])
        return
    folder = Path(root, "tests")
    kernels = folder / "kernels"
    files = [kernels / SMALL] if device.type == "cpu" else [folder / ENGINE, *sorted(kernels.glob("test_*.py"))]
    environment = dict(os.environ)
    if device.type == "cuda":
        environment[DEVICE_VARIABLE] = "cuda"
        environment.pop("TRITON_INTERPRET", None)
        # Else cuBLAS warns of its non-deterministic workspace.
        environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    with tempfile.TemporaryDirectory() as scratch:
        outcome = Path(scratch, "outcome.xml")
        chosen = [str(file) for file in files if file.name not in LEFT_OUT]
        # Without the project's options, which name plugins that are not everywhere.
        settings = [
            "-o",
            "addopts=",
            "-p",
            "no:cacheprovider",
            "--tb=short",
            "--continue-on-collection-errors",
            f"--junitxml={outcome}",
        ]
        subprocess.run([sys.executable, "-m", "pytest", *settings, *chosen], env=environment, cwd=root, check=False)
        if not outcome.exists():
            report([{"right": False, "refused": "pytest wrote no report; see log.txt"}])
            return
        suites = list(ElementTree.parse(outcome).getroot().iter("testsuite"))
    counts = {name: sum(int(s.get(name, 0)) for s in suites) for name in ("tests", "failures", "errors", "skipped")}
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for suite in suites
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    report([{**counts, "failed": failed, "right": counts["tests"] > 0 and not failed}])
