# mypy: allow-untyped-defs
"""The end of the decoder in two Triton kernels.

1. `tap_logits_kernel` makes TILE_H x TILE_W pixels of h = relu(convolution_1(U x) + bias_1) and writes, for each of the
   nine taps k of the second convolution, t_k = sum over c of w_2[c, k] h_c: (batch, 9, H, W) float32. h itself, 64
   channels at full size, is never written.
2. `sum_taps_kernel` adds up each pixel's nine parts from its neighbours, and adds the bias.

Upsampling commutes with a convolution's sum over channels. For each tap of the first convolution, a program multiplies
the coarse pixels under its tile by the tap's weights, builds the tile's rows of U shifted by the tap (zero beyond the
border, where the convolution pads) and multiplies by them: two products in the map's dtype, summed in float32, as
`multi_scale_fusion` does for 1x1 convolutions.

Neither the upsampled map nor h, both at full size with all channels, is written or read. The price is arithmetic: the
coarse pixels under a tile and its border are more than the tile's share of the map, and U is built for each tile and
tap. `traffic.py` counts the bytes. Not timed on a GPU.
"""

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
from prn_fast.kernels.logit_head.reference import TAPS
from prn_fast.kernels.multi_scale_fusion.fused import hat, under_tile
from prn_fast.kernels.tiles import tile_for


@triton.jit(do_not_specialize=["batch"])
def tap_logits_kernel(
    maps,  # (batch, CIN, HIN, WIN)
    weight,  # (9, C, CIN)
    bias,  # (C,)
    out_weight,  # (9, C)
    batch,
    parts,  # (batch, 9, H, W) float32
    C: tl.constexpr,
    CIN: tl.constexpr,
    HIN: tl.constexpr,
    WIN: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    ACROSS: tl.constexpr,  # coarse columns under a tile and its border
    ROWS: tl.constexpr,  # coarse pixels under both, rounded up to a side of a product
    CHANNELS_LAST: tl.constexpr,
    TAPS: tl.constexpr,
    PADDED_TAPS: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    tiles_across: tl.constexpr = (W + TILE_W - 1) // TILE_W
    top = tl.program_id(0) // tiles_across * TILE_H
    left = tl.program_id(0) % tiles_across * TILE_W
    b = tl.program_id(1).to(tl.int64)
    dtype = maps.dtype.element_ty
    n = tl.arange(0, TILE_H * TILE_W)
    y, x = top + n // TILE_W, left + n % TILE_W
    m = tl.arange(0, ROWS)
    row = tl.maximum(top - 1, 0) * (HIN - 1) // (H - 1 if H > 1 else 1) + m // ACROSS
    column = tl.maximum(left - 1, 0) * (WIN - 1) // (W - 1 if W > 1 else 1) + m % ACROSS
    coarse_inside = (row < HIN) & (column < WIN)
    coarse = row * WIN + column
    source = maps + b * (CIN * HIN * WIN)
    tap = tl.arange(0, PADDED_TAPS)
    found = tl.zeros([TILE_H * TILE_W, PADDED_TAPS], tl.float32)
    for first in range(0, C, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        hidden = tl.zeros([TILE_H * TILE_W, BLOCK_C], tl.float32)
        for shift in range(TAPS):
            projected = tl.zeros([ROWS, BLOCK_C], tl.float32)
            for start in range(0, CIN, BLOCK_K):
                k = start + tl.arange(0, BLOCK_K)
                place = (
                    coarse[:, None] * CIN + k[None, :] if CHANNELS_LAST else k[None, :] * (HIN * WIN) + coarse[:, None]
                )
                values = tl.load(source + place, mask=coarse_inside[:, None] & (k < CIN)[None, :], other=0.0)
                w = tl.load(
                    weight + (shift * C + c[None, :]) * CIN + k[:, None],
                    mask=(c < C)[None, :] & (k < CIN)[:, None],
                    other=0.0,
                )
                projected = tl.dot(values, w, projected, input_precision="ieee")
            shifted_y, shifted_x = y + shift // 3 - 1, x + shift % 3 - 1
            inside = (shifted_y >= 0) & (shifted_y < H) & (shifted_x >= 0) & (shifted_x < W)
            upsampling = hat(shifted_y, row, H, HIN) * hat(shifted_x, column, W, WIN)
            upsampling = tl.where(inside[:, None], upsampling, 0.0)
            hidden = tl.dot(upsampling.to(dtype), projected.to(dtype), hidden, input_precision="ieee")
        hidden += tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
        # Comparisons with NaN are false, so NaN stays.
        hidden = tl.where(hidden < 0.0, 0.0, hidden)
        w = tl.load(
            out_weight + tap[None, :] * C + c[:, None], mask=(c < C)[:, None] & (tap < TAPS)[None, :], other=0.0
        )
        found = tl.dot(hidden.to(dtype), w, found, input_precision="ieee")
    target = parts + (b * TAPS + tap)[None, :] * (H * W) + (y * W + x)[:, None]
    tl.store(target, found, mask=((y < H) & (x < W))[:, None] & (tap < TAPS)[None, :])


@triton.jit(do_not_specialize=["batch"])
def sum_taps_kernel(
    parts,  # (batch, 9, H, W) float32
    bias,  # (1,)
    batch,
    logits,  # (batch, 1, H, W)
    H: tl.constexpr,
    W: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    b = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y, x = index // W, index % W
    total = tl.zeros([BLOCK], tl.float32) + tl.load(bias + tl.arange(0, 1)).to(tl.float32)
    for tap in tl.static_range(TAPS):
        row, column = y + (tap // 3 - 1), x + (tap % 3 - 1)
        inside = (row >= 0) & (row < H) & (column >= 0) & (column < W)
        total += tl.load(parts + (b * TAPS + tap) * (H * W) + row * W + column, mask=inside, other=0.0)
    tl.store(logits + b * (H * W) + index, total.to(logits.dtype.element_ty), mask=index < H * W)


def plan_tap_logits(
    batch: int,
    inputs: int,
    channels: int,
    height: int,
    width: int,
    factor: int,
    dtype: torch.dtype,
    channels_last: bool,
    tile: Tile,
) -> Launch:
    """Launch of `tap_logits_kernel` for maps of `inputs` channels at (height, width), and `channels` of h."""
    blocks, full_height, full_width = dict(tile.blocks), factor * height, factor * width
    blocks["BLOCK_C"] = max(MIN_ROWS, min(blocks["BLOCK_C"], power_of_two(channels)))
    blocks["BLOCK_K"] = max(MIN_ROWS, min(blocks["BLOCK_K"], power_of_two(inputs)))
    down = under_tile(blocks["TILE_H"] + 2, full_height, height)
    across = under_tile(blocks["TILE_W"] + 2, full_width, width)
    kind = pointer(dtype)
    return Launch(
        tap_logits_kernel,
        {"maps": kind, "weight": kind, "bias": kind, "out_weight": kind, "batch": "i32", "parts": "*fp32"},
        {
            "C": channels,
            "CIN": inputs,
            "HIN": height,
            "WIN": width,
            "H": full_height,
            "W": full_width,
            "ACROSS": across,
            "ROWS": max(MIN_ROWS, power_of_two(down * across)),
            "CHANNELS_LAST": channels_last,
            "TAPS": TAPS,
            "PADDED_TAPS": max(MIN_ROWS, power_of_two(TAPS)),
            **blocks,
        },
        (ceil_div(full_height, blocks["TILE_H"]) * ceil_div(full_width, blocks["TILE_W"]), batch),
        tile,
    )


def plan_sum_taps(batch: int, height: int, width: int, dtype: torch.dtype, tile: Tile) -> Launch:
    """Launch of `sum_taps_kernel` for logits of (height, width)."""
    return Launch(
        sum_taps_kernel,
        {"parts": "*fp32", "bias": pointer(dtype), "batch": "i32", "logits": pointer(dtype)},
        {"H": height, "W": width, "TAPS": TAPS, **tile.blocks},
        (ceil_div(height * width, tile.blocks["BLOCK"]), batch),
        tile,
    )


def logit_head(
    maps: Tensor,
    weight: Tensor,
    bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    factor: int,
    tiles: tuple[Tile, Tile] | None = None,
) -> Tensor:
    """The function that `reference.logit_head` defines, on a GPU (or the CPU in Triton's interpreter).

    Args:
        maps: float16, bfloat16 or float32, contiguous or channels-last.
        tiles: of the two kernels; by default the device's.
    Returns:
        (B, 1, factor h, factor w), contiguous.
    """
    layout, dtype = memory_format_of(maps), maps.dtype
    maps = maps.contiguous(memory_format=layout)
    (batch, inputs, height, width), channels = maps.shape, len(weight)
    capability = capability_of(maps)
    tap_tile, sum_tile = tiles or (tile_for("tap_logits", capability, dtype), tile_for("sum_taps", capability, dtype))
    tap_logits = plan_tap_logits(
        batch, inputs, channels, height, width, factor, dtype, layout == torch.channels_last, tap_tile
    )
    full_height, full_width = factor * height, factor * width
    parts = torch.empty(batch, TAPS, full_height, full_width, dtype=torch.float32, device=maps.device)
    logits = torch.empty(batch, 1, full_height, full_width, dtype=dtype, device=maps.device)
    tap_logits(
        maps,
        weight.to(dtype).permute(2, 3, 0, 1).reshape(TAPS, channels, inputs).contiguous(),
        bias.to(dtype).contiguous(),
        out_weight.to(dtype)[0].permute(1, 2, 0).reshape(TAPS, channels).contiguous(),
        batch,
        parts,
    )
    plan_sum_taps(batch, full_height, full_width, dtype, sum_tile)(parts, out_bias.to(dtype), batch, logits)
    return logits
