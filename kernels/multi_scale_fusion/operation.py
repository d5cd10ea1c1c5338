"""Multi-scale fusion, as an `Operation`."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from prn_fast.kernels.launch import Launch
from prn_fast.kernels.multi_scale_fusion import (
    fuse_scale,
    multi_scale_fusion,
    optimized,
    plugin,
    project_upsample_add,
    reference,
    traffic,
)
from prn_fast.kernels.multi_scale_fusion.reference import FusionWeights, Projection, upsample_then_project
from prn_fast.kernels.operation import Case, Draw, Operation, PyramidLevel, Shapes, Space
from prn_fast.kernels.tiles import Capability, tile_for


def coarser(level: PyramidLevel) -> list[tuple[int, int, int]]:
    """Channels, height and width of the two maps that come to the finest scale from the next ones."""
    return [(factor * level.channels, level.side // factor, level.side // factor) for factor in (2, 4)]


def finer(level: PyramidLevel) -> list[tuple[int, int, int, int, int, int]]:
    """Sizes of the two maps that come to the coarsest scale from the finer ones, as `plan_project_upsample_add` has."""
    return [(level.channels // by, level.side * by, level.side * by, by // 2 * 2 + 1, by, 1) for by in (4, 2)]


def _launches(
    shapes: Shapes, batch: int, dtype: torch.dtype, capability: Capability, channels_last: bool
) -> Iterator[tuple[str, str, Launch]]:
    from prn_fast.kernels.multi_scale_fusion import fused

    (kernel,) = OPERATION.kernels
    tile = tile_for(kernel, capability, dtype)
    for level in shapes.scales:
        sizes = batch, level.channels, level.side, level.side
        up = fused.plan_project_upsample_add(*sizes, 1, coarser(level), dtype, channels_last, tile)
        yield level.name, kernel, up
        fine, both = finer(level), (dtype, channels_last, tile)
        # As at the middle and at the coarsest scale, features and residuals together.
        yield level.name, kernel, fused.plan_project_upsample_add(*sizes, 1, coarser(level)[:1], *both, fine[1:], 2)
        yield level.name, kernel, fused.plan_project_upsample_add(*sizes, 1, [], *both, fine, 2)


def convolution(target: int, source: int, kernel: int, draw: Draw, groups: int = 1) -> Projection:
    """Weight and bias whose result is about as large as the maps."""
    inputs = source // groups
    weight = draw.maps(target, inputs, kernel, kernel, spread=(inputs * kernel**2) ** -0.5)
    return Projection(weight, draw.maps(target))


def published_project_upsample_add(
    full: Sequence[Tensor], coarse: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> Tensor:
    """Sum of maps and of upsampled, then projected coarse maps, as published."""
    total = sum(full[1:], start=full[0])
    for maps, *projection in zip(coarse, weights, biases, strict=True):
        total = total + upsample_then_project(maps, Projection(*projection), total.shape[2] // maps.shape[2])
    return total


def _one_target(batch: int, level: PyramidLevel, draw: Draw) -> Case:
    """The part that one kernel computes, at the finest scale."""
    sources = coarser(level)
    projections = [convolution(level.channels, channels, 1, draw) for channels, _, _ in sources]
    arguments = (
        [draw.maps(batch, level.channels, level.side, level.side)],
        [draw.maps(batch, *source) for source in sources],
        [one.weight for one in projections],
        [one.bias for one in projections],
    )
    sizes, value_bytes = (batch, level.channels, level.side**2), draw.dtype.itemsize
    coarse = [(channels, height * width) for channels, height, width in sources]

    def bytes_moved() -> tuple[traffic.BytesMoved, traffic.BytesMoved]:
        published = traffic.published_bytes_moved(*sizes, [channels for channels, _ in coarse], value_bytes)
        return traffic.bytes_moved(*sizes, 1, coarse, value_bytes), published

    return Case(
        OPERATION.name,
        level.name,
        arguments,
        published_project_upsample_add,
        optimized.project_upsample_add,
        project_upsample_add,
        bytes_moved,
        trained=(0, 1, 2, 3),
    )


def _all_scales(batch: int, scales: Sequence[PyramidLevel], draw: Draw, sets: int) -> Case:
    """With its strided convolutions."""
    c1, c2, c3 = (level.channels for level in scales)
    weights = FusionWeights(
        from2_to1=convolution(c1, c2, 1, draw),
        from3_to1=convolution(c1, c3, 1, draw),
        from1_to2=convolution(c2, c1, 3, draw, c1),
        from3_to2=convolution(c2, c3, 1, draw),
        from1_to3=convolution(c3, c1, 5, draw, c1),
        from2_to3=convolution(c3, c2, 3, draw, c2),
    )
    maps = [[draw.maps(batch, level.channels, level.side, level.side) for _ in range(sets)] for level in scales]
    if sets == 1:
        return OPERATION.case("all scales", (*(one for (one,) in maps), weights), None, trained=(0, 1, 2, 3))
    return OPERATION.case("all scales of both", (*maps, weights), None)


def _cases(batch: int, shapes: Shapes, draw: Draw) -> Iterator[Case]:
    yield _one_target(batch, shapes.scales[0], draw)
    for sets in (1, 2) if len(shapes.scales) == 3 else ():
        yield _all_scales(batch, shapes.scales, draw, sets)


OPERATION = Operation(
    "multi_scale_fusion",
    reference.multi_scale_fusion,
    optimized.multi_scale_fusion,
    multi_scale_fusion,
    registered=(project_upsample_add, fuse_scale),
    kernels={
        "project_upsample_add": Space(
            {"TILE_H": (8,), "TILE_W": (4, 8, 16), "BLOCK_C": (32, 64), "BLOCK_K": (16, 32, 64)}, stages=(1, 3)
        ),
    },
    launches=_launches,
    cases=_cases,
    plugins=plugin.PLUGINS,
    plugged=plugin.multi_scale_fusion,
)
