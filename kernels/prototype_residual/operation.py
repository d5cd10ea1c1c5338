"""The prototype residual, as an `Operation`."""

from collections.abc import Iterator

import torch

from prn_fast.kernels.launch import Launch, capability_of
from prn_fast.kernels.operation import Case, Draw, Operation, PyramidLevel, Shapes, Space
from prn_fast.kernels.prototype_residual import (
    nearest_prototype,
    optimized,
    plugin,
    prototype_residual,
    reference,
    traffic,
)
from prn_fast.kernels.tiles import Capability, tile_for


def _plans(level: PyramidLevel, batch: int, dtype: torch.dtype, capability: Capability) -> Iterator[Launch]:
    """In the order of `OPERATION.kernels`: two kernels with differences alone, then the three on tensor cores."""
    from prn_fast.kernels.prototype_residual import candidates, fused

    distance_tile, residual_tile, order_tile, look_tile, candidate_tile = (
        tile_for(kernel, capability, dtype) for kernel in OPERATION.kernels
    )
    yield (distance := fused.plan_distance(batch, level.prototypes, level.size, dtype, distance_tile))
    yield fused.plan_residual(batch, level.prototypes, level.size, distance.grid[0], dtype, residual_tile)
    yield (order := candidates.plan_order(batch, level.prototypes, level.size, dtype, order_tile))
    look = candidates.plan_second_look(batch, level.prototypes, level.size, order.grid[0], dtype, look_tile)
    yield look
    yield candidates.plan_candidate_residual(batch, level.size, look.grid[0], dtype, candidate_tile)


def _bytes_moved(level: PyramidLevel, batch: int, dtype: torch.dtype, capability: Capability) -> traffic.BytesMoved:
    from prn_fast.kernels.prototype_residual.candidates import CANDIDATES
    from prn_fast.kernels.prototype_residual.fused import pays

    distance, _, order, look, _ = _plans(level, batch, dtype, capability)
    sizes = batch, level.prototypes, level.size
    if pays(batch, level.prototypes, dtype, capability):
        splits = order.grid[0], look.grid[0]
        return traffic.candidate_bytes_moved(*sizes, CANDIDATES, *splits, dtype.itemsize)
    return traffic.bytes_moved(*sizes, distance.grid[0], dtype.itemsize)


def _launches(
    shapes: Shapes, batch: int, dtype: torch.dtype, capability: Capability, channels_last: bool
) -> Iterator[tuple[str, str, Launch]]:
    for level in shapes.scales:
        for kernel, launch in zip(OPERATION.kernels, _plans(level, batch, dtype, capability), strict=True):
            yield level.name, kernel, launch


def case(batch: int, level: PyramidLevel, draw: Draw) -> Case:
    """Prototype residual of one scale."""
    prototypes = draw.maps(level.prototypes, level.channels, level.side, level.side)
    # Each is clearly nearest to one prototype: of two equally near ones, rounding may choose either.
    nearest = prototypes[torch.arange(batch, device=draw.device) % level.prototypes]
    features = draw.maps(batch, level.channels, level.side, level.side) + nearest / 2
    sizes = batch, level.prototypes, level.size

    def bytes_moved() -> tuple[traffic.BytesMoved, traffic.BytesMoved]:
        moved = _bytes_moved(level, batch, draw.dtype, capability_of(features))
        return moved, traffic.published_bytes_moved(*sizes, draw.dtype.itemsize)

    return OPERATION.case(level.name, (features, prototypes), bytes_moved, trained=(0,))


OPERATION = Operation(
    "prototype_residual",
    reference.prototype_residual,
    optimized.prototype_residual,
    prototype_residual,
    registered=(prototype_residual, nearest_prototype),
    kernels={
        "distance": Space(
            {"BLOCK_B": (4, 8), "BLOCK_K": (4, 8), "BLOCK_D": (128, 256, 512), "STEPS": (8, 16)},
        ),
        "residual": Space({"BLOCK_D": (512, 1024, 2048, 4096), "STEPS": (4, 8)}),
        "order": Space({"BLOCK_B": (16, 32, 64), "BLOCK_D": (32, 64, 128), "STEPS": (8, 16, 32)}, stages=(1, 2, 3)),
        "second_look": Space({"BLOCK_D": (512, 1024, 2048), "STEPS": (4, 8, 16)}),
        "candidate_residual": Space({"BLOCK_D": (512, 1024, 2048, 4096), "STEPS": (4, 8)}),
    },
    launches=_launches,
    cases=lambda batch, shapes, draw: (case(batch, level, draw) for level in shapes.scales),
    plugins=(plugin.DISTANCE, plugin.RESIDUAL),
    plugged=plugin.prototype_residual,
)
