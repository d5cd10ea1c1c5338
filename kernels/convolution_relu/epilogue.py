# mypy: allow-untyped-defs
"""A convolution of cuDNN's, and what follows it in one Triton kernel and in place: relu(y + bias + residual).

One read and one write of the map, and one read of the residual; PyTorch makes a pass for each of the three. The
sum is in float32 and rounded once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from prn_fast.kernels.launch import Launch, Tile, capability_of, ceil_div, memory_format_of, pointer
from prn_fast.kernels.tiles import tile_for


@triton.jit(do_not_specialize=["batch"])
def bias_add_relu_kernel(
    sums,  # (batch, SIZE), and the result
    bias,  # (C,)
    residual,  # (batch, SIZE); the sums themselves where there is none
    batch,
    output,  # (batch, SIZE)
    C: tl.constexpr,
    SIZE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < SIZE
    c = index % C if CHANNELS_LAST else index // (SIZE // C)
    place = tl.program_id(1).to(tl.int64) * SIZE + index
    value = tl.load(sums + place, mask=inside).to(tl.float32)
    value += tl.load(bias + c, mask=inside).to(tl.float32)
    if HAS_RESIDUAL:
        value += tl.load(residual + place, mask=inside).to(tl.float32)
    # Comparisons with NaN are false, so NaN stays.
    value = tl.where(value < 0.0, 0.0, value)
    tl.store(output + place, value.to(output.dtype.element_ty), mask=inside)


def plan_bias_add_relu(
    batch: int, channels: int, pixels: int, has_residual: bool, dtype: torch.dtype, channels_last: bool, tile: Tile
) -> Launch:
    """Launch of `bias_add_relu_kernel` on maps with these numbers of channels and pixels."""
    kind = pointer(dtype)
    return Launch(
        bias_add_relu_kernel,
        {"sums": kind, "bias": kind, "residual": kind, "batch": "i32", "output": kind},
        {
            "C": channels,
            "SIZE": channels * pixels,
            "CHANNELS_LAST": channels_last,
            "HAS_RESIDUAL": has_residual,
            **tile.blocks,
        },
        (ceil_div(channels * pixels, tile.blocks["BLOCK"]), batch),
        tile,
    )


def convolution_relu(
    maps: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    residual: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """The function that `reference.convolution_relu` defines, on a GPU (or the CPU in Triton's interpreter)."""
    layout = memory_format_of(maps)
    sums = functional.conv2d(maps, weight, None, stride, padding).contiguous(memory_format=layout)
    batch, channels, height, width = sums.shape
    bias = sums.new_zeros(channels) if bias is None else bias.to(sums.dtype).contiguous()
    added = sums if residual is None else residual.to(sums.dtype).contiguous(memory_format=layout)
    tile = tile or tile_for("bias_add_relu", capability_of(sums), sums.dtype)
    launch = plan_bias_add_relu(
        batch,
        channels,
        height * width,
        residual is not None,
        sums.dtype,
        layout == torch.channels_last,
        tile,
    )
    launch(sums, bias, added, batch, sums)
    return sums
