# mypy: allow-untyped-defs
"""A convolution with everything that follows it, in one Triton kernel: an implicit GEMM over channels-last maps.

    out[n, c] = relu(sum over k of window[n, k] weight[c, k] + bias[c] + residual[n, c])

The rows n are output pixels and the columns c output channels; k runs over the kernel's rows, its columns and the input
channels. The matrix of windows is never written. In a channels-last map the KERNEL x CIN values that a row of a window
takes lie side by side, and so do their weights: a program walks over the kernel's rows, in steps of BLOCK_K values,
which may cross from one pixel to the next. That makes few steps of a stem with three channels, too. Where a window
leaves the map, the convolution pads: nothing is read.

Products are in the maps' dtype and their sum in float32, which bias and residual are added to; it is rounded once. Each
map is read, and the result written, by this kernel alone. What it cannot do is split a sum over programs: of a deep map
and one image there are few pixels and long sums, so that tiles are smaller there.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from prn_fast.kernels.convolution_relu.reference import side_of_result
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

# Wanted: about one for each multiprocessor of the largest devices.
PROGRAMS = 128
# Of a tile that four warps share.
LEAST_SIDE = 32


@triton.jit(do_not_specialize=["batch"])
def convolve_add_relu_kernel(
    maps,  # (batch, HIN, WIN, CIN)
    weight,  # (C, KERNEL, KERNEL, CIN)
    bias,  # (C,)
    residual,  # (batch, H, W, C); not read where there is none
    batch,
    output,  # (batch, H, W, C)
    C: tl.constexpr,
    CIN: tl.constexpr,
    HIN: tl.constexpr,
    WIN: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # Neighbouring programs share pixels; the weights fit into the L2 cache.
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    b = tl.program_id(2).to(tl.int64)
    row_values: tl.constexpr = WIN * CIN
    window_values: tl.constexpr = KERNEL * CIN
    steps: tl.constexpr = (window_values + BLOCK_K - 1) // BLOCK_K
    top = n // W * STRIDE - PADDING
    left = (n % W * STRIDE - PADDING) * CIN
    source = maps + b * (HIN * row_values)
    total = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    for step in range(KERNEL * steps):
        k = step % steps * BLOCK_K + tl.arange(0, BLOCK_K)
        row = (top + step // steps)[:, None]
        place = left[:, None] + k[None, :]
        inside = (row >= 0) & (row < HIN) & (place >= 0) & (place < row_values) & (k < window_values)[None, :]
        values = tl.load(source + row * row_values + place, mask=inside, other=0.0)
        w = tl.load(
            weight + (c * (KERNEL * window_values))[None, :] + (step // steps * window_values + k)[:, None],
            mask=(c < C)[None, :] & (k < window_values)[:, None],
            other=0.0,
        )
        total = tl.dot(values, w, total, input_precision="ieee")
    total += tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    place = b * (H * W * C) + (n * C)[:, None] + c[None, :]
    inside = (n < H * W)[:, None] & (c < C)[None, :]
    if HAS_RESIDUAL:
        total += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    # Comparisons with NaN are false, so NaN stays.
    total = tl.where(total < 0.0, 0.0, total)
    tl.store(output + place, total.to(output.dtype.element_ty), mask=inside)


def fit_tile(tile: Tile, batch: int, pixels: int, channels: int, window_values: int) -> Tile:
    """The tile, no larger than the matrices, and halved along both sides while there are too few programs.

    A small tile has fewer warps; instead its steps are longer, and one more is under way, to hide the memory's latency.
    """
    n = max(MIN_ROWS, min(tile.blocks["BLOCK_N"], power_of_two(pixels)))
    c = max(MIN_ROWS, min(tile.blocks["BLOCK_C"], power_of_two(channels)))
    k, warps, stages, whole = tile.blocks["BLOCK_K"], tile.warps, tile.stages, n * c
    while batch * ceil_div(pixels, n) * ceil_div(channels, c) < PROGRAMS and max(n, c) > LEAST_SIDE:
        n, c = (max(min(side, LEAST_SIDE), side // 2) for side in (n, c))
    if n * c <= whole // 4:
        k, warps, stages = k if window_values % (2 * k) else 2 * k, min(warps, 4), stages + 1
    blocks = {"BLOCK_N": n, "BLOCK_C": c, "BLOCK_K": max(MIN_ROWS, min(k, power_of_two(window_values)))}
    return Tile(blocks, warps, stages)


def plan_convolve_add_relu(
    batch: int,
    inputs: int,
    height: int,
    width: int,
    channels: int,
    kernel: int,
    stride: int,
    padding: int,
    has_residual: bool,
    dtype: torch.dtype,
    tile: Tile,
) -> Launch:
    """Launch of `convolve_add_relu_kernel` on maps of `inputs` channels at (height, width), to `channels`."""
    high, wide = (side_of_result(side, kernel, stride, padding) for side in (height, width))
    tile = fit_tile(tile, batch, high * wide, channels, kernel * inputs)
    kind = pointer(dtype)
    return Launch(
        convolve_add_relu_kernel,
        {"maps": kind, "weight": kind, "bias": kind, "residual": kind, "batch": "i32", "output": kind},
        {
            "C": channels,
            "CIN": inputs,
            "HIN": height,
            "WIN": width,
            "H": high,
            "W": wide,
            "KERNEL": kernel,
            "STRIDE": stride,
            "PADDING": padding,
            "HAS_RESIDUAL": has_residual,
            **tile.blocks,
        },
        (ceil_div(channels, tile.blocks["BLOCK_C"]), ceil_div(high * wide, tile.blocks["BLOCK_N"]), batch),
        tile,
    )


def serves(maps: Tensor, weight: Tensor) -> bool:
    """Whether the kernel is meant for them: channels-last maps, and weights of the same dtype in one group."""
    channels_last = memory_format_of(maps) == torch.channels_last
    return channels_last and weight.dtype == maps.dtype and weight.shape[1] == maps.shape[1]


def convolution_relu(
    maps: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    residual: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """The function that `reference.convolution_relu` defines, on a GPU (or the CPU in Triton's interpreter).

    Args:
        maps, weight: such as it `serves`; both are copied first if they are not channels-last.
        tile: by default the device's.
    Returns:
        (B, C', H, W), channels-last.
    """
    (batch, inputs, height, width), channels, kernel = maps.shape, len(weight), weight.shape[2]
    tile = tile or tile_for("convolve_add_relu", capability_of(maps), maps.dtype)
    has_residual = residual is not None
    launch = plan_convolve_add_relu(
        batch, inputs, height, width, channels, kernel, stride, padding, has_residual, maps.dtype, tile
    )
    shape = batch, channels, launch.constants["H"], launch.constants["W"]
    out = torch.empty(shape, dtype=maps.dtype, device=maps.device, memory_format=torch.channels_last)
    bias = maps.new_zeros(channels) if bias is None else bias.to(maps.dtype).contiguous()
    added = out if residual is None else residual.to(maps.dtype).contiguous(memory_format=torch.channels_last)
    maps, weight = (one.contiguous(memory_format=torch.channels_last) for one in (maps, weight))
    launch(maps, weight, bias, added, batch, out)
    return out
