"""All kernels and all cases of all operations: what is compiled ahead of time, tabulated, checked and benchmarked."""

from collections.abc import Iterator

import torch

from prn_fast.kernels import OPERATIONS
from prn_fast.kernels.launch import Launch
from prn_fast.kernels.operation import REAL, Case, Draw, Shapes, Space
from prn_fast.kernels.tiles import Capability

KERNELS_OF_OP = {one.name: tuple(one.kernels) for one in OPERATIONS if not one.training}
TRAINING_KERNELS_OF_OP = {one.name: tuple(one.kernels) for one in OPERATIONS if one.training}
SPACES: dict[str, Space] = {
    kernel: space for one in OPERATIONS for kernel, space in one.kernels.items() if space is not None
}


def all_launches(
    batch: int,
    dtype: torch.dtype,
    capability: Capability,
    shapes: Shapes = REAL,
    *,
    training: bool = False,
    channels_last: bool = True,
) -> Iterator[tuple[str, str, str, Launch]]:
    """Operation, shape, name and launch of every kernel: of inference, or of training alone. Needs triton."""
    for one in OPERATIONS:
        if one.training == training:
            for launched in one.launches(shapes, batch, dtype, capability, channels_last):
                yield one.name, *launched


def all_cases(batch: int, draw: Draw, shapes: Shapes = REAL) -> Iterator[Case]:
    """Every operation, at every shape that it is used at."""
    for one in OPERATIONS:
        yield from one.cases(batch, shapes, draw)
