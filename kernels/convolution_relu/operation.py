"""Convolution with bias, residual and ReLU, as an `Operation`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from prn_fast.kernels.convolution_relu import choice, convolution_relu, reference, traffic
from prn_fast.kernels.launch import Launch
from prn_fast.kernels.operation import Case, Draw, Operation, PyramidLevel, Shapes, Space
from prn_fast.kernels.tiles import Capability, tile_for
from prn_fast.kernels.traffic import BytesMoved


@dataclass(frozen=True)
class Convolution:
    """Sizes of one of the network's convolutions; padding keeps the map's sides, divided by the stride."""

    inputs: int
    side: int
    channels: int
    kernel: int = 3
    stride: int = 1
    has_residual: bool = False

    @property
    def pixels(self) -> int:
        """Of the result."""
        return reference.side_of_result(self.side, self.kernel, self.stride, self.kernel // 2) ** 2

    def bytes_moved(self, batch: int, value_bytes: int, model: Callable[..., BytesMoved]) -> BytesMoved:
        """By one of the models in `traffic`."""
        weights = self.channels * self.inputs * self.kernel**2
        taken, given = self.inputs * self.side**2, self.channels * self.pixels
        return model(batch, taken, given, weights, self.has_residual, value_bytes)


def stem(shapes: Shapes) -> Convolution:
    """The backbone's first."""
    return Convolution(3, shapes.image_side, shapes.scales[0].channels, 7, 2)


def into_attention(level: PyramidLevel) -> Convolution:
    """The first one of an attention layer's residual block: features and residuals, attended to on four grids."""
    return Convolution(8 * level.channels, level.side, 2 * level.channels)


def of_attention(level: PyramidLevel) -> Convolution:
    """The second one of that block."""
    return Convolution(2 * level.channels, level.side, 2 * level.channels, has_residual=True)


def to_the_next(level: PyramidLevel) -> Convolution:
    """The backbone's first one of the next stage."""
    return Convolution(level.channels, level.side, 2 * level.channels, stride=2)


def of_the_network(shapes: Shapes) -> Iterator[Convolution]:
    """Every convolution that ReLU follows, by its sizes, with a backbone of basic blocks (r18)."""
    yield stem(shapes)
    for level in shapes.scales:
        plain = Convolution(level.channels, level.side, level.channels)
        yield from (plain, replace(plain, has_residual=True), to_the_next(level))
        yield from (into_attention(level), of_attention(level))
        # The decoder's, after upsampling and beside the features.
        yield from (replace(plain, inputs=factor * level.channels) for factor in (2, 3))
    last = shapes.scales[-1]
    deepest = Convolution(2 * last.channels, last.side // 2, 2 * last.channels)
    yield from (deepest, replace(deepest, has_residual=True))


def plan(one: Convolution, batch: int, dtype: torch.dtype, capability: Capability) -> Launch:
    """Its launch in one kernel."""
    from prn_fast.kernels.convolution_relu.fused import plan_convolve_add_relu

    sizes = one.inputs, one.side, one.side, one.channels, one.kernel, one.stride, one.kernel // 2, one.has_residual
    return plan_convolve_add_relu(batch, *sizes, dtype, tile_for("convolve_add_relu", capability, dtype))


def _launches(
    shapes: Shapes, batch: int, dtype: torch.dtype, capability: Capability, channels_last: bool
) -> Iterator[tuple[str, str, Launch]]:
    from prn_fast.kernels.convolution_relu.epilogue import plan_bias_add_relu

    # One of each kind: the others differ in their sizes.
    yield shapes.image, "convolve_add_relu", plan(stem(shapes), batch, dtype, capability)
    tile = tile_for("bias_add_relu", capability, dtype)
    for level in shapes.scales:
        yield level.name, "convolve_add_relu", plan(of_attention(level), batch, dtype, capability)
        after = plan_bias_add_relu(batch, 2 * level.channels, level.side**2, True, dtype, channels_last, tile)
        yield level.name, "bias_add_relu", after


def _case(name: str, one: Convolution, batch: int, draw: Draw) -> Case:
    maps = draw.maps(batch, one.inputs, one.side, one.side)
    spread = (one.kernel**2 * one.inputs) ** -0.5
    weight = draw.maps(one.channels, one.inputs, one.kernel, one.kernel, spread=spread)
    side = reference.side_of_result(one.side, one.kernel, one.stride, one.kernel // 2)
    residual = draw.maps(batch, one.channels, side, side) if one.has_residual else None
    arguments = maps, weight, draw.maps(one.channels), one.stride, one.kernel // 2, residual
    return OPERATION.case(name, arguments, _traffic(one, batch, draw, traffic.bytes_moved))


def _traffic(
    one: Convolution, batch: int, draw: Draw, model: Callable[..., BytesMoved]
) -> Callable[[], tuple[BytesMoved, BytesMoved]]:
    def both() -> tuple[BytesMoved, BytesMoved]:
        size = draw.dtype.itemsize
        return one.bytes_moved(batch, size, model), one.bytes_moved(batch, size, traffic.published_bytes_moved)

    return both


def _computed(way: str, *arguments: Any) -> Tensor:
    """The operation by one formulation, on a GPU."""
    with choice.only(way):
        return convolution_relu(*arguments)


def _cases(batch: int, shapes: Shapes, draw: Draw) -> Iterator[Case]:
    whole, after = partial(_computed, choice.TRITON), partial(_computed, choice.AFTER)
    for level in shapes.scales:
        one = of_attention(level)
        yield (case := _case(level.name, one, batch, draw))
        # Also where something else is chosen.
        yield replace(case, shape=f"{level.name}, {choice.TRITON}", fused=whole, kernel="convolve_add_relu")
        moved = _traffic(one, batch, draw, traffic.bytes_moved_after)
        yield replace(case, shape=f"{level.name}, {choice.AFTER}", traffic=moved, fused=after, kernel="bias_add_relu")
        wide = _case(f"{level.name} of {8 * level.channels}, {choice.TRITON}", into_attention(level), batch, draw)
        yield replace(wide, fused=whole, kernel="convolve_add_relu")


OPERATION = Operation(
    "convolution_relu",
    reference.convolution_relu,
    reference.convolution_relu,
    convolution_relu,
    registered=(convolution_relu,),
    kernels={
        "convolve_add_relu": Space(
            {"BLOCK_N": (64, 128, 256), "BLOCK_C": (64, 128), "BLOCK_K": (32, 64)}, stages=(3, 4)
        ),
        "bias_add_relu": Space({"BLOCK": (512, 1024, 2048, 4096)}),
    },
    launches=_launches,
    cases=_cases,
)
