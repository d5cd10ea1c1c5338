# mypy: allow-untyped-defs
"""Everything that multi-scale fusion adds at a target scale, in one Triton kernel.

    out = sum of full maps + sum over coarse maps of U (P x + bias) + sum over fine maps of (S x + bias)

P is the 1x1 convolution of a coarse map, before it is upsampled as in `optimized.py`; U is bilinear upsampling with
aligned corners, out[y] = sum_i max(0, 1 - |y (h - 1) / (H - 1) - i|) in[i] along each side; S is a strided grouped
convolution. Only the result is written. One launch may fuse several sets of maps alike; their results lie side by side
in the channels.

A program makes TILE_H x TILE_W pixels of BLOCK_C channels. For each coarse map it projects the pixels under its tile
(one matrix product, its sum in float32), builds the tile's part of U from the formula above and multiplies by it, which
adds the upsampled map to the tile (a second product, in the map's dtype, its sum in float32). For a fine map, whose
groups have one or a few channels, each value is multiplied and added by itself.

Under neighbouring tiles lie in part the same coarse pixels, which are projected for each: the fewer pixels a tile has,
the more often; the more it has, the more rows U and the products take. In half precision tensor cores hide both behind
the memory traffic. In float32 products run on ordinary cores, in smaller tiles with still more overlap, and arithmetic
takes longer than memory. Weights come from the L2 cache. Not timed on a GPU.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from prn_fast.kernels.launch import (
    MIN_ROWS,
    Launch,
    Tile,
    capability_of,
    ceil_div,
    memory_format_of,
    pointer,
    power_of_two,
)
from prn_fast.kernels.tiles import tile_for

# About one for each multiprocessor of the largest devices.
PROGRAMS = 128


@triton.jit
def hat(position, neighbour, FULL: tl.constexpr, COARSE: tl.constexpr):
    """Weights of coarse neighbours at full-size positions along one side, corners aligned."""
    steps: tl.constexpr = FULL - 1 if FULL > 1 else 1
    # Whole numbers until here: the distance is exact.
    distance = (position * (COARSE - 1)).to(tl.float32)[:, None] - (neighbour * steps).to(tl.float32)[None, :]
    return tl.maximum(1.0 - tl.abs(distance) / steps, 0.0)


@triton.jit
def _project(
    maps,  # one image (CIN, h * w)
    weight,  # (C, CIN)
    pixel,
    pixel_inside,
    c,
    C: tl.constexpr,
    CIN: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Some pixels of a coarse map, projected to some channels: (ROWS, BLOCK_C) float32."""
    projected = tl.zeros([ROWS, BLOCK_C], tl.float32)
    for start in range(0, CIN, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        place = pixel[:, None] * CIN + k[None, :] if CHANNELS_LAST else k[None, :] * PIXELS + pixel[:, None]
        x = tl.load(maps + place, mask=pixel_inside[:, None] & (k < CIN)[None, :], other=0.0)
        w = tl.load(weight + c[None, :] * CIN + k[:, None], mask=(c < C)[None, :] & (k < CIN)[:, None], other=0.0)
        projected = tl.dot(x, w, projected, input_precision="ieee")
    return projected


@triton.jit
def _convolve(
    maps,  # one image (CIN, HIN, WIN)
    weight,  # (C, GROUP, KERNEL, KERNEL)
    y,
    x,
    c,
    C: tl.constexpr,
    CIN: tl.constexpr,
    HIN: tl.constexpr,
    WIN: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    GROUP: tl.constexpr,  # channels of a group
    CHANNELS_LAST: tl.constexpr,
):
    """A strided grouped convolution at some pixels, for some channels: (pixels, channels) float32."""
    total = tl.zeros([y.shape[0], c.shape[0]], tl.float32)
    first = c // (C * GROUP // CIN) * GROUP
    for tap in range(KERNEL * KERNEL):
        row = y * STRIDE + tap // KERNEL - KERNEL // 2
        column = x * STRIDE + tap % KERNEL - KERNEL // 2
        inside = (row >= 0) & (row < HIN) & (column >= 0) & (column < WIN)
        pixel = (row * WIN + column)[:, None]
        for item in tl.static_range(GROUP):
            source = (first + item)[None, :]
            place = pixel * CIN + source if CHANNELS_LAST else source * (HIN * WIN) + pixel
            value = tl.load(maps + place, mask=inside[:, None] & (c < C)[None, :], other=0.0)
            w = tl.load(weight + (c * GROUP + item) * (KERNEL * KERNEL) + tap, mask=c < C, other=0.0)
            total += value.to(tl.float32) * w.to(tl.float32)[None, :]
    return total


@triton.jit
def _of_set(maps, item: tl.constexpr, which, SETS: tl.constexpr):
    """The maps of one of several sets, one set after another in a tuple."""
    pointer = maps[item]
    for other in tl.static_range(1, SETS):
        if which == other:
            pointer = maps[other * (len(maps) // SETS) + item]
    return pointer


@triton.jit(do_not_specialize=["batch"])
def project_upsample_add_kernel(
    full,  # for each set maps (batch, C, H, W)
    coarse,  # for each set maps (batch, CHANNELS[i], HEIGHTS[i], WIDTHS[i])
    weights,  # (C, CHANNELS[i])
    biases,  # (C,)
    fine,  # for each set maps (batch, CIN, HIN, WIN)
    fine_weights,  # (C, GROUP, KERNEL, KERNEL)
    fine_biases,  # (C,)
    batch,
    output,  # (batch, SETS * C, H, W)
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    CHANNELS: tl.constexpr,
    HEIGHTS: tl.constexpr,
    WIDTHS: tl.constexpr,
    ACROSS: tl.constexpr,  # coarse columns under a tile
    ROWS: tl.constexpr,  # coarse pixels under a tile, rounded up to a side of a product
    FINE: tl.constexpr,  # CIN, HIN, WIN, KERNEL, STRIDE, GROUP of each fine map
    SETS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    tiles_across: tl.constexpr = (W + TILE_W - 1) // TILE_W
    top = tl.program_id(0) // tiles_across * TILE_H
    left = tl.program_id(0) % tiles_across * TILE_W
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    which = tl.program_id(2) % SETS
    b = (tl.program_id(2) // SETS).to(tl.int64)
    n = tl.arange(0, TILE_H * TILE_W)
    y, x = top + n // TILE_W, left + n % TILE_W
    inside = ((y < H) & (x < W))[:, None] & (c < C)[None, :]
    pixel = (y * W + x)[:, None]
    place = pixel * C + c[None, :] if CHANNELS_LAST else c[None, :] * (H * W) + pixel
    total = tl.zeros([TILE_H * TILE_W, BLOCK_C], tl.float32)
    for item in tl.static_range(len(full) // SETS):
        total += tl.load(_of_set(full, item, which, SETS) + b * (C * H * W) + place, mask=inside, other=0.0).to(
            tl.float32
        )
    for item in tl.static_range(len(weights)):
        total += tl.load(biases[item] + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
        m = tl.arange(0, ROWS[item])
        row = top * (HEIGHTS[item] - 1) // (H - 1 if H > 1 else 1) + m // ACROSS[item]
        column = left * (WIDTHS[item] - 1) // (W - 1 if W > 1 else 1) + m % ACROSS[item]
        projected = _project(
            _of_set(coarse, item, which, SETS) + b * (CHANNELS[item] * HEIGHTS[item] * WIDTHS[item]),
            weights[item],
            row * WIDTHS[item] + column,
            (row < HEIGHTS[item]) & (column < WIDTHS[item]),
            c,
            C,
            CHANNELS[item],
            HEIGHTS[item] * WIDTHS[item],
            CHANNELS_LAST,
            ROWS[item],
            BLOCK_C,
            BLOCK_K,
        )
        upsampling = hat(y, row, H, HEIGHTS[item]) * hat(x, column, W, WIDTHS[item])
        dtype = output.dtype.element_ty
        total = tl.dot(upsampling.to(dtype), projected.to(dtype), total, input_precision="ieee")
    for item in tl.static_range(len(fine_weights)):
        maps = _of_set(fine, item, which, SETS) + b * (FINE[item][0] * FINE[item][1] * FINE[item][2])
        total += tl.load(fine_biases[item] + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
        total += _convolve(
            maps,
            fine_weights[item],
            y,
            x,
            c,
            C,
            FINE[item][0],
            FINE[item][1],
            FINE[item][2],
            FINE[item][3],
            FINE[item][4],
            FINE[item][5],
            CHANNELS_LAST,
        )
    place = pixel * (SETS * C) + c[None, :] if CHANNELS_LAST else place
    target = output + (b * SETS * (C * H * W) + which * (C if CHANNELS_LAST else C * H * W))
    tl.store(target + place, total.to(output.dtype.element_ty), mask=inside)


def under_tile(tile: int, full: int, coarse: int) -> int:
    """Most coarse positions along a side that a tile of full-size positions needs, corners aligned."""
    return min(coarse, ceil_div((tile - 1) * (coarse - 1), max(full - 1, 1)) + 2)


def grid_of(blocks: Mapping[str, int], batch: int, channels: int, height: int, width: int) -> tuple[int, int, int]:
    """Programs: tiles of pixels, blocks of channels, images."""
    pixels = ceil_div(height, blocks["TILE_H"]) * ceil_div(width, blocks["TILE_W"])
    return pixels, ceil_div(channels, blocks["BLOCK_C"]), batch


def fit_tile(blocks: Mapping[str, int], batch: int, channels: int, height: int, width: int) -> dict[str, int]:
    """Block sizes no larger than the map, and smaller while there are fewer programs than multiprocessors."""
    fitted = dict(blocks)
    fitted["TILE_W"] = min(blocks["TILE_W"], power_of_two(width))
    least_height = max(1, MIN_ROWS // fitted["TILE_W"])
    fitted["TILE_H"] = max(least_height, min(blocks["TILE_H"], power_of_two(height)))
    fitted["BLOCK_C"] = max(MIN_ROWS, min(blocks["BLOCK_C"], power_of_two(channels)))
    while math.prod(grid_of(fitted, batch, channels, height, width)) < PROGRAMS:
        # Fewer channels per program repeat reads of the coarse maps; fewer rows also repeat arithmetic.
        if fitted["BLOCK_C"] > 2 * MIN_ROWS:
            fitted["BLOCK_C"] //= 2
        elif fitted["TILE_H"] > max(2, least_height):
            fitted["TILE_H"] //= 2
        else:
            break
    return fitted


def plan_project_upsample_add(
    batch: int,
    channels: int,
    height: int,
    width: int,
    full: int,
    coarse: Sequence[tuple[int, int, int]],
    dtype: torch.dtype,
    channels_last: bool,
    tile: Tile,
    fine: Sequence[tuple[int, int, int, int, int, int]] = (),
    sets: int = 1,
) -> Launch:
    """Launch of `project_upsample_add_kernel`.

    Args:
        full: number of full maps.
        coarse: channels, height and width of each coarse map.
        fine: channels, height and width, side of the kernel, stride, and channels of a group of each fine map.
        sets: number of sets of maps that are fused alike.
    """
    blocks = fit_tile(tile.blocks, sets * batch, channels, height, width)
    if fine:
        # Besides sums it needs addresses of single values: with all channels, four warps would spill registers.
        blocks["BLOCK_C"] = max(MIN_ROWS, blocks["BLOCK_C"] // 2)
    down = [under_tile(blocks["TILE_H"], height, one[1]) for one in coarse]
    across = [under_tile(blocks["TILE_W"], width, one[2]) for one in coarse]
    kind = pointer(dtype)
    return Launch(
        project_upsample_add_kernel,
        {
            "full": (kind,) * (sets * full),
            "coarse": (kind,) * (sets * len(coarse)),
            "weights": (kind,) * len(coarse),
            "biases": (kind,) * len(coarse),
            "fine": (kind,) * (sets * len(fine)),
            "fine_weights": (kind,) * len(fine),
            "fine_biases": (kind,) * len(fine),
            "batch": "i32",
            "output": kind,
        },
        {
            "C": channels,
            "H": height,
            "W": width,
            "CHANNELS": tuple(one[0] for one in coarse),
            "HEIGHTS": tuple(one[1] for one in coarse),
            "WIDTHS": tuple(one[2] for one in coarse),
            "ACROSS": tuple(across),
            "ROWS": tuple(max(MIN_ROWS, power_of_two(h * w)) for h, w in zip(down, across, strict=True)),
            "FINE": tuple(fine),
            "SETS": sets,
            "CHANNELS_LAST": channels_last,
            **blocks,
        },
        grid_of(blocks, sets * batch, channels, height, width),
        tile,
    )


def fuse_scale(
    full: Sequence[Tensor],
    coarse: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    fine: Sequence[Tensor] = (),
    fine_weights: Sequence[Tensor] = (),
    fine_biases: Sequence[Tensor] = (),
    strides: Sequence[int] = (),
    sets: int = 1,
    tile: Tile | None = None,
) -> Tensor:
    """The function that `optimized.fuse_scale` defines, on a GPU (or the CPU in Triton's interpreter).

    Args:
        full, coarse, weights, biases, fine, fine_weights, fine_biases, strides, sets: as there; maps are float16,
            bfloat16 or float32.
        tile: by default the device's.
    Returns:
        (B, sets * C, H, W) in the first map's layout.
    """
    first, dtype = full[0], full[0].dtype
    batch, channels, height, width = first.shape
    layout = memory_format_of(first)
    out = torch.empty((batch, sets * channels, height, width), dtype=dtype, device=first.device, memory_format=layout)
    launch = plan_project_upsample_add(
        batch,
        channels,
        height,
        width,
        len(full) // sets,
        [(one.shape[1], one.shape[2], one.shape[3]) for one in coarse[: len(weights)]],
        dtype,
        layout == torch.channels_last,
        tile or tile_for("project_upsample_add", capability_of(first), dtype),
        [
            (*one.shape[1:], weight.shape[2], stride, weight.shape[1])
            for one, weight, stride in zip(fine, fine_weights, strides, strict=False)
        ],
        sets,
    )
    launch(
        *(tuple(one.contiguous(memory_format=layout) for one in maps) for maps in (full, coarse)),
        tuple(one.to(dtype).reshape(channels, -1).contiguous() for one in weights),
        tuple(one.to(dtype).contiguous() for one in biases),
        tuple(one.contiguous(memory_format=layout) for one in fine),
        tuple(one.to(dtype).contiguous() for one in fine_weights),
        tuple(one.to(dtype).contiguous() for one in fine_biases),
        batch,
        out,
    )
    return out


def project_upsample_add(
    full: Sequence[Tensor],
    coarse: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    tile: Tile | None = None,
) -> Tensor:
    """The function that `optimized.project_upsample_add` defines: what training asks for."""
    return fuse_scale(full, coarse, weights, biases, tile=tile)
