"""Resources of every kernel of the catalogue, as the compiler reports them for each compute capability."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import torch

from prn_fast.kernels.aot import compile_launch
from prn_fast.kernels.catalogue import all_launches
from prn_fast.kernels.operation import PyramidLevel, Shapes
from prn_fast.kernels.tiles import SHARED_MEMORY, Capability

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
# Registers of a thread, on every capability listed.
MAX_REGISTERS = 255


@dataclass(frozen=True)
class Row:
    """Resources of one kernel on one capability; see `aot.Compiled`."""

    op: str
    kernel: str
    shape: str
    dtype: str
    capability: str
    registers: int
    spills: int
    shared_memory: int
    shared_memory_limit: int
    global_scratch: int

    @property
    def fits(self) -> bool:
        """Whether a device runs it, without spilling registers and without memory that a host would have to supply."""
        return (
            self.registers <= MAX_REGISTERS
            and self.spills == 0
            and self.shared_memory <= self.shared_memory_limit
            and self.global_scratch == 0
        )


def resource_rows(
    configurations: Sequence[tuple[Capability, str]],
    scales: Sequence[PyramidLevel],
    batch: int,
    processes: int,
    training: bool = False,
) -> list[Row]:
    """Compile every kernel for every given capability and dtype, several at a time: of inference, or of training."""
    wanted = [(capability, dtype, scales, batch, training) for capability, dtype in configurations]
    # A fresh interpreter: the parent's threads do not survive a fork.
    with ProcessPoolExecutor(min(processes, len(wanted)), get_context("spawn")) as pool:
        return [row for rows in pool.map(_rows_of, *zip(*wanted, strict=True)) for row in rows]


def _rows_of(
    capability: Capability, dtype: str, scales: Sequence[PyramidLevel], batch: int, training: bool
) -> list[Row]:
    rows = []
    shapes = Shapes(tuple(scales))
    for op, shape, kernel, launch in all_launches(batch, DTYPES[dtype], capability, shapes, training=training):
        compiled = compile_launch(launch, capability)
        rows.append(
            Row(
                op,
                kernel,
                shape,
                dtype,
                f"{capability[0]}.{capability[1]}",
                compiled.registers,
                compiled.spills,
                compiled.shared_memory,
                SHARED_MEMORY[capability],
                compiled.global_scratch,
            )
        )
    return rows
