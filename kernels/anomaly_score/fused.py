# mypy: allow-untyped-defs
"""Anomaly map and score in two Triton kernels, stitching in a third.

1. `top_pixels_kernel`: a program writes the sigmoid of BLOCK logits, and the 100 largest of them as candidates.
2. `score_kernel`: the mean of the 100 largest of an image's candidates.
3. `stitch_kernel`: a program writes part of a strip's line from the few tiles that reach it.

The 100 largest are found without sorting. Values in 0..1 order like the integers that their bits spell, and the 100th
largest integer is built from its highest bit down: a bit is set if at least 100 integers are still not below. All
larger values count once, and as many equal ones as are missing to 100: exact, whatever the ties.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from prn_fast.kernels.anomaly_score.reference import TOP_PIXELS, check_logits, check_tile_maps
from prn_fast.kernels.launch import Launch, Tile, capability_of, ceil_div, pointer, power_of_two
from prn_fast.kernels.tile_normalize.reference import tile_starts
from prn_fast.kernels.tiles import tile_for

# NaN as an integer, above all of 0..1; its sign, which would make it the smallest, is dropped.
NAN_BITS = tl.constexpr(0x7FC00000)


@triton.jit
def _keys(values, inside):
    """Integers in the order of float32 values in 0..1; NaN above them, values outside below."""
    bits = tl.where(values == values, values.to(tl.int32, bitcast=True), NAN_BITS)
    return tl.where(inside, bits, -1)


@triton.jit
def _with_bit(threshold, step):
    """The threshold with its next bit set, in 31 steps from the highest: the integers are not negative."""
    return threshold | (1 << (30 - step))


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
    keys = _keys(values, inside)
    threshold = 0
    for step in range(31):
        trial = _with_bit(threshold, step)
        threshold = tl.where(tl.sum((keys >= trial).to(tl.int32), axis=0) >= TOP, trial, threshold)
    above = (keys > threshold).to(tl.int32)
    target = candidates + (b * tl.num_programs(0) + split) * TOP
    tl.store(target + tl.cumsum(above, axis=0) - 1, values, mask=above > 0)
    # A program with fewer than TOP pixels fills up with zeros, which never displace a pixel: none is below zero.
    place = tl.arange(0, PADDED_TOP)
    rest = tl.full([PADDED_TOP], threshold, tl.int32).to(tl.float32, bitcast=True)
    tl.store(target + place, rest, mask=(place >= tl.sum(above, axis=0)) & (place < TOP))


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
    lane = tl.arange(0, BLOCK)
    source = candidates + b * COUNT + lane
    threshold = 0
    for step in range(31):
        trial = _with_bit(threshold, step)
        reached = tl.zeros([BLOCK], tl.int32)
        # Read again for every bit, from the cache: any number of candidates fits.
        for start in range(0, COUNT, BLOCK):
            inside = start + lane < COUNT
            values = tl.load(source + start, mask=inside, other=0.0)
            reached += (_keys(values, inside) >= trial).to(tl.int32)
        threshold = tl.where(tl.sum(reached, axis=0) >= TOP, trial, threshold)
    above = tl.zeros([BLOCK], tl.int32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, COUNT, BLOCK):
        inside = start + lane < COUNT
        values = tl.load(source + start, mask=inside, other=0.0)
        larger = _keys(values, inside) > threshold
        above += larger.to(tl.int32)
        total += tl.where(larger, values, 0.0)
    missing = TOP - tl.sum(above, axis=0)
    equal = tl.full([1], threshold, tl.int32).to(tl.float32, bitcast=True)
    tl.store(scores + b + tl.arange(0, 1), (tl.sum(total, axis=0) + missing * equal) / TOP)


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
    """Launch of `score_kernel` on the candidates of so many splits."""
    count = splits * TOP_PIXELS
    blocks = {**tile.blocks, "BLOCK": min(tile.blocks["BLOCK"], power_of_two(count))}
    return Launch(
        score_kernel,
        {"candidates": "*fp32", "batch": "i32", "scores": "*fp32"},
        {"COUNT": count, "TOP": TOP_PIXELS, **blocks},
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


def stitch_tiles(maps: Tensor, lines: int, width: int, overlap: int, tile: Tile | None = None) -> Tensor:
    """The function that `reference.stitch_tiles` defines, on a GPU (or the CPU in Triton's interpreter)."""
    check_tile_maps(maps, lines, width, overlap)
    maps = maps.contiguous()
    strip = torch.empty(lines, width, dtype=maps.dtype, device=maps.device)
    tile = tile or tile_for("stitch", capability_of(maps), maps.dtype)
    plan_stitch(lines, width, maps.shape[1], overlap, maps.dtype, tile)(maps, lines, strip)
    return strip
