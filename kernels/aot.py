"""Compile a kernel for any compute capability without a GPU, and read the resources that it takes."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prn_fast.kernels.launch import Launch
from prn_fast.kernels.tiles import Capability


@dataclass(frozen=True)
class Compiled:
    """Machine code of one launch for one capability, and its resources.

    Attributes:
        name: entry point in `ptx`.
        registers: 32-bit registers per thread.
        spills: bytes per thread that are written to and read from local memory for lack of registers.
        shared_memory: bytes per block.
        global_scratch: bytes of global memory that the launcher would have to supply; hosts supply none.
    """

    name: str
    ptx: str
    registers: int
    spills: int
    shared_memory: int
    global_scratch: int


def compile_launch(launch: Launch, capability: Capability, ptx_version: int | None = None) -> Compiled:
    """Compile `launch` for a device of the given compute capability; needs triton, but no GPU.

    Args:
        ptx_version: of the PTX, 87 for 8.7; by default the newest that Triton knows for the capability, which a driver
            may not read yet.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = launch.kernel
    if not isinstance(kernel, triton.runtime.jit.JITFunction):
        raise RuntimeError("kernels cannot be compiled where TRITON_INTERPRET=1 was set when triton was imported")
    aligned: dict[tuple[int, ...], Any] = {}
    for name, kind in launch.signature.items():
        index = kernel.arg_names.index(name)
        if isinstance(kind, tuple):
            aligned.update({(index, item): [["tt.divisibility", 16]] for item in range(len(kind))})
        elif kind.startswith("*"):
            aligned[index,] = [["tt.divisibility", 16]]
    signature = {**launch.signature, **dict.fromkeys(launch.constants, "constexpr")}
    compiled = triton.compile(
        ASTSource(kernel, signature, dict(launch.constants), aligned),
        target=GPUTarget("cuda", capability[0] * 10 + capability[1], 32),
        options={
            "num_warps": launch.tile.warps,
            "num_stages": launch.tile.stages,
            "enable_fp_fusion": True,
            "ptx_version": ptx_version,
        },
    )
    ptx, metadata = compiled.asm["ptx"], compiled.metadata
    registers, spills = read_resources(ptx)
    return Compiled(
        metadata.name,
        ptx,
        registers,
        spills,
        metadata.shared,
        metadata.global_scratch_size + metadata.profile_scratch_size,
    )


def read_resources(ptx: str) -> tuple[int, int]:
    """Registers per thread, and bytes spilled (stored and loaded), as the bundled ptxas reports them."""
    from triton.backends.nvidia.compiler import get_ptxas

    match = re.search(r"^\.target sm_(\d+)(\w*)", ptx, re.MULTILINE)
    assert match is not None
    assembler = get_ptxas(int(match[1]))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        report = subprocess.run(
            [assembler.path, "-v", f"--gpu-name=sm_{match[1]}{match[2]}", str(source), "-o", f"{folder}/kernel.cubin"],
            check=True,
            capture_output=True,
            text=True,
        ).stderr
    registers = re.search(r"Used (\d+) registers", report)
    assert registers is not None, report
    spilled = re.findall(r"(\d+) bytes spill (?:stores|loads)", report)
    return int(registers[1]), sum(map(int, spilled))
