# mypy: allow-untyped-defs
"""Prototype residual in two Triton kernels.

1. `distance_kernel`: partial sums of (f - p + eps)^2, the map's D = C h w values split over programs. A program holds
   BLOCK_B maps against BLOCK_K prototypes in registers, so that each value loaded is used BLOCK_K or BLOCK_B times.
   Differences are direct and in float32. Writes (B, K, splits) float32.
   At 8 by 8, 32 maps of 0.5 MB and 20 prototypes take 92 MB from the L2 cache; at 4 by 4 they would take 168 MB. Two
   operations for each of B K D pairs take 11 microseconds at an H100's float32 peak, beside 9 for 27 MB at 3 TB/s: from
   about K = 16 on, arithmetic bounds this pass.
2. `residual_kernel`: adds up the splits, takes the nearest prototype (the lowest index on a tie) and writes (f - p)^2,
   if asked straight into a slice of a map with more channels.

Both see a map as D values in memory order: any dense layout, the same for features and prototypes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from prn_fast.kernels.launch import (
    Launch,
    Tile,
    capability_of,
    ceil_div,
    memory_format_of,
    pointer,
    power_of_two,
    slice_strides,
    steps_for,
)
from prn_fast.kernels.prototype_residual.reference import DISTANCE_EPSILON
from prn_fast.kernels.tiles import tile_for

# Partial sums that a program holds in registers while it adds up splits.
PARTIALS_AT_ONCE = 4096


@triton.jit(do_not_specialize=["batch"])
def distance_kernel(
    features,  # (batch, D)
    prototypes,  # (K, D)
    batch,
    partials,  # (batch, K, splits) float32
    K: tl.constexpr,
    D: tl.constexpr,
    EPSILON: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEPS: tl.constexpr,
):
    split = tl.program_id(0)
    b = (tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B))[:, None, None]
    k = (tl.program_id(2) * BLOCK_K + tl.arange(0, BLOCK_K))[None, :, None]
    lane = tl.arange(0, BLOCK_D)[None, None, :]
    squares = tl.zeros([BLOCK_B, BLOCK_K, BLOCK_D], tl.float32)
    for step in range(STEPS):
        d = (split * STEPS + step) * BLOCK_D + lane
        f = tl.load(features + b.to(tl.int64) * D + d, mask=(b < batch) & (d < D), other=0.0)
        p = tl.load(prototypes + k.to(tl.int64) * D + d, mask=(k < K) & (d < D), other=0.0)
        # One prototype value meets BLOCK_B features: the epsilon costs less on this side.
        difference = f.to(tl.float32) - (p.to(tl.float32) - EPSILON)
        if D % (BLOCK_D * STEPS) != 0:
            difference = tl.where(d < D, difference, 0.0)
        squares += difference * difference
    splits = tl.num_programs(0)
    row = (b * K + k).to(tl.int64)
    inside = (b < batch) & (k < K)
    tl.store(partials + row * splits + split, tl.sum(squares, axis=2, keep_dims=True), mask=inside)


@triton.jit(do_not_specialize=["batch"])
def residual_kernel(
    features,  # (batch, D)
    prototypes,  # (K, D)
    partials,  # (batch, K, SPLITS) float32
    batch,
    output,  # runs of RUN values, RUN_STRIDE apart; maps BATCH_STRIDE apart
    K: tl.constexpr,
    D: tl.constexpr,
    SPLITS: tl.constexpr,
    RUN: tl.constexpr,
    RUN_STRIDE: tl.constexpr,
    BATCH_STRIDE: tl.constexpr,
    PADDED_K: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEPS: tl.constexpr,
):
    b = tl.program_id(1).to(tl.int64)
    k = tl.arange(0, PADDED_K)
    parts = tl.zeros([PADDED_K, BLOCK_SPLITS], tl.float32)
    for start in range(0, SPLITS, BLOCK_SPLITS):
        split = start + tl.arange(0, BLOCK_SPLITS)
        parts += tl.load(
            partials + (b * K + k[:, None]) * SPLITS + split[None, :],
            mask=(k < K)[:, None] & (split < SPLITS)[None, :],
            other=0.0,
        )
    distances = tl.where(k < K, tl.sum(parts, axis=1), float("inf"))
    # A map of NaN compares with nothing; its residual is NaN whichever prototype is taken.
    nearest = tl.minimum(tl.argmin(distances, axis=0), K - 1).to(tl.int64)
    for step in range(STEPS):
        d = (tl.program_id(0) * STEPS + step) * BLOCK_D + tl.arange(0, BLOCK_D)
        f = tl.load(features + b * D + d, mask=d < D).to(tl.float32)
        p = tl.load(prototypes + nearest * D + d, mask=d < D).to(tl.float32)
        difference = f - p
        place = d if RUN == D else (d // RUN) * RUN_STRIDE + d % RUN
        tl.store(
            output + b * BATCH_STRIDE + place,
            (difference * difference).to(output.dtype.element_ty),
            mask=d < D,
        )


def plan_distance(batch: int, count: int, size: int, dtype: torch.dtype, tile: Tile) -> Launch:
    """Launch of `distance_kernel` for `batch` maps of `size` values and `count` prototypes."""
    blocks = dict(tile.blocks)
    blocks["BLOCK_B"] = min(blocks["BLOCK_B"], power_of_two(batch))
    blocks["BLOCK_K"] = min(blocks["BLOCK_K"], power_of_two(count))
    pairs = ceil_div(batch, blocks["BLOCK_B"]) * ceil_div(count, blocks["BLOCK_K"])
    blocks["STEPS"] = steps_for(blocks["STEPS"], pairs * ceil_div(size, blocks["BLOCK_D"]))
    return Launch(
        distance_kernel,
        {"features": pointer(dtype), "prototypes": pointer(dtype), "batch": "i32", "partials": "*fp32"},
        {"K": count, "D": size, "EPSILON": DISTANCE_EPSILON, **blocks},
        (
            ceil_div(size, blocks["BLOCK_D"] * blocks["STEPS"]),
            ceil_div(batch, blocks["BLOCK_B"]),
            ceil_div(count, blocks["BLOCK_K"]),
        ),
        tile,
    )


def plan_residual(
    batch: int,
    count: int,
    size: int,
    splits: int,
    dtype: torch.dtype,
    tile: Tile,
    run: tuple[int, int] | None = None,
    batch_stride: int | None = None,
) -> Launch:
    """Launch of `residual_kernel`; `run` (length, stride) and `batch_stride` place the output, dense by default."""
    run_length, run_stride = run or (size, size)
    padded_count = power_of_two(count)
    blocks = dict(tile.blocks)
    blocks["STEPS"] = steps_for(blocks["STEPS"], batch * ceil_div(size, blocks["BLOCK_D"]))
    return Launch(
        residual_kernel,
        {
            "features": pointer(dtype),
            "prototypes": pointer(dtype),
            "partials": "*fp32",
            "batch": "i32",
            "output": pointer(dtype),
        },
        {
            "K": count,
            "D": size,
            "SPLITS": splits,
            "RUN": run_length,
            "RUN_STRIDE": run_stride,
            "BATCH_STRIDE": batch_stride or size,
            "PADDED_K": padded_count,
            "BLOCK_SPLITS": min(power_of_two(splits), max(1, PARTIALS_AT_ONCE // padded_count)),
            **blocks,
        },
        (ceil_div(size, blocks["BLOCK_D"] * blocks["STEPS"]), batch),
        tile,
    )


def prototype_residual(
    features: Tensor,
    prototypes: Tensor,
    out: Tensor | None = None,
    tiles: tuple[Tile, Tile] | None = None,
) -> Tensor:
    """The function that `reference.prototype_residual` defines, on a GPU (or the CPU in Triton's interpreter).

    Args:
        features: (B, C, h, w), float16, bfloat16 or float32, contiguous or channels-last.
        prototypes: (K, C, h, w), same dtype; in another layout than the features they are copied.
        out: (B, C, h, w) to write into, such as the second half of the channels of a map, in the features' layout.
        tiles: of the two kernels; by default the device's.
    Returns:
        (B, C, h, w) in the features' layout: `out` if given.
    """
    layout = memory_format_of(features)
    features = features.contiguous(memory_format=layout)
    prototypes = prototypes.contiguous(memory_format=layout)
    batch, channels, height, width = features.shape
    count, size = prototypes.shape[0], channels * height * width
    capability = capability_of(features)
    distance_tile, residual_tile = tiles or (
        tile_for("distance", capability, features.dtype),
        tile_for("residual", capability, features.dtype),
    )
    if out is None:
        out = torch.empty_like(features, memory_format=layout)
    pixel_stride, batch_stride = slice_strides(out, features.shape, layout)
    run = (channels, pixel_stride) if layout == torch.channels_last else (size, size)

    distance = plan_distance(batch, count, size, features.dtype, distance_tile)
    splits = distance.grid[0]
    partials = torch.empty(batch, count, splits, dtype=torch.float32, device=features.device)
    residual = plan_residual(batch, count, size, splits, features.dtype, residual_tile, run, batch_stride)
    distance(features, prototypes, batch, partials)
    residual(features, prototypes, partials, batch, out)
    return out
