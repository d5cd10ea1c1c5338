"""Convolution with bias, residual and ReLU, as an `Operation`."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prn_fast.kernels.convolution_relu import convolution_relu, reference, traffic
from prn_fast.kernels.launch import Launch
from prn_fast.kernels.operation import Case, Draw, Operation, PyramidLevel, Shapes, Space
from prn_fast.kernels.tiles import Capability, tile_for


def _launches(
    shapes: Shapes, batch: int, dtype: torch.dtype, capability: Capability, channels_last: bool
) -> Iterator[tuple[str, str, Launch]]:
    from prn_fast.kernels.convolution_relu.fused import plan_bias_add_relu

    (kernel,) = OPERATION.kernels
    for level in shapes.scales:
        tile = tile_for(kernel, capability, dtype)
        plan = plan_bias_add_relu(batch, 2 * level.channels, level.side**2, True, dtype, channels_last, tile)
        yield level.name, kernel, plan


def _of_level(batch: int, level: PyramidLevel, draw: Draw) -> Iterator[Case]:
    """The second convolution of an attention layer's residual block."""
    channels, side = 2 * level.channels, level.side
    maps, residual = draw.maps(batch, channels, side, side), draw.maps(batch, channels, side, side)
    weight = draw.maps(channels, channels, 3, 3, spread=(9 * channels) ** -0.5)
    size = channels * side**2
    moved = batch, size, size, weight.numel(), True, draw.dtype.itemsize
    case = OPERATION.case(
        level.name,
        (maps, weight, draw.maps(channels), 1, 1, residual),
        lambda: (traffic.bytes_moved(*moved), traffic.published_bytes_moved(*moved)),
    )
    yield case
    # Also where cuDNN does everything.
    yield replace(case, shape=f"{level.name}, Triton", fused=_in_triton)


def _in_triton(maps: Tensor, *rest: Any) -> Tensor:
    """The operation with Triton's kernel, on a GPU."""
    if not maps.is_cuda:
        return convolution_relu(maps, *rest)
    from prn_fast.kernels.convolution_relu import fused

    return fused.convolution_relu(maps, *rest)


def _cases(batch: int, shapes: Shapes, draw: Draw) -> Iterator[Case]:
    for level in shapes.scales:
        yield from _of_level(batch, level, draw)


OPERATION = Operation(
    "convolution_relu",
    reference.convolution_relu,
    reference.convolution_relu,
    convolution_relu,
    registered=(convolution_relu,),
    kernels={"bias_add_relu": Space({"BLOCK": (512, 1024, 2048, 4096)})},
    launches=_launches,
    cases=_cases,
)
