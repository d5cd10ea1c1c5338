# mypy: allow-untyped-defs
"""Projection, upsampling and adding of multi-scale fusion in one Triton kernel a target scale.

    out = sum of full maps + sum over coarse maps of U (P x + bias)

P is the 1x1 convolution of a coarse map, on the map before it is upsampled as in `lean.py`; U is bilinear upsampling
with aligned corners, out[y] = sum_i max(0, 1 - |y (h - 1) / (H - 1) - i|) in[i] along each side. Nothing is written but
the result.

A program makes TILE_H x TILE_W pixels of BLOCK_C channels. For each coarse map it projects the pixels under its tile
(one matrix product, its sum in float32), builds the tile's part of U from the formula above and multiplies by it, which
adds the upsampled map to the tile (a second product, in the map's dtype, its sum in float32).

Reckoning for the finest scale of ResNet-18 in half precision (64 channels at 64x64 from 128 at 32x32 and 256 at 16x16),
tiles of 8 x 16 pixels and all 64 channels: 6 x 10 and 4 x 6 coarse pixels lie under a tile, 64 and 32 rows of a
product. That is 2 and 4 times the pixels that projecting the whole map would take. All products together, 3.7 MFLOP a
tile, are 117 MFLOP an image: 0.2 microseconds at half of an H100's 1,000 TFLOP/s, beside 1.4 MB at 3 TB/s, 0.5
microseconds. Building U takes some 8 operations for each of 128 x 96 values a tile, less than that. Weights, 48 KB
a tile, come from the L2 cache. Half the pixels in a tile would double their share; 16 x 16 pixels need 128 and 64 rows,
and U grows fourfold. In float32 the products run on ordinary cores, in smaller tiles with still more overlap: there
arithmetic, 160 MFLOP an image, takes longer than memory.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from prn_fast.kernels.launch import (
    LEAST_ROWS,
    Launch,
    Tile,
    capability_of,
    ceil_div,
    memory_format_of,
    pointer,
    power_of_two,
    slice_strides,
)
from prn_fast.kernels.tiles import tile_for

# About one for each multiprocessor of the largest devices.
PROGRAMS = 128


@triton.jit
def _hat(position, neighbour, FULL: tl.constexpr, COARSE: tl.constexpr):
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


@triton.jit(do_not_specialize=["batch"])
def project_upsample_add_kernel(
    full,  # maps (batch, C, H, W)
    coarse,  # maps (batch, CHANNELS[i], HEIGHTS[i], WIDTHS[i])
    weights,  # (C, CHANNELS[i])
    biases,  # (C,)
    batch,
    output,  # (batch, C, H, W), pixels PIXEL_STRIDE (channels-last) and maps BATCH_STRIDE apart
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    CHANNELS: tl.constexpr,
    HEIGHTS: tl.constexpr,
    WIDTHS: tl.constexpr,
    ACROSS: tl.constexpr,  # coarse columns under a tile
    ROWS: tl.constexpr,  # coarse pixels under a tile, rounded up to a side of a product
    CHANNELS_LAST: tl.constexpr,
    PIXEL_STRIDE: tl.constexpr,
    BATCH_STRIDE: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    tiles_across: tl.constexpr = (W + TILE_W - 1) // TILE_W
    top = tl.program_id(0) // tiles_across * TILE_H
    left = tl.program_id(0) % tiles_across * TILE_W
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    b = tl.program_id(2).to(tl.int64)
    n = tl.arange(0, TILE_H * TILE_W)
    y, x = top + n // TILE_W, left + n % TILE_W
    inside = ((y < H) & (x < W))[:, None] & (c < C)[None, :]
    pixel = (y * W + x)[:, None]
    place = pixel * C + c[None, :] if CHANNELS_LAST else c[None, :] * (H * W) + pixel
    total = tl.zeros([TILE_H * TILE_W, BLOCK_C], tl.float32)
    for item in tl.static_range(len(full)):
        total += tl.load(full[item] + b * (C * H * W) + place, mask=inside, other=0.0).to(tl.float32)
    for item in tl.static_range(len(coarse)):
        total += tl.load(biases[item] + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
        m = tl.arange(0, ROWS[item])
        row = top * (HEIGHTS[item] - 1) // (H - 1 if H > 1 else 1) + m // ACROSS[item]
        column = left * (WIDTHS[item] - 1) // (W - 1 if W > 1 else 1) + m % ACROSS[item]
        projected = _project(
            coarse[item] + b * (CHANNELS[item] * HEIGHTS[item] * WIDTHS[item]),
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
        upsampling = _hat(y, row, H, HEIGHTS[item]) * _hat(x, column, W, WIDTHS[item])
        dtype = output.dtype.element_ty
        total = tl.dot(upsampling.to(dtype), projected.to(dtype), total, input_precision="ieee")
    place = pixel * PIXEL_STRIDE + c[None, :] if CHANNELS_LAST else place
    tl.store(output + b * BATCH_STRIDE + place, total.to(output.dtype.element_ty), mask=inside)


def under_tile(tile: int, full: int, coarse: int) -> int:
    """Most coarse positions along a side that a tile of so many full-size positions needs, corners aligned."""
    return min(coarse, ceil_div((tile - 1) * (coarse - 1), max(full - 1, 1)) + 2)


def grid_of(blocks: Mapping[str, int], batch: int, channels: int, height: int, width: int) -> tuple[int, int, int]:
    """Programs: tiles of pixels, blocks of channels, images."""
    pixels = ceil_div(height, blocks["TILE_H"]) * ceil_div(width, blocks["TILE_W"])
    return pixels, ceil_div(channels, blocks["BLOCK_C"]), batch


def fit_tile(blocks: Mapping[str, int], batch: int, channels: int, height: int, width: int) -> dict[str, int]:
    """Block sizes no larger than the map, and smaller while there are fewer programs than multiprocessors."""
    fitted = dict(blocks)
    fitted["TILE_W"] = min(blocks["TILE_W"], power_of_two(width))
    least_height = max(1, LEAST_ROWS // fitted["TILE_W"])
    fitted["TILE_H"] = max(least_height, min(blocks["TILE_H"], power_of_two(height)))
    fitted["BLOCK_C"] = max(LEAST_ROWS, min(blocks["BLOCK_C"], power_of_two(channels)))
    while math.prod(grid_of(fitted, batch, channels, height, width)) < PROGRAMS:
        # Fewer channels a program repeat reads of the coarse maps, fewer rows also repeat arithmetic.
        if fitted["BLOCK_C"] > 2 * LEAST_ROWS:
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
    strides: tuple[int, int] | None = None,
) -> Launch:
    """Launch of `project_upsample_add_kernel`.

    Args:
        full: number of full maps.
        coarse: channels, height and width of each coarse map.
        strides: of the output, between pixels (used if channels-last) and between maps; dense by default.
    """
    blocks = fit_tile(tile.blocks, batch, channels, height, width)
    down = [under_tile(blocks["TILE_H"], height, one[1]) for one in coarse]
    across = [under_tile(blocks["TILE_W"], width, one[2]) for one in coarse]
    pixel_stride, batch_stride = strides or (channels, channels * height * width)
    maps = (pointer(dtype),) * len(coarse)
    return Launch(
        project_upsample_add_kernel,
        {
            "full": (pointer(dtype),) * full,
            "coarse": maps,
            "weights": maps,
            "biases": maps,
            "batch": "i32",
            "output": pointer(dtype),
        },
        {
            "C": channels,
            "H": height,
            "W": width,
            "CHANNELS": tuple(one[0] for one in coarse),
            "HEIGHTS": tuple(one[1] for one in coarse),
            "WIDTHS": tuple(one[2] for one in coarse),
            "ACROSS": tuple(across),
            "ROWS": tuple(max(LEAST_ROWS, power_of_two(h * w)) for h, w in zip(down, across, strict=True)),
            "CHANNELS_LAST": channels_last,
            "PIXEL_STRIDE": pixel_stride,
            "BATCH_STRIDE": batch_stride,
            **blocks,
        },
        grid_of(blocks, batch, channels, height, width),
        tile,
    )


def project_upsample_add(
    full: Sequence[Tensor],
    coarse: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    out: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """The function that `lean.project_upsample_add` defines, on a GPU (or the CPU in Triton's interpreter).

    Args:
        full, coarse, weights, biases: as there; maps are float16, bfloat16 or float32.
        out: (B, C, H, W) to write into, such as half of the channels of a map, in the first map's layout.
        tile: by default the device's.
    Returns:
        (B, C, H, W) in the first map's layout: `out` if given.
    """
    first = full[0]
    batch, channels, height, width = first.shape
    layout = memory_format_of(first)
    if out is None:
        out = torch.empty_like(first, memory_format=layout)
    launch = plan_project_upsample_add(
        batch,
        channels,
        height,
        width,
        len(full),
        [(one.shape[1], one.shape[2], one.shape[3]) for one in coarse],
        first.dtype,
        layout == torch.channels_last,
        tile or tile_for("project_upsample_add", capability_of(first), first.dtype),
        slice_strides(out, first.shape, layout),
    )
    launch(
        tuple(one.contiguous(memory_format=layout) for one in full),
        tuple(one.contiguous(memory_format=layout) for one in coarse),
        tuple(one.to(first.dtype).reshape(channels, -1).contiguous() for one in weights),
        tuple(one.to(first.dtype).contiguous() for one in biases),
        batch,
        out,
    )
    return out
