"""What all Triton kernels share: a launch as an object, to run a kernel or to compile it without a GPU.

Rules that every kernel keeps, so that PyTorch, a C++ host and a TensorRT plugin can all launch it: arguments in the
order inputs, int32 sizes, outputs; no float or bool at run time; no scratch memory; int64 addresses where a tensor can
pass 2**31 values; pointers are multiples of 16 bytes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

# A type is "*fp16" for a pointer, "i32" for a size, and a tuple for several pointers given as one argument.
Signature = Mapping[str, str | tuple[str, ...]]

# Tensor cores multiply tiles of at least 16 rows.
MIN_ROWS = 16

TRITON_NAMES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.uint8: "u8",
}


def has_kernels(dtype: torch.dtype) -> bool:
    """Whether kernels take maps of a dtype; on a GPU, operations compute the others (float64) in plain PyTorch."""
    return dtype in TRITON_NAMES


def pointer(dtype: torch.dtype) -> str:
    """Triton's name of a pointer to values of `dtype`; a TypeError for one that no kernel takes."""
    if dtype not in TRITON_NAMES:
        raise TypeError(f"Triton kernels take float16, bfloat16 and float32, not {dtype}")
    return "*" + TRITON_NAMES[dtype]


@dataclass(frozen=True)
class Tile:
    """Block shape and compiler options of one kernel.

    Attributes:
        blocks: constexpr block sizes by name, powers of two where they are tile sides.
        warps, stages: Triton's num_warps and num_stages.
    """

    blocks: Mapping[str, int]
    warps: int = 4
    stages: int = 1


@dataclass(frozen=True)
class Launch:
    """One kernel with everything but its tensors.

    Attributes:
        kernel: the `triton.jit` function.
        signature: types of the run-time arguments, in order.
        constants: values of the constexpr arguments.
        grid: programs along each axis.
        tile: supplies warps and stages; its blocks are already part of `constants`.
    """

    kernel: Any
    signature: Signature
    constants: Mapping[str, Any]
    grid: tuple[int, ...]
    tile: Tile

    def __call__(self, *arguments: Any) -> None:
        """Run it on the device of its tensors, which need not be the current one; arguments as in `signature`."""
        if _noted is not None:
            _noted.append(self)
            return
        # Triton launches on the current device, and `torch.library.custom_op` does not make the tensors' one current.
        with torch.cuda.device_of(next(leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor))):
            self.kernel[self.grid](*arguments, **self.constants, num_warps=self.tile.warps, num_stages=self.tile.stages)


# If set, launches are recorded here instead of run.
_noted: list[Launch] | None = None


@contextmanager
def noted() -> Iterator[list[Launch]]:
    """Inside, launches are recorded in the list and nothing runs: for counts without a GPU, in one thread."""
    global _noted
    _noted = []
    try:
        yield _noted
    finally:
        _noted = None


def capability_of(tensor: Tensor) -> tuple[int, int]:
    """Compute capability of the tensor's device; (9, 0) for the CPU, where only Triton's interpreter runs."""
    return torch.cuda.get_device_capability(tensor.device) if tensor.is_cuda else (9, 0)


def steps_for(most: int, blocks: int, least: int = 1, programs: int = 512) -> int:
    """Blocks that one program works through, one after another.

    Args:
        most: the power of two to start from; halved, but not below `least`, while there are fewer programs than wanted.
        blocks: in the whole launch.
        programs: wanted, by default several for each multiprocessor of the largest devices.
    """
    while most > least and blocks // most < programs:
        most //= 2
    return most


def ceil_div(value: int, divisor: int) -> int:
    """value / divisor, rounded up."""
    return -(-value // divisor)


def power_of_two(value: int) -> int:
    """The smallest power of two that is not below `value`."""
    return 1 << (value - 1).bit_length()


def memory_format_of(maps: Tensor) -> torch.memory_format:
    """The dense layout in which a kernel reads a map: contiguous, or channels-last if the map is that only."""
    channels_last = maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def layout_for(channels_last: bool) -> torch.memory_format:
    """PyTorch's name of the layout of a result."""
    return torch.channels_last if channels_last else torch.contiguous_format
