"""PTX of every kernel for every compute capability, in the form that TensorRT takes."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from prn_fast.build.tensorrt_plugins.formulation import PLUGINS
from prn_fast.build.tensorrt_plugins.ptx import (
    PTX_VERSION,
    SHARED_MEMORY,
    PluginKernel,
    compile_for_plugin,
    parameters_of,
    with_parameters,
)
from prn_fast.errors import EngineError
from prn_fast.kernels.multi_scale_fusion.operation import coarser
from prn_fast.kernels.operation import GRIDS, SCALES
from prn_fast.kernels.plugin import ELEMENT_TYPES, Use
from prn_fast.kernels.tiles import CAPABILITIES, Capability

BATCH, SPLITS = 8, 4


def uses(capability: Capability, dtype: torch.dtype) -> dict[str, Use]:
    """A plugin of every kernel where the real network has it first, channels last."""
    scale = SCALES[0]
    channels, side = scale.channels, scale.side
    maps, doubled = (BATCH, channels, side, side), (BATCH, 2 * channels, side, side)
    patches = [(2, 2 * channels, side // grid, side // grid) for grid in GRIDS]
    one, two = coarser(scale)
    prototypes = (scale.prototypes, *maps[1:])
    shapes = {
        "distance": [maps, prototypes],
        "residual": [maps, prototypes, (BATCH, scale.prototypes, SPLITS)],
        "logits_3": [doubled, *patches[1:]],
        "softmax": [(BATCH, SPLITS, 5376)],
        "mixing_4": [doubled, (BATCH, 4368), *patches],
        "project_upsample_add_1_2": [
            *[maps, (BATCH, *one), (BATCH, *two)],
            *[(channels, one[0], 1, 1), (channels, two[0], 1, 1), (channels,), (channels,)],
        ],
        "top_pixels": [(BATCH, 1, 64, 128)],
        "score": [(BATCH, SPLITS, 100)],
    }
    attributes = {
        "splits": SPLITS,
        "grids": GRIDS,
        "size": 2 * scale.size,
        "element_type": ELEMENT_TYPES[dtype],
        "full": 1,
        "capability": 10 * capability[0] + capability[1],
    }
    return {
        name: Use(
            tuple(map(tuple, dimensions)),
            dtype,
            True,
            {key: attributes[key] for key in PLUGINS[name].all_attributes},
        )
        for name, dimensions in shapes.items()
    }


def first_launchable(name: str, use: Use) -> PluginKernel:
    """The kernel of the first tactic within the limits: a device's own tile may take more shared memory."""
    for launch in PLUGINS[name].tactics(use):
        try:
            return compile_for_plugin(launch, use.capability)
        except EngineError as error:
            if "use a smaller tile" not in str(error):
                raise
    raise AssertionError(f"{name} has no tactic on {use.capability}")


def compile_all() -> list[dict]:
    """Every kernel for each capability on the command line."""
    from triton.backends.nvidia.compiler import get_ptxas

    rows = []
    for text in sys.argv[1:]:
        capability = int(text) // 10, int(text) % 10
        for name, use in uses(capability, torch.float16).items():
            kernel = first_launchable(name, use)
            target = re.search(r"^\.target (\w+)$", kernel.ptx, re.MULTILINE)
            assert target is not None
            # With the parameters taken off it still assembles.
            command = [get_ptxas(int(text)).path, f"--gpu-name={target[1]}", "-", "-o", os.devnull]
            subprocess.run(command, input=kernel.ptx, text=True, check=True)
            rows.append({"plugin": name, "capability": text, "target": target[1], **vars(kernel)})
    return rows


def compiled(capabilities: list[str]) -> list[dict]:
    """`compile_all` in another process, since this one has the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.build.test_tensorrt_plugins_ptx", *capabilities]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    capabilities = [str(10 * major + minor) for major, minor in CAPABILITIES]
    with ThreadPoolExecutor(2) as pool:
        return [row for half in pool.map(compiled, [capabilities[::2], capabilities[1::2]]) for row in half]


@pytest.mark.long
def test_every_kernel_compiles_for_every_capability(rows):
    assert {(row["plugin"], row["capability"]) for row in rows} == {
        (name, str(10 * capability[0] + capability[1]))
        for capability in CAPABILITIES
        for name in uses(capability, torch.float16)
    }
    for row in rows:
        # From 9.0 on a kernel may use what only its own architecture has.
        assert re.fullmatch(rf"sm_{row['capability']}a?", row["target"]), row["target"]
        assert f".version {PTX_VERSION // 10}.{PTX_VERSION % 10}\n" in row["ptx"]


@pytest.mark.long
def test_parameters_are_those_that_tensorrt_passes(rows):
    for row in rows:
        plugin = PLUGINS[row["plugin"]]
        expected = ["u64"] * len(plugin.inputs) + ["u32"] + ["u64"] * len(plugin.outputs)
        assert [kind for _, kind in parameters_of(row["ptx"])] == expected, row["plugin"]
        assert f".visible .entry {row['name']}(" in row["ptx"]
        # Nothing reads a parameter that is not there.
        names = {name for name, _ in parameters_of(row["ptx"])}
        assert set(re.findall(r"\w+_param_\d+", row["ptx"])) <= names


@pytest.mark.long
def test_blocks_are_launched_as_they_were_compiled(rows):
    for row in rows:
        assert re.search(rf"^\.reqntid {row['threads']}$", row["ptx"], re.MULTILINE), row["plugin"]
        assert row["threads"] % 32 == 0
        assert 0 <= row["shared_memory"] <= SHARED_MEMORY
        # All of it is what the host gives.
        assert not re.search(r"^\s*\.shared\b.*\[\d+\];", row["ptx"], re.MULTILINE)
        assert (".extern .shared" in row["ptx"]) == (row["shared_memory"] > 0), row["plugin"]


PTX = """.version 8.7
.target sm_86
.address_size 64
.visible .entry add(
	.param .u64 .ptr .global .align 1 add_param_0,
	.param .u32 add_param_1,
	.param .u64 .ptr .global .align 1 add_param_2,
	.param .u64 .ptr .global .align 1 add_param_3
)
.reqntid 128
{
	ld.param.b64 	%rd1, [add_param_0];
	ld.param.b64 	%rd2, [add_param_2];
	ret;
}
"""


def test_a_parameter_that_nothing_reads_is_taken_off():
    ptx = with_parameters(PTX, ["u64", "u32", "u64"])
    assert parameters_of(ptx) == [("add_param_0", "u64"), ("add_param_1", "u32"), ("add_param_2", "u64")]
    assert ptx.split(")", 1)[1] == PTX.split(")", 1)[1]


def test_a_parameter_that_is_read_is_not_taken_off():
    with pytest.raises(EngineError, match="reads add_param_2, which TensorRT does not supply"):
        with_parameters(PTX, ["u64", "u32"])


def test_other_types_of_parameters_are_refused():
    with pytest.raises(EngineError, match="PTX has parameters"):
        with_parameters(PTX, ["u64", "u64", "u64"])


if __name__ == "__main__":
    print(json.dumps(compile_all()))
