# mypy: allow-untyped-defs
"""Prototype residual on tensor cores, for many maps and prototypes: three Triton kernels.

1. `order_kernel`: with c the mean prototype, f' = f - c and p' = p - c, partial sums of |p'_k|^2 / 2 - f' . p'_k, which
   order the distances as in `optimized.py`. f' and p' are rounded to the maps' dtype, so that their products run on
   tensor cores; they are no larger than the differences between images, and little cancels. Writes (B, K, splits).
2. `second_look_kernel`: adds up the splits, and for the CANDIDATES prototypes that they put first computes partial sums
   of (f - p + eps)^2 from direct differences in float32, as `distance_kernel` does for all.
3. `candidate_residual_kernel`: takes the nearest by those (the lowest index on a tie) and writes (f - p)^2.

The rounding of the first pass decides only which prototypes get a second look. The nearest one would be left out only
if CANDIDATES others were as near to within the rounding error, a few thousandths of the distance between images.

Direct differences of all pairs take 2 B K D operations, reading maps and prototypes 2 (B + K) D bytes: the more there
are of both, the longer arithmetic takes beside memory. With few, and without tensor cores, `fused.py` has one kernel
less.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from prn_fast.kernels.launch import MIN_ROWS, Launch, Tile, ceil_div, pointer, power_of_two, steps_for
from prn_fast.kernels.prototype_residual.fused import PARTIALS_AT_ONCE, store_residual, sum_of_splits
from prn_fast.kernels.prototype_residual.reference import DISTANCE_EPSILON
from prn_fast.kernels.tiles import Capability, tile_for

CANDIDATES = 4
# Values of a block of prototypes, beside their squares: more would not fit into registers.
PROTOTYPE_VALUES = 4096


@triton.jit(do_not_specialize=["batch"])
def order_kernel(
    features,  # (batch, D)
    prototypes,  # (K, D)
    batch,
    partials,  # (batch, K, splits) float32
    K: tl.constexpr,
    D: tl.constexpr,
    PADDED_K: tl.constexpr,
    LARGEST: tl.constexpr,  # of the maps' dtype
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEPS: tl.constexpr,
):
    split = tl.program_id(0)
    b = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    k = tl.arange(0, PADDED_K)
    dtype = features.dtype.element_ty
    squares = tl.zeros([PADDED_K, BLOCK_D], tl.float32)
    products = tl.zeros([BLOCK_B, PADDED_K], tl.float32)
    for step in range(STEPS):
        d = (split * STEPS + step) * BLOCK_D + tl.arange(0, BLOCK_D)
        inside = (k < K)[:, None] & (d < D)[None, :]
        p = tl.load(prototypes + k[:, None].to(tl.int64) * D + d[None, :], mask=inside, other=0.0).to(tl.float32)
        f = tl.load(
            features + b[:, None].to(tl.int64) * D + d[None, :],
            mask=(b < batch)[:, None] & (d < D)[None, :],
            other=0.0,
        ).to(tl.float32)
        centre = (tl.sum(p, axis=0) / K)[None, :]
        p = tl.where(inside, tl.minimum(tl.maximum(p - centre, -LARGEST), LARGEST), 0.0).to(dtype)
        f = tl.minimum(tl.maximum(f - centre, -LARGEST), LARGEST).to(dtype)
        products = tl.dot(f, tl.trans(p), products, input_precision="ieee")
        squares += p.to(tl.float32) * p.to(tl.float32)
    order = tl.sum(squares, axis=1)[None, :] / 2 - products
    splits = tl.num_programs(0)
    row = b[:, None].to(tl.int64) * K + k[None, :]
    tl.store(partials + row * splits + split, order, mask=(b < batch)[:, None] & (k < K)[None, :])


@triton.jit(do_not_specialize=["batch"])
def second_look_kernel(
    features,  # (batch, D)
    prototypes,  # (K, D)
    partials,  # (batch, K, SPLITS) float32
    batch,
    candidates,  # (batch, CANDIDATES) int32, ascending
    distances,  # (batch, CANDIDATES, splits) float32
    K: tl.constexpr,
    D: tl.constexpr,
    SPLITS: tl.constexpr,
    PADDED_K: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    CANDIDATES: tl.constexpr,
    EPSILON: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEPS: tl.constexpr,
):
    split, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    k = tl.arange(0, PADDED_K)
    order = sum_of_splits(partials, b, K, SPLITS, PADDED_K, BLOCK_SPLITS)
    # No comparison holds for a map of NaN; its residual is NaN whichever prototypes are looked at.
    order = tl.where((k < K) & (order == order), order, float("inf"))
    chosen = k < 0
    for _ in tl.static_range(CANDIDATES):
        # The lowest remaining index comes first, even if no comparison holds.
        left = tl.where(chosen | (k >= K), float("inf"), order)
        least = tl.min(left, axis=0)
        first = tl.min(tl.where((left == least) & ~chosen & (k < K), k, PADDED_K), axis=0)
        chosen = chosen | (k == first)
    rank = tl.cumsum(chosen.to(tl.int32), axis=0) - 1
    one = tl.arange(0, 1)
    for item in tl.static_range(CANDIDATES):
        index = tl.sum(tl.where(chosen & (rank == item), k, 0), axis=0)
        squares = tl.zeros([BLOCK_D], tl.float32)
        for step in range(STEPS):
            d = (split * STEPS + step) * BLOCK_D + tl.arange(0, BLOCK_D)
            f = tl.load(features + b * D + d, mask=d < D, other=0.0).to(tl.float32)
            p = tl.load(prototypes + index.to(tl.int64) * D + d, mask=d < D, other=0.0).to(tl.float32)
            difference = tl.where(d < D, f - (p - EPSILON), 0.0)
            squares += difference * difference
        place = b * CANDIDATES + item
        tl.store(distances + place * tl.num_programs(0) + split + one, tl.sum(squares, axis=0))
        if split == 0:
            tl.store(candidates + place + one, index)


@triton.jit(do_not_specialize=["batch"])
def candidate_residual_kernel(
    features,  # (batch, D)
    prototypes,  # (K, D)
    candidates,  # (batch, CANDIDATES) int32, ascending
    distances,  # (batch, CANDIDATES, SPLITS) float32
    batch,
    output,  # (batch, D)
    D: tl.constexpr,
    SPLITS: tl.constexpr,
    CANDIDATES: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEPS: tl.constexpr,
):
    b = tl.program_id(1).to(tl.int64)
    found = sum_of_splits(distances, b, CANDIDATES, SPLITS, CANDIDATES, BLOCK_SPLITS)
    # As there: any prototype for a map of NaN.
    nearest = tl.argmin(tl.where(found == found, found, float("inf")), axis=0)
    index = tl.sum(tl.load(candidates + b * CANDIDATES + nearest + tl.arange(0, 1)), axis=0)
    store_residual(features + b * D, prototypes + index.to(tl.int64) * D, output + b * D, D, BLOCK_D, STEPS)


def plan_order(batch: int, count: int, size: int, dtype: torch.dtype, tile: Tile) -> Launch:
    """Launch of `order_kernel` for `batch` maps of `size` values and `count` prototypes."""
    blocks, padded_count = dict(tile.blocks), max(MIN_ROWS, power_of_two(count))
    blocks["BLOCK_B"] = max(MIN_ROWS, min(blocks["BLOCK_B"], power_of_two(batch)))
    blocks["BLOCK_D"] = max(MIN_ROWS, min(blocks["BLOCK_D"], PROTOTYPE_VALUES // padded_count))
    map_blocks = ceil_div(batch, blocks["BLOCK_B"])
    blocks["STEPS"] = steps_for(blocks["STEPS"], map_blocks * ceil_div(size, blocks["BLOCK_D"]))
    kind = pointer(dtype)
    return Launch(
        order_kernel,
        {"features": kind, "prototypes": kind, "batch": "i32", "partials": "*fp32"},
        {"K": count, "D": size, "PADDED_K": padded_count, "LARGEST": torch.finfo(dtype).max, **blocks},
        (ceil_div(size, blocks["BLOCK_D"] * blocks["STEPS"]), map_blocks),
        tile,
    )


def plan_second_look(batch: int, count: int, size: int, splits: int, dtype: torch.dtype, tile: Tile) -> Launch:
    """Launch of `second_look_kernel` on the partial orders of `splits` splits."""
    blocks, padded_count = dict(tile.blocks), power_of_two(count)
    blocks["STEPS"] = steps_for(blocks["STEPS"], batch * ceil_div(size, blocks["BLOCK_D"]))
    kind = pointer(dtype)
    return Launch(
        second_look_kernel,
        {
            "features": kind,
            "prototypes": kind,
            "partials": "*fp32",
            "batch": "i32",
            "candidates": "*i32",
            "distances": "*fp32",
        },
        {
            "K": count,
            "D": size,
            "SPLITS": splits,
            "PADDED_K": padded_count,
            "BLOCK_SPLITS": min(power_of_two(splits), max(1, PARTIALS_AT_ONCE // padded_count)),
            "CANDIDATES": CANDIDATES,
            "EPSILON": DISTANCE_EPSILON,
            **blocks,
        },
        (ceil_div(size, blocks["BLOCK_D"] * blocks["STEPS"]), batch),
        tile,
    )


def plan_candidate_residual(batch: int, size: int, splits: int, dtype: torch.dtype, tile: Tile) -> Launch:
    """Launch of `candidate_residual_kernel` on the partial distances of `splits` splits."""
    blocks, kind = dict(tile.blocks), pointer(dtype)
    blocks["STEPS"] = steps_for(blocks["STEPS"], batch * ceil_div(size, blocks["BLOCK_D"]))
    return Launch(
        candidate_residual_kernel,
        {
            "features": kind,
            "prototypes": kind,
            "candidates": "*i32",
            "distances": "*fp32",
            "batch": "i32",
            "output": kind,
        },
        {
            "D": size,
            "SPLITS": splits,
            "CANDIDATES": CANDIDATES,
            "BLOCK_SPLITS": min(power_of_two(splits), PARTIALS_AT_ONCE // CANDIDATES),
            **blocks,
        },
        (ceil_div(size, blocks["BLOCK_D"] * blocks["STEPS"]), batch),
        tile,
    )


def candidate_distances(
    features: Tensor, prototypes: Tensor, capability: Capability, tiles: tuple[Tile, Tile] | None = None
) -> tuple[Tensor, Tensor]:
    """Indices (B, CANDIDATES) int32, ascending, of the prototypes that may be nearest, and (B, CANDIDATES, splits)
    float32, which add up to the squared distances to them; both arguments in one dense layout."""
    batch, count, size, dtype = len(features), len(prototypes), features[0].numel(), features.dtype
    order_tile, look_tile = tiles or (tile_for("order", capability, dtype), tile_for("second_look", capability, dtype))
    order = plan_order(batch, count, size, dtype, order_tile)
    partials = torch.empty(batch, count, order.grid[0], dtype=torch.float32, device=features.device)
    order(features, prototypes, batch, partials)
    look = plan_second_look(batch, count, size, order.grid[0], dtype, look_tile)
    candidates = torch.empty(batch, CANDIDATES, dtype=torch.int32, device=features.device)
    distances = torch.empty(batch, CANDIDATES, look.grid[0], dtype=torch.float32, device=features.device)
    look(features, prototypes, partials, batch, candidates, distances)
    return candidates, distances


def write_residual(
    features: Tensor,
    prototypes: Tensor,
    output: Tensor,
    capability: Capability,
    tiles: tuple[Tile, Tile, Tile] | None = None,
) -> None:
    """Write the residual; all three in one dense layout."""
    candidates, distances = candidate_distances(features, prototypes, capability, tiles and tiles[:2])
    batch, size, dtype = len(features), features[0].numel(), features.dtype
    tile = tiles[2] if tiles else tile_for("candidate_residual", capability, dtype)
    residual = plan_candidate_residual(batch, size, distances.shape[2], dtype, tile)
    residual(features, prototypes, candidates, distances, batch, output)


def nearest_prototype(
    features: Tensor, prototypes: Tensor, capability: Capability, tiles: tuple[Tile, Tile] | None = None
) -> Tensor:
    """(B,) int64: which prototype `write_residual` takes for each map, by the same distances."""
    candidates, distances = candidate_distances(features, prototypes, capability, tiles)
    return candidates.gather(1, distances.sum(dim=2).argmin(dim=1, keepdim=True))[:, 0].long()
