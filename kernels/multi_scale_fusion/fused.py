# mypy: allow-untyped-defs
"""Upsampling and adding of multi-scale fusion in one Triton kernel a target scale.

    out = sum of full maps + sum of bilinear upsamplings (aligned corners) of coarse maps

The 1x1 convolutions come before, on the coarse maps, as in `lean.py`: nothing at full size is written but the result.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from prn_fast.kernels.launch import Launch, Tile, capability_of, ceil_div, memory_format_of, pointer
from prn_fast.kernels.tiles import tile_for


@triton.jit
def _between(position, FULL: tl.constexpr, COARSE: tl.constexpr):
    """The two coarse neighbours of a full-size position, corners aligned, and the share of the second."""
    steps: tl.constexpr = FULL - 1 if FULL > 1 else 1
    scaled = position * (COARSE - 1)
    first = scaled // steps
    return first, tl.minimum(first + 1, COARSE - 1), (scaled % steps).to(tl.float32) / steps


@triton.jit
def _bilinear(
    maps,
    y,
    x,
    c,
    inside,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    COARSE_H: tl.constexpr,
    COARSE_W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Upsampled values of one image's coarse map (C, COARSE_H, COARSE_W)."""
    top, bottom, down = _between(y, H, COARSE_H)
    left, right, across = _between(x, W, COARSE_W)
    pixel: tl.constexpr = C if CHANNELS_LAST else 1
    source = maps + (c if CHANNELS_LAST else c * (COARSE_H * COARSE_W))
    top_left = tl.load(source + (top * COARSE_W + left) * pixel, mask=inside, other=0.0).to(tl.float32)
    top_right = tl.load(source + (top * COARSE_W + right) * pixel, mask=inside, other=0.0).to(tl.float32)
    bottom_left = tl.load(source + (bottom * COARSE_W + left) * pixel, mask=inside, other=0.0).to(tl.float32)
    bottom_right = tl.load(source + (bottom * COARSE_W + right) * pixel, mask=inside, other=0.0).to(tl.float32)
    upper = top_left + (top_right - top_left) * across
    lower = bottom_left + (bottom_right - bottom_left) * across
    return upper + (lower - upper) * down


@triton.jit(do_not_specialize=["batch"])
def upsample_add_kernel(
    full,  # maps (batch, C, H, W)
    coarse,  # maps (batch, C, HEIGHTS[i], WIDTHS[i])
    batch,
    output,  # (batch, C, H, W)
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    HEIGHTS: tl.constexpr,
    WIDTHS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    b = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < C * H * W
    if CHANNELS_LAST:
        y, x, c = index // (C * W), index // C % W, index % C
    else:
        c, y, x = index // (H * W), index // W % H, index % W
    total = tl.zeros([BLOCK], tl.float32)
    for item in tl.static_range(len(full)):
        total += tl.load(full[item] + b * (C * H * W) + index, mask=inside, other=0.0).to(tl.float32)
    for item in tl.static_range(len(coarse)):
        image = coarse[item] + b * (C * HEIGHTS[item] * WIDTHS[item])
        total += _bilinear(image, y, x, c, inside, C, H, W, HEIGHTS[item], WIDTHS[item], CHANNELS_LAST)
    tl.store(output + b * (C * H * W) + index, total.to(output.dtype.element_ty), mask=inside)


def plan_upsample_add(
    batch: int,
    channels: int,
    height: int,
    width: int,
    full: int,
    coarse: Sequence[tuple[int, int]],
    dtype: torch.dtype,
    channels_last: bool,
    tile: Tile,
) -> Launch:
    """Launch of `upsample_add_kernel` for so many full maps and coarse maps of the given heights and widths."""
    return Launch(
        upsample_add_kernel,
        {
            "full": (pointer(dtype),) * full,
            "coarse": (pointer(dtype),) * len(coarse),
            "batch": "i32",
            "output": pointer(dtype),
        },
        {
            "C": channels,
            "H": height,
            "W": width,
            "HEIGHTS": tuple(one[0] for one in coarse),
            "WIDTHS": tuple(one[1] for one in coarse),
            "CHANNELS_LAST": channels_last,
            **tile.blocks,
        },
        (ceil_div(channels * height * width, tile.blocks["BLOCK"]), batch),
        tile,
    )


def upsample_add(full: Sequence[Tensor], coarse: Sequence[Tensor], tile: Tile | None = None) -> Tensor:
    """The function that `lean.upsample_add` defines, on a GPU (or the CPU in Triton's interpreter)."""
    first = full[0]
    batch, channels, height, width = first.shape
    layout = memory_format_of(first)
    full = tuple(one.contiguous(memory_format=layout) for one in full)
    coarse = tuple(one.contiguous(memory_format=layout) for one in coarse)
    output = torch.empty_like(first, memory_format=layout)
    launch = plan_upsample_add(
        batch,
        channels,
        height,
        width,
        len(full),
        [(one.shape[2], one.shape[3]) for one in coarse],
        first.dtype,
        layout == torch.channels_last,
        tile or tile_for("upsample_add", capability_of(first), first.dtype),
    )
    launch(full, coarse, batch, output)
    return output
