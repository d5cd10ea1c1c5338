"""Every kernel compiles for every compute capability without a GPU, within its limits, with both supported Tritons."""

import importlib.metadata
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from prn_fast.kernels.catalogue import KERNELS_OF_OP, TRAINING_KERNELS_OF_OP
from prn_fast.kernels.convolution_relu.choice import CUDNN, TRITON
from prn_fast.kernels.operation import SCALES
from prn_fast.kernels.resources import MAX_REGISTERS, Row
from prn_fast.kernels.tiles import CAPABILITIES

OLDER_TRITON = "3.6.0"
OLDER_FOLDER = Path(__file__).parents[2] / ".build" / "triton-3.6"
# Together every tile of the table on every capability. Scales share their tiles, and so do both half precisions, which
# differ in single instructions; `python -m prn_fast.kernels` compiles everything that there is.
CONFIGURATIONS = {
    "installed": [(one, dtype) for one in CAPABILITIES for dtype in ("float16", "float32")]
    + [((8, 0), "bfloat16"), ((9, 0), "bfloat16")],
    OLDER_TRITON: [(one, "float16") for one in CAPABILITIES] + [((9, 0), "float32"), ((9, 0), "bfloat16")],
}
COMPILE = """
import json, sys
from dataclasses import asdict
import triton
from prn_fast.kernels.operation import SCALES
from prn_fast.kernels.resources import resource_rows
configurations = [(tuple(capability), dtype) for capability, dtype in json.loads(sys.argv[1])]
rows = resource_rows(configurations, SCALES[:1], batch=32, processes=2, training=json.loads(sys.argv[2]))
print(json.dumps([triton.__version__, [asdict(row) for row in rows]]))
"""


def run(*command: str, **variables: str) -> subprocess.CompletedProcess:
    """Run Python in another process, since this one has the interpreter of kernels."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | variables
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)


# Training's kernels are the slowest to compile: one capability of each kind of tensor core, and of none.
TRAINING_CONFIGURATIONS = {
    "installed": [((7, 5), "float16"), ((8, 6), "float16"), ((9, 0), "float16"), ((10, 0), "float16")],
    OLDER_TRITON: [((9, 0), "float16")],
}


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("version", CONFIGURATIONS)
@pytest.mark.long
def test_every_kernel_compiles_within_the_limits_of_a_device(version, training):
    configurations = (TRAINING_CONFIGURATIONS if training else CONFIGURATIONS)[version]
    kernels_of_op = TRAINING_KERNELS_OF_OP if training else KERNELS_OF_OP
    kernels = {kernel for kernels in kernels_of_op.values() for kernel in kernels}
    variables = {}
    if version == OLDER_TRITON:
        assert OLDER_FOLDER.is_dir(), "Triton 3.6 is missing; `make .build/triton-3.6` installs it"
        variables["PYTHONPATH"] = str(OLDER_FOLDER)
    done = run("-c", COMPILE, json.dumps(configurations), json.dumps(training), **variables)
    assert done.returncode == 0, done.stderr[-2000:]
    triton, rows = json.loads(done.stdout)
    assert triton == (OLDER_TRITON if variables else importlib.metadata.version("triton"))
    found = {(row["kernel"], row["capability"], row["dtype"]) for row in rows}
    assert found == {(kernel, f"{c[0]}.{c[1]}", dtype) for kernel in kernels for c, dtype in configurations}
    for row in rows:
        assert row["spills"] == 0, row
        assert row["registers"] <= MAX_REGISTERS, row
        assert row["shared_memory"] <= row["shared_memory_limit"], row
        assert row["global_scratch"] == 0, row


@pytest.mark.long
def test_the_command_prints_resources_and_bytes_of_every_operation():
    arguments = ("--capability", "9.0", "--dtype", "float16", "--side", str(SCALES[0].side))
    done = run("-m", "prn_fast.kernels", *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    resources, traffic = done.stdout.split("bytes moved")
    for op, kernels in KERNELS_OF_OP.items():
        assert op in traffic
        for kernel in kernels:
            assert [op, kernel] in [line.split()[:2] for line in resources.splitlines()]


@pytest.mark.long
def test_a_run_of_the_network_makes_few_launches_and_few_passes_over_its_maps():
    done = run("-m", "prn_fast.kernels", "--pass", "--batch", "1", "--dtype", "float16", "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    apart, after, *within = rows = json.loads(done.stdout)["rows"]
    assert [row["name"] for row in within] == [TRITON, CUDNN]
    launches = [sum(row["kernels"].values()) for row in rows]
    passes = [sum(row["megabytes_an_image"].values()) for row in rows]
    assert launches == sorted(launches, reverse=True)
    assert launches[2] == launches[3] < 110
    assert passes[1] < passes[0] / 2.5
    assert passes[2] == passes[3] < 40
    # Every convolution of the network, whoever adds and clamps.
    convolutions = [
        sum(n for name, n in row["kernels"].items() if "conv" in name and "bias" not in name) for row in rows
    ]
    # Two are part of `logit_head`.
    assert convolutions == [67, 56, 56, 56]
    # What costs a launch more where it is chosen.
    assert after["kernels"]["bias_add_relu_kernel"] == apart["kernels"]["relu"] - 1 == 44
    assert within[0]["kernels"]["convolve_add_relu_kernel"] == 44


LOADS = """
import torch
from prn_fast.kernels.aot import compile_launch
from prn_fast.kernels.tile_normalize.fused import plan_tile_normalize
from prn_fast.kernels.tiles import tile_for
tile = tile_for("tile_normalize", (9, 0), torch.float16)
for lines, width in ((1024, 256), (256, 1000)):
    spec = (0.5,) * 3, (0.25,) * 3, torch.float16, True, tile
    ptx = compile_launch(plan_tile_normalize(lines, width, 3, 3 * width, 256, 32, *spec), (9, 0)).ptx
    print(ptx.count("ld.global.b8"), ptx.count("ld.global"))
"""


@pytest.mark.long
def test_bytes_of_colour_images_are_read_several_at_once():
    done = run("-c", LOADS)
    assert done.returncode == 0, done.stderr[-2000:]
    # Also in a strip whose lines allow eight bytes at a time.
    assert done.stdout.split() == ["0", "1", "0", "1"]


MIXING_LOADS = """
import re
import torch
from prn_fast.kernels.aot import compile_launch
from prn_fast.kernels.catalogue import all_launches
for _, _, kernel, launch in all_launches(32, torch.float16, (9, 0)):
    if kernel == "mixing":
        ptx = compile_launch(launch, (9, 0)).ptx
        print(ptx.count("ld.global.b16"), len(re.findall("ld.global.v4.b32", ptx)), len(re.findall("st.global", ptx)))
"""


@pytest.mark.parametrize("version", CONFIGURATIONS)
@pytest.mark.long
def test_mixing_reads_maps_and_attention_in_few_wide_loads(version):
    variables = {"PYTHONPATH": str(OLDER_FOLDER)} if version == OLDER_TRITON else {}
    done = run("-c", MIXING_LOADS, **variables)
    assert done.returncode == 0, done.stderr[-2000:]
    # At each of three scales. A thread reads two values of each coarse grid's attention, which has 16 x 16; everything
    # that is as large as the map is read and written sixteen bytes at a time.
    assert done.stdout.split() == ["4", "36", "16"] * 3


CONVOLUTIONS = """
import torch
from prn_fast.kernels.aot import compile_launch
from prn_fast.kernels.convolution_relu.operation import of_the_network, plan
from prn_fast.kernels.operation import REAL
from prn_fast.kernels.resources import MAX_REGISTERS
from prn_fast.kernels.tiles import SHARED_MEMORY
for one in of_the_network(REAL):
    # With the table's tile, and with a smaller one.
    for batch in (32, 1):
        launch = plan(one, batch, torch.float16, (9, 0))
        compiled = compile_launch(launch, (9, 0))
        assert compiled.spills == compiled.global_scratch == 0, (one, batch)
        assert compiled.registers <= MAX_REGISTERS, (one, batch)
        assert compiled.shared_memory <= SHARED_MEMORY[9, 0], (one, batch)
        # Tensor cores; and maps and weights go to shared memory sixteen bytes at a time, but for three channels.
        assert "mma" in compiled.ptx, (one, batch)
        assert ("cp.async.cg.shared.global" in compiled.ptx) == (one.inputs != 3), (one, batch)
        print(one.inputs, one.side, batch)
"""


@pytest.mark.parametrize("version", CONFIGURATIONS)
@pytest.mark.long
def test_every_convolution_of_the_network_compiles_for_tensor_cores_without_spills(version):
    variables = {"PYTHONPATH": str(OLDER_FOLDER)} if version == OLDER_TRITON else {}
    done = run("-c", CONVOLUTIONS, **variables)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 2 * 24


@pytest.mark.long
def test_the_command_refuses_a_dtype_that_a_device_lacks():
    done = run("-m", "prn_fast.kernels", "--capability", "7.5", "--dtype", "bfloat16")
    assert done.returncode == 2
    assert "7.5 has no bfloat16" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("resource", "value"), [("registers", 256), ("spills", 8), ("shared_memory", 1025), ("global_scratch", 16)]
)
def test_a_kernel_over_a_limit_does_not_fit(resource, value):
    row = {field.name: "" for field in fields(Row)}
    row |= {"registers": 255, "spills": 0, "shared_memory": 1024, "shared_memory_limit": 1024, "global_scratch": 0}
    assert Row(**row).fits
    assert not Row(**row | {resource: value}).fits
