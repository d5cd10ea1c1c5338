# mypy: allow-untyped-defs
"""Anomaly map and score in two Triton kernels, the learned score in two, stitching in another.

1. `top_pixels_kernel`: a program writes the sigmoid of BLOCK logits, and the 100 largest of them as candidates.
2. `score_kernel`: the mean of the 100 largest of an image's candidates.
3. `top_logits_kernel`: as the first, on logits, with their sum and the sum of their squared distances from the mean.
4. `learned_score_kernel`: means of the largest, mean and spread of an image's logits, and their weighted sum.
5. `stitch_kernel`: a program writes part of a strip's line from the few tiles that reach it.

The 100 largest are found without sorting. Values in 0..1 order like the integers that their bits spell, and the 100th
largest integer is built from its highest bits down, two at a time: they become the largest of 0 to 3 with which at
least 100 integers are still not below. Three counts, for 1, 2 and 3, share one sum over the program, so that 31 bits
take 16 rounds. All larger values count, and as many equal ones as make up 100: exact, whatever the ties.
Logits are cut to -10..10 and raised by 10, so that they, too, are positive.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from prn_fast.kernels.anomaly_score.reference import (
    LARGEST,
    LOGIT_LIMIT,
    TOP_PIXELS,
    check_logits,
    check_tile_maps,
    check_weights,
)
from prn_fast.kernels.launch import Launch, Tile, capability_of, ceil_div, pointer, power_of_two
from prn_fast.kernels.tile_normalize.reference import tile_starts
from prn_fast.kernels.tiles import tile_for

# NaN as an integer above all values in 0..1; its sign, which would make it the smallest, is dropped.
NAN_BITS = tl.constexpr(0x7FC00000)


@triton.jit
def _keys(values, inside):
    """Integers in the order of float32 values in 0..1; NaN above them, values outside below."""
    bits = tl.where(values == values, values.to(tl.int32, bitcast=True), NAN_BITS)
    return tl.where(inside, bits, -1)


@triton.jit
def _reached(keys, threshold, shift):
    """For each key, whether it reaches `threshold` with 1, 2 and 3 in the next two bits; 20 bits for each."""
    first = (keys >= (threshold | (1 << shift))).to(tl.int64)
    second = (keys >= (threshold | (2 << shift))).to(tl.int64)
    third = (keys >= (threshold | (3 << shift))).to(tl.int64)
    return first + (second << 20) + (third << 40)


@triton.jit
def _with_bits(threshold, shift, counts, TOP: tl.constexpr):
    """The threshold with its next two bits, from the sum of `_reached`."""
    bits = ((counts & 0xFFFFF) >= TOP).to(tl.int32) + (((counts >> 20) & 0xFFFFF) >= TOP).to(tl.int32)
    return threshold | ((bits + ((counts >> 40) >= TOP).to(tl.int32)) << shift)


# The highest of 31 bits is found by itself.
HIGHEST = tl.constexpr(1 << 30)
ROUNDS = tl.constexpr(15)


@triton.jit
def _threshold_of(keys, TOP: tl.constexpr):
    """The TOP-th largest of a program's integers; negative ones do not count."""
    threshold = tl.where(tl.sum((keys >= HIGHEST).to(tl.int32), axis=0) >= TOP, HIGHEST, 0)
    for step in range(ROUNDS):
        shift = 2 * (ROUNDS - 1 - step)
        threshold = _with_bits(threshold, shift, tl.sum(_reached(keys, threshold, shift), axis=0), TOP)
    return threshold


@triton.jit
def _threshold_in_memory(source, lane, COUNT: tl.constexpr, TOP: tl.constexpr, BLOCK: tl.constexpr):
    """The same of COUNT values, which every round reads again, from the cache: any number fits."""
    highest = tl.zeros([BLOCK], tl.int32)
    for start in range(0, COUNT, BLOCK):
        inside = start + lane < COUNT
        highest += (_keys(tl.load(source + start + lane, mask=inside, other=0.0), inside) >= HIGHEST).to(tl.int32)
    threshold = tl.where(tl.sum(highest, axis=0) >= TOP, HIGHEST, 0)
    for step in range(ROUNDS):
        shift = 2 * (ROUNDS - 1 - step)
        counts = tl.zeros([BLOCK], tl.int64)
        for start in range(0, COUNT, BLOCK):
            inside = start + lane < COUNT
            keys = _keys(tl.load(source + start + lane, mask=inside, other=0.0), inside)
            counts += _reached(keys, threshold, shift)
        threshold = _with_bits(threshold, shift, tl.sum(counts, axis=0), TOP)
    return threshold


@triton.jit
def _mean_of_largest(source, lane, COUNT: tl.constexpr, TOP: tl.constexpr, BLOCK: tl.constexpr):
    """The mean of the TOP largest of COUNT values that are not negative; read once where a block holds them all."""
    if COUNT <= BLOCK:
        inside = lane < COUNT
        values = tl.load(source + lane, mask=inside, other=0.0)
        keys = _keys(values, inside)
        threshold = _threshold_of(keys, TOP)
        larger = keys > threshold
        above = larger.to(tl.int32)
        total = tl.where(larger, values, 0.0)
    else:
        threshold = _threshold_in_memory(source, lane, COUNT, TOP, BLOCK)
        above = tl.zeros([BLOCK], tl.int32)
        total = tl.zeros([BLOCK], tl.float32)
        for start in range(0, COUNT, BLOCK):
            inside = start + lane < COUNT
            values = tl.load(source + start + lane, mask=inside, other=0.0)
            larger = _keys(values, inside) > threshold
            above += larger.to(tl.int32)
            total += tl.where(larger, values, 0.0)
    missing = TOP - tl.sum(above, axis=0)
    equal = tl.full([1], threshold, tl.int32).to(tl.float32, bitcast=True)
    return (tl.sum(total, axis=0) + missing * equal) / TOP


@triton.jit
def _store_largest(values, keys, target, TOP: tl.constexpr, PADDED_TOP: tl.constexpr):
    """Write the TOP largest of a program's values, in no order."""
    threshold = _threshold_of(keys, TOP)
    above = (keys > threshold).to(tl.int32)
    tl.store(target + tl.cumsum(above, axis=0) - 1, values, mask=above > 0)
    # A program with fewer than TOP pixels is padded with zeros, which never displace a pixel: none is below zero.
    place = tl.arange(0, PADDED_TOP)
    rest = tl.full([PADDED_TOP], threshold, tl.int32).to(tl.float32, bitcast=True)
    tl.store(target + place, rest, mask=(place >= tl.sum(above, axis=0)) & (place < TOP))


@triton.jit(do_not_specialize=["batch"])
def top_pixels_kernel(
    logits,  # (batch, SIZE)
    batch,
    maps,  # (batch, SIZE) float32
    candidates,  # (batch, splits, TOP) float32
    SIZE: tl.constexpr,
    TOP: tl.constexpr,
    PADDED_TOP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    split = tl.program_id(0)
    b = tl.program_id(1).to(tl.int64)
    index = split * BLOCK + tl.arange(0, BLOCK)
    inside = index < SIZE
    values = tl.sigmoid(tl.load(logits + b * SIZE + index, mask=inside, other=0.0).to(tl.float32))
    tl.store(maps + b * SIZE + index, values, mask=inside)
    target = candidates + (b * tl.num_programs(0) + split) * TOP
    _store_largest(values, _keys(values, inside), target, TOP, PADDED_TOP)


@triton.jit(do_not_specialize=["batch"])
def score_kernel(
    candidates,  # (batch, COUNT) float32
    batch,
    scores,  # (batch,) float32
    COUNT: tl.constexpr,
    TOP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    score = _mean_of_largest(candidates + b * COUNT, tl.arange(0, BLOCK), COUNT, TOP, BLOCK)
    tl.store(scores + b + tl.arange(0, 1), score)


@triton.jit(do_not_specialize=["batch"])
def top_logits_kernel(
    logits,  # (batch, SIZE)
    batch,
    candidates,  # (batch, splits, TOP) float32
    sums,  # (batch, splits, 2) float32
    SIZE: tl.constexpr,
    TOP: tl.constexpr,
    PADDED_TOP: tl.constexpr,
    LIMIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    split = tl.program_id(0)
    b = tl.program_id(1).to(tl.int64)
    index = split * BLOCK + tl.arange(0, BLOCK)
    inside = index < SIZE
    given = tl.load(logits + b * SIZE + index, mask=inside, other=-LIMIT).to(tl.float32)
    raised = tl.minimum(tl.maximum(given, -LIMIT), LIMIT) + LIMIT
    values = tl.where(given == given, raised, given)
    count = tl.minimum(SIZE - split * BLOCK, BLOCK)
    total = tl.sum(values, axis=0)
    difference = tl.where(inside, values - total / count, 0.0)
    place = b * tl.num_programs(0) + split
    one = tl.arange(0, 1)
    tl.store(sums + place * 2 + one, total)
    tl.store(sums + place * 2 + 1 + one, tl.sum(difference * difference, axis=0))
    _store_largest(values, _keys(values, inside), candidates + place * TOP, TOP, PADDED_TOP)


@triton.jit(do_not_specialize=["batch"])
def learned_score_kernel(
    candidates,  # (batch, SPLITS, THIRD) float32: raised logits
    sums,  # (batch, SPLITS, 2) float32: of the raised logits, and of their squared distances from the split's mean
    weights,  # (5,) float32: of the largest FIRST, SECOND and THIRD, of mean and spread
    offsets,  # (batch,) float32
    batch,
    scores,  # (batch,) float32
    SIZE: tl.constexpr,  # logits of an image
    SPLIT: tl.constexpr,  # logits of a split; the last has the rest
    SPLITS: tl.constexpr,
    PADDED_SPLITS: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    THIRD: tl.constexpr,
    LIMIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, PADDED_SPLITS)
    counted = split < SPLITS
    count = tl.where(counted, tl.minimum(SIZE - split * SPLIT, SPLIT), 1).to(tl.float32)
    totals = tl.load(sums + (b * SPLITS + split) * 2, mask=counted, other=0.0)
    squares = tl.load(sums + (b * SPLITS + split) * 2 + 1, mask=counted, other=0.0)
    mean = tl.sum(totals, axis=0) / SIZE
    # Over splits, squared distances add up with those of the splits' means.
    apart = tl.where(counted, totals / count - mean, 0.0)
    spread = tl.sqrt(tl.sum(squares + count * apart * apart, axis=0) / SIZE)
    lane = tl.arange(0, BLOCK)
    source = candidates + b * SPLITS * THIRD
    first = _mean_of_largest(source, lane, SPLITS * THIRD, FIRST, BLOCK) - LIMIT
    second = _mean_of_largest(source, lane, SPLITS * THIRD, SECOND, BLOCK) - LIMIT
    third = _mean_of_largest(source, lane, SPLITS * THIRD, THIRD, BLOCK) - LIMIT
    one = tl.arange(0, 1)
    decision = first * tl.load(weights + one) + second * tl.load(weights + 1 + one)
    decision += third * tl.load(weights + 2 + one) + (mean - LIMIT) * tl.load(weights + 3 + one)
    decision += spread * tl.load(weights + 4 + one) + tl.load(offsets + b + one)
    tl.store(scores + b + one, tl.sigmoid(decision))


@triton.jit
def _triangle(place, SIDE: tl.constexpr):
    """The weight of a tile's pixel along one direction; zero outside the tile."""
    return tl.maximum(tl.minimum(place + 1, SIDE - place), 0)


@triton.jit(do_not_specialize=["lines"])
def stitch_kernel(
    maps,  # (N, SIDE, SIDE)
    lines,
    strip,  # (lines, WIDTH)
    WIDTH: tl.constexpr,
    SIDE: tl.constexpr,
    STRIDE: tl.constexpr,
    ACROSS: tl.constexpr,  # tiles along a line
    REACH: tl.constexpr,  # most tiles along a direction that reach one pixel
    BLOCK: tl.constexpr,
):
    y = tl.program_id(0)
    x = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    down = (lines - SIDE + STRIDE - 1) // STRIDE + 1
    # The first tiles whose end is not yet passed.
    first_row = tl.maximum(y - SIDE + STRIDE, 0) // STRIDE
    first_column = tl.maximum(x - SIDE + STRIDE, 0) // STRIDE
    total = tl.zeros([BLOCK], tl.float32)
    weight_sum = tl.zeros([BLOCK], tl.float32)
    for i in range(REACH):
        row = first_row + i
        tile_y = y - tl.minimum(row * STRIDE, lines - SIDE)
        if (row < down) & (tile_y >= 0) & (tile_y < SIDE):
            for j in tl.static_range(REACH):
                column = first_column + j
                tile_x = x - tl.minimum(column * STRIDE, WIDTH - SIDE)
                inside = (column < ACROSS) & (x < WIDTH)
                weight = tl.where(inside, _triangle(tile_x, SIDE), 0) * _triangle(tile_y, SIDE)
                n = (row * ACROSS + column).to(tl.int64)
                value = tl.load(maps + (n * SIDE + tile_y) * SIDE + tile_x, mask=weight > 0, other=0.0)
                total += weight.to(tl.float32) * value.to(tl.float32)
                weight_sum += weight.to(tl.float32)
    target = strip + y.to(tl.int64) * WIDTH + x
    # At least one inside the strip.
    weight_sum = tl.maximum(weight_sum, 1.0)
    tl.store(target, (total / weight_sum).to(strip.dtype.element_ty), mask=x < WIDTH)


def plan_top_pixels(batch: int, size: int, dtype: torch.dtype, tile: Tile) -> Launch:
    """Launch of `top_pixels_kernel` for `batch` maps of `size` pixels."""
    return Launch(
        top_pixels_kernel,
        {"logits": pointer(dtype), "batch": "i32", "maps": "*fp32", "candidates": "*fp32"},
        {"SIZE": size, "TOP": TOP_PIXELS, "PADDED_TOP": power_of_two(TOP_PIXELS), **tile.blocks},
        (ceil_div(size, tile.blocks["BLOCK"]), batch),
        tile,
    )


def plan_score(batch: int, splits: int, tile: Tile) -> Launch:
    """Launch of `score_kernel` on the candidates of all splits."""
    count = splits * TOP_PIXELS
    blocks = {**tile.blocks, "BLOCK": min(tile.blocks["BLOCK"], power_of_two(count))}
    return Launch(
        score_kernel,
        {"candidates": "*fp32", "batch": "i32", "scores": "*fp32"},
        {"COUNT": count, "TOP": TOP_PIXELS, **blocks},
        (batch,),
        tile,
    )


def plan_top_logits(batch: int, size: int, dtype: torch.dtype, tile: Tile) -> Launch:
    """Launch of `top_logits_kernel` for `batch` maps of `size` pixels."""
    top = LARGEST[-1]
    return Launch(
        top_logits_kernel,
        {"logits": pointer(dtype), "batch": "i32", "candidates": "*fp32", "sums": "*fp32"},
        {"SIZE": size, "TOP": top, "PADDED_TOP": power_of_two(top), "LIMIT": LOGIT_LIMIT, **tile.blocks},
        (ceil_div(size, tile.blocks["BLOCK"]), batch),
        tile,
    )


def plan_learned_score(batch: int, size: int, top_logits: Launch, tile: Tile) -> Launch:
    """Launch of `learned_score_kernel` on what `top_logits` leaves of maps of `size` pixels."""
    first, second, third = LARGEST
    splits = top_logits.grid[0]
    return Launch(
        learned_score_kernel,
        {
            "candidates": "*fp32",
            "sums": "*fp32",
            "weights": "*fp32",
            "offsets": "*fp32",
            "batch": "i32",
            "scores": "*fp32",
        },
        {
            "SIZE": size,
            "SPLIT": top_logits.tile.blocks["BLOCK"],
            "SPLITS": splits,
            "PADDED_SPLITS": power_of_two(splits),
            "FIRST": first,
            "SECOND": second,
            "THIRD": third,
            "LIMIT": LOGIT_LIMIT,
            **tile.blocks,
            "BLOCK": min(tile.blocks["BLOCK"], power_of_two(splits * third)),
        },
        (batch,),
        tile,
    )


def plan_stitch(lines: int, width: int, side: int, overlap: int, dtype: torch.dtype, tile: Tile) -> Launch:
    """Launch of `stitch_kernel` for the tiles of a strip."""
    stride = side - overlap
    return Launch(
        stitch_kernel,
        {"maps": pointer(dtype), "lines": "i32", "strip": pointer(dtype)},
        {
            "WIDTH": width,
            "SIDE": side,
            "STRIDE": stride,
            "ACROSS": len(tile_starts(width, side, overlap)),
            # The last tile is moved back, so that one more reaches its pixels.
            "REACH": ceil_div(side, stride) + 1,
            **tile.blocks,
        },
        (lines, ceil_div(width, tile.blocks["BLOCK"])),
        tile,
    )


def anomaly_score(logits: Tensor, tiles: tuple[Tile, Tile] | None = None) -> tuple[Tensor, Tensor]:
    """The function that `reference.anomaly_score` defines, on a GPU (or the CPU in Triton's interpreter).

    Args:
        logits: (B, 1, H, W), float16, bfloat16 or float32.
        tiles: of the two kernels; by default the device's.
    Returns:
        scores (B,) and maps (B, H, W), float32.
    """
    check_logits(logits)
    logits = logits.contiguous()
    batch, _, height, width = logits.shape
    capability = capability_of(logits)
    top_tile, score_tile = tiles or (
        tile_for("top_pixels", capability, logits.dtype),
        tile_for("score", capability, logits.dtype),
    )
    top_pixels = plan_top_pixels(batch, height * width, logits.dtype, top_tile)
    splits = top_pixels.grid[0]
    maps = torch.empty(batch, height, width, dtype=torch.float32, device=logits.device)
    candidates = torch.empty(batch, splits, TOP_PIXELS, dtype=torch.float32, device=logits.device)
    scores = torch.empty(batch, dtype=torch.float32, device=logits.device)
    top_pixels(logits, batch, maps, candidates)
    plan_score(batch, splits, score_tile)(candidates, batch, scores)
    return scores, maps


def learned_score(logits: Tensor, weights: Tensor, offsets: Tensor, tiles: tuple[Tile, Tile] | None = None) -> Tensor:
    """The function that `reference.learned_score` defines, on a GPU (or the CPU in Triton's interpreter).

    Args:
        logits: (B, 1, H, W), float16, bfloat16 or float32.
        weights: (5,), floating point.
        offsets: (B,), floating point.
        tiles: of the two kernels; by default the device's.
    Returns:
        scores (B,), float32.
    """
    check_logits(logits)
    check_weights(weights)
    logits, weights, offsets = logits.contiguous(), weights.float().contiguous(), offsets.float().contiguous()
    batch, _, height, width = logits.shape
    capability = capability_of(logits)
    top_tile, score_tile = tiles or (
        tile_for("top_logits", capability, logits.dtype),
        tile_for("learned_score", capability, logits.dtype),
    )
    top_logits = plan_top_logits(batch, height * width, logits.dtype, top_tile)
    splits = top_logits.grid[0]
    candidates = torch.empty(batch, splits, LARGEST[-1], dtype=torch.float32, device=logits.device)
    sums = torch.empty(batch, splits, 2, dtype=torch.float32, device=logits.device)
    scores = torch.empty(batch, dtype=torch.float32, device=logits.device)
    top_logits(logits, batch, candidates, sums)
    plan_learned_score(batch, height * width, top_logits, score_tile)(candidates, sums, weights, offsets, batch, scores)
    return scores


def stitch_tiles(maps: Tensor, lines: int, width: int, overlap: int, tile: Tile | None = None) -> Tensor:
    """The function that `reference.stitch_tiles` defines, on a GPU (or the CPU in Triton's interpreter)."""
    check_tile_maps(maps, lines, width, overlap)
    maps = maps.contiguous()
    strip = torch.empty(lines, width, dtype=maps.dtype, device=maps.device)
    tile = tile or tile_for("stitch", capability_of(maps), maps.dtype)
    plan_stitch(lines, width, maps.shape[1], overlap, maps.dtype, tile)(maps, lines, strip)
    return strip
