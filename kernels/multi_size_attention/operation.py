"""Multi-size attention and its backward, as `Operation`s."""

from collections.abc import Iterator

import torch
from torch import Tensor

from prn_fast.kernels.launch import Launch, capability_of
from prn_fast.kernels.multi_size_attention import (
    multi_size_attention,
    multi_size_attention_backward,
    optimized,
    plugin,
    reference,
    traffic,
)
from prn_fast.kernels.multi_size_attention.geometry import Geometry
from prn_fast.kernels.multi_size_attention.optimized import fold_query_key
from prn_fast.kernels.operation import GRIDS, Case, Draw, Operation, PyramidLevel, Shapes, Space
from prn_fast.kernels.tiles import Capability, tile_for

# Spread of the attention logits between tokens of the second grid; those of finer grids spread a little more.
LOGIT_SPREAD = 0.6
# Spread of attention's scales around one and biases around zero.
WEIGHT_SPREAD = 0.3


def _geometry(level: PyramidLevel, channels_last: bool) -> Geometry:
    """Attention sees twice the channels."""
    return Geometry(2 * level.channels, level.side, level.side, GRIDS, channels_last)


def _launches(
    shapes: Shapes, batch: int, dtype: torch.dtype, capability: Capability, channels_last: bool
) -> Iterator[tuple[str, str, Launch]]:
    from prn_fast.kernels.multi_size_attention import fused

    tiles = [tile_for(kernel, capability, dtype) for kernel in OPERATION.kernels]
    for level in shapes.scales:
        geometry = _geometry(level, channels_last)
        logits = fused.plan_logits(geometry, batch, dtype, tiles[0])
        yield level.name, "logits", logits
        yield level.name, "softmax", fused.plan_softmax(geometry, batch, logits.grid[0], dtype, tiles[1])
        yield level.name, "mixing", fused.plan_mixing(geometry, batch, dtype, tiles[2])


def _backward_launches(
    shapes: Shapes, batch: int, dtype: torch.dtype, capability: Capability, channels_last: bool
) -> Iterator[tuple[str, str, Launch]]:
    from prn_fast.kernels.multi_size_attention import gradient

    tiles = [tile_for(kernel, capability, dtype) for kernel in BACKWARD.kernels]
    for level in shapes.scales:
        geometry = _geometry(level, channels_last)
        logits = gradient.plan_logits_gradient(geometry, batch, dtype, tiles[0])
        softmax = gradient.plan_softmax_gradient(geometry, batch, logits.grid[0], dtype, tiles[1])
        yield level.name, "logits_gradient", logits
        yield level.name, "softmax_gradient", softmax
        yield level.name, "input_gradient", gradient.plan_input_gradient(geometry, batch, dtype, tiles[2])
        yield level.name, "weight_gradient", gradient.plan_weight_gradient(geometry, batch, dtype, tiles[3])


def attended_maps(batch: int, channels: int, side: int, draw: Draw) -> Tensor:
    """Maps (B, C, S, S) between whose patches attention decides: logits of every grid spread by about 1.

    With patches of independent values it would not: their products would all be near zero and all weights alike, so
    that an attention without logits would pass. So all patches of the finest grid show one pattern, each at its own
    strength, which is a sum over the grids: patches of each grid differ in their mean strength, too.
    """
    finest, device = max(GRIDS), draw.device
    strength = torch.zeros(batch, finest, finest, device=device)
    for grid in GRIDS[1:]:
        # The same values in every image, in an order of its own; standard deviation 1.
        steps = torch.linspace(-(3**0.5), 3**0.5, grid * grid, device=device)
        order = torch.rand(batch, grid * grid, device=device).argsort(dim=1)
        drawn = LOGIT_SPREAD**0.5 * steps[order].reshape(batch, grid, grid)
        strength += drawn.repeat_interleave(finest // grid, 1).repeat_interleave(finest // grid, 2)
    cell = side // finest
    pattern = torch.randn(channels, cell, cell, device=device).repeat(1, finest, finest)
    strength = strength.repeat_interleave(cell, 1).repeat_interleave(cell, 2)
    maps = pattern * strength[:, None] + WEIGHT_SPREAD * torch.randn(batch, channels, side, side, device=device)
    return maps.to(draw.dtype).to(memory_format=torch.channels_last)


def attention_weights(pairs: int, channels: int, side: int, draw: Draw) -> Tensor:
    """(2 pairs, C, S, S): scales around one and biases around zero, in turn."""
    weights = draw.maps(2 * pairs, channels, side, side, spread=WEIGHT_SPREAD)
    weights[::2] += 1
    return weights


def case(batch: int, level: PyramidLevel, draw: Draw) -> Case:
    """Attention of one layer and scale."""
    channels, side = 2 * level.channels, level.side
    maps = attended_maps(batch, channels, side, draw)
    query_key = [attention_weights(2, channels, side // grid, draw) for grid in GRIDS[1:]]
    value = [attention_weights(1, channels, side // grid, draw) for grid in GRIDS]
    sizes = batch, channels, side, side, GRIDS

    def bytes_moved() -> tuple[traffic.BytesMoved, traffic.BytesMoved]:
        planned = _launches(Shapes((level,)), batch, draw.dtype, capability_of(maps), True)
        splits, value_bytes = next(planned)[2].grid[0], draw.dtype.itemsize
        return traffic.bytes_moved(*sizes, splits, value_bytes), traffic.published_bytes_moved(*sizes, value_bytes)

    folded = [fold_query_key(one) for one in query_key]
    return OPERATION.case(
        level.name, (maps, GRIDS, query_key, value), bytes_moved, (0, 2, 3), (maps, GRIDS, folded, value)
    )


OPERATION = Operation(
    "multi_size_attention",
    reference.multi_size_attention,
    optimized.multi_size_attention,
    multi_size_attention,
    registered=(multi_size_attention,),
    kernels={
        "logits": Space({"BLOCK_D": (16, 32, 64, 128), "STEPS": (16, 32, 64)}, stages=(1, 3)),
        "softmax": Space({"BLOCK_ROWS": (1, 2, 4)}, warps=(2, 4, 8)),
        "mixing": Space({"BLOCK_D": (16, 32, 64, 128), "STEPS": (4, 8), "BLOCK_B": (2, 4, 8)}),
    },
    launches=_launches,
    cases=lambda batch, shapes, draw: (case(batch, level, draw) for level in shapes.scales),
    plugins=plugin.PLUGINS,
    plugged=plugin.multi_size_attention,
)
BACKWARD = Operation(
    "multi_size_attention_backward",
    optimized.multi_size_attention_backward,
    optimized.multi_size_attention_backward,
    multi_size_attention_backward,
    registered=(multi_size_attention_backward,),
    kernels=dict.fromkeys(("logits_gradient", "softmax_gradient", "input_gradient", "weight_gradient")),
    launches=_backward_launches,
)
