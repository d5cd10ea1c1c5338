# mypy: allow-untyped-defs
"""Prototype residual in two Triton kernels.

1. `distance_kernel`: partial sums of (f - p + eps)^2, the map's D = C h w values split over programs. A program holds
   BLOCK_B maps against BLOCK_K prototypes in registers, so that each value loaded is used BLOCK_K or BLOCK_B times.
   Differences are direct and in float32. Writes (B, K, splits) float32.
   Larger blocks take less from the L2 cache. Memory bounds this pass for few maps or prototypes, arithmetic for many.
2. `residual_kernel`: adds up the splits, takes the nearest prototype (the lowest index on a tie) and writes (f - p)^2.

For many maps and prototypes in half precision, `candidates.py` takes their place. All see a map as D values in memory
order: any dense layout, the same for features and prototypes.
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
    steps_for,
)
from prn_fast.kernels.prototype_residual.reference import DISTANCE_EPSILON
from prn_fast.kernels.tiles import Capability, tile_for

# How many operations on pairs of values take as long as reading one value; see `candidates.py`.
PAIRS_PER_VALUE = 11
FEWEST_PROTOTYPES, MOST_PROTOTYPES = 8, 256
FIRST_WITH_TENSOR_CORES = (8, 0)
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


@triton.jit
def sum_of_splits(
    partials, b, K: tl.constexpr, SPLITS: tl.constexpr, PADDED_K: tl.constexpr, BLOCK_SPLITS: tl.constexpr
):
    """(PADDED_K,): a map's partial sums (K, SPLITS), added up."""
    k = tl.arange(0, PADDED_K)
    parts = tl.zeros([PADDED_K, BLOCK_SPLITS], tl.float32)
    for start in range(0, SPLITS, BLOCK_SPLITS):
        split = start + tl.arange(0, BLOCK_SPLITS)
        parts += tl.load(
            partials + (b * K + k[:, None]) * SPLITS + split[None, :],
            mask=(k < K)[:, None] & (split < SPLITS)[None, :],
            other=0.0,
        )
    return tl.sum(parts, axis=1)


@triton.jit
def store_residual(features, prototype, output, D: tl.constexpr, BLOCK_D: tl.constexpr, STEPS: tl.constexpr):
    """Write a program's part of (f - p)^2."""
    for step in range(STEPS):
        d = (tl.program_id(0) * STEPS + step) * BLOCK_D + tl.arange(0, BLOCK_D)
        f = tl.load(features + d, mask=d < D).to(tl.float32)
        p = tl.load(prototype + d, mask=d < D).to(tl.float32)
        difference = f - p
        tl.store(output + d, (difference * difference).to(output.dtype.element_ty), mask=d < D)


@triton.jit(do_not_specialize=["batch"])
def residual_kernel(
    features,  # (batch, D)
    prototypes,  # (K, D)
    partials,  # (batch, K, SPLITS) float32
    batch,
    output,  # (batch, D)
    K: tl.constexpr,
    D: tl.constexpr,
    SPLITS: tl.constexpr,
    PADDED_K: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEPS: tl.constexpr,
):
    b = tl.program_id(1).to(tl.int64)
    found = sum_of_splits(partials, b, K, SPLITS, PADDED_K, BLOCK_SPLITS)
    distances = tl.where(tl.arange(0, PADDED_K) < K, found, float("inf"))
    # No comparison holds for a map of NaN; its residual is NaN whichever prototype is taken.
    nearest = tl.minimum(tl.argmin(distances, axis=0), K - 1).to(tl.int64)
    store_residual(features + b * D, prototypes + nearest * D, output + b * D, D, BLOCK_D, STEPS)


def pays(batch: int, count: int, dtype: torch.dtype, capability: Capability) -> bool:
    """Whether to use the kernels of `candidates.py` for these numbers of maps and prototypes."""
    return (
        dtype != torch.float32
        and capability >= FIRST_WITH_TENSOR_CORES
        and FEWEST_PROTOTYPES <= count <= MOST_PROTOTYPES
        and batch * count > PAIRS_PER_VALUE * (batch + count)
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


def plan_residual(batch: int, count: int, size: int, splits: int, dtype: torch.dtype, tile: Tile) -> Launch:
    """Launch of `residual_kernel` on the partial distances of all splits."""
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
    tiles: tuple[Tile, Tile] | None = None,
) -> Tensor:
    """The function that `reference.prototype_residual` defines, on a GPU (or the CPU in Triton's interpreter).

    Args:
        features: (B, C, h, w), float16, bfloat16 or float32, contiguous or channels-last.
        prototypes: (K, C, h, w), same dtype; in another layout than the features they are copied.
        tiles: of the two kernels; by default the device's.
    Returns:
        (B, C, h, w) in the features' layout.
    """
    layout = memory_format_of(features)
    features = features.contiguous(memory_format=layout)
    prototypes = prototypes.contiguous(memory_format=layout)
    count, size = prototypes.shape[0], features[0].numel()
    capability, output = capability_of(features), torch.empty_like(features, memory_format=layout)
    if tiles is None and pays(len(features), count, features.dtype, capability):
        from prn_fast.kernels.prototype_residual import candidates

        candidates.write_residual(features, prototypes, output, capability)
        return output
    distance_tile, residual_tile = tiles or (None, tile_for("residual", capability, features.dtype))
    partials = partial_distances(features, prototypes, distance_tile)
    residual = plan_residual(len(features), count, size, partials.shape[2], features.dtype, residual_tile)
    residual(features, prototypes, partials, len(features), output)
    return output


def partial_distances(features: Tensor, prototypes: Tensor, tile: Tile | None = None) -> Tensor:
    """(B, K, splits) float32, which add up to the squared distances; both arguments in one dense layout."""
    batch, count = features.shape[0], prototypes.shape[0]
    tile = tile or tile_for("distance", capability_of(features), features.dtype)
    distance = plan_distance(batch, count, features[0].numel(), features.dtype, tile)
    partials = torch.empty(batch, count, distance.grid[0], dtype=torch.float32, device=features.device)
    distance(features, prototypes, batch, partials)
    return partials


def nearest_prototype(features: Tensor, prototypes: Tensor, tile: Tile | None = None) -> Tensor:
    """(B,) int64: which prototype `prototype_residual` takes for each map, by the same distances."""
    layout, capability = memory_format_of(features), capability_of(features)
    features, prototypes = (one.contiguous(memory_format=layout) for one in (features, prototypes))
    if tile is None and pays(len(features), len(prototypes), features.dtype, capability):
        from prn_fast.kernels.prototype_residual import candidates

        return candidates.nearest_prototype(features, prototypes, capability)
    partials = partial_distances(features, prototypes, tile)
    return partials.sum(dim=2).argmin(dim=1)
