"""Every kernel compiles for every compute capability without a GPU, within its limits."""

import json
import os
import subprocess
import sys

import pytest

from prn_fast.kernels.tiles import CAPABILITIES

# The kernels of one scale; the others differ only in constants.
KERNELS = {"distance", "residual", "logits", "softmax", "mixing", "project_upsample_add"}
MOST_REGISTERS = 255


def resources(*arguments: str) -> list[dict]:
    """The table of `python -m prn_fast.kernels`; another process, since this one has the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "prn_fast.kernels", "--json", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("capability", "dtypes"),
    [
        pytest.param(f"{major}.{minor}", dtypes, id=f"{major}.{minor}-{'-'.join(dtypes)}")
        for major, minor in CAPABILITIES
        for dtypes in [["float16", "float32"] if (major, minor) < (8, 0) else ["float16", "bfloat16", "float32"]]
    ],
)
def test_every_kernel_compiles_within_the_limits_of_a_capability(capability, dtypes):
    rows = resources("--capability", capability, "--dtype", *dtypes)
    assert {(row["kernel"], row["dtype"]) for row in rows} == {(k, dtype) for k in KERNELS for dtype in dtypes}
    for row in rows:
        assert row["spills"] == 0, row
        assert row["registers"] <= MOST_REGISTERS, row
        assert row["shared_memory"] <= row["shared_memory_limit"], row
        assert row["global_scratch"] == 0, row
