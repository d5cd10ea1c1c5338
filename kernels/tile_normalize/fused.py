# mypy: allow-untyped-defs
"""Cutting and normalising of tiles in one Triton kernel.

    tile[n, c, y, x] = byte[(start + top_n + y) mod capacity, left_n + x, c] * scale_c + shift_c

Programs follow the tiles in memory order, so that writes are consecutive; overlapping tiles find their bytes in the
cache. Images are a strip of tiles one below the other: their rows are the ring, which then never wraps.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from prn_fast.errors import ConfigError
from prn_fast.kernels.launch import Launch, Tile, capability_of, ceil_div, layout_for, pointer
from prn_fast.kernels.tile_normalize.reference import NETWORK_CHANNELS, check_strip, scale_and_shift, tile_starts
from prn_fast.kernels.tiles import tile_for


@triton.jit
def _of_channel(c, VALUES: tl.constexpr):
    """One of three constants for each channel."""
    return tl.where(c == 0, VALUES[0], tl.where(c == 1, VALUES[1], VALUES[2]))


@triton.jit(do_not_specialize=["start", "capacity", "lines"])
def tile_normalize_kernel(
    ring,  # (capacity, WIDTH, C) uint8, rows PITCH bytes apart
    start,  # row of the strip's first line, below capacity
    capacity,
    lines,  # of the strip, not above capacity
    tiles,  # (N, 3, SIDE, SIDE)
    WIDTH: tl.constexpr,
    C: tl.constexpr,
    PITCH: tl.constexpr,
    SIDE: tl.constexpr,
    STRIDE: tl.constexpr,
    ACROSS: tl.constexpr,  # tiles along a line
    SCALE: tl.constexpr,
    SHIFT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGNMENT: tl.constexpr,  # divides the address of the first byte of every line of every tile
    BLOCK: tl.constexpr,
):
    n = tl.program_id(1)
    top = tl.minimum(n // ACROSS * STRIDE, lines - SIDE)
    left = tl.minimum(n % ACROSS * STRIDE, WIDTH - SIDE)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < len(SCALE) * SIDE * SIDE
    if CHANNELS_LAST:
        y, x, c = index // (len(SCALE) * SIDE), index // len(SCALE) % SIDE, index % len(SCALE)
    else:
        c, y, x = index // (SIDE * SIDE), index // SIDE % SIDE, index % SIDE
    row = start + top + y
    row = tl.where(row < capacity, row, row - capacity).to(tl.int64)
    if CHANNELS_LAST and len(SCALE) == C:
        # The bytes of a line in their own order: several in one load, if the compiler can see that they are adjacent.
        first = tl.multiple_of(row * PITCH + left * C, ALIGNMENT)
        place = first + index % (C * SIDE)
    else:
        place = row * PITCH + (left + x) * C + (c if C > 1 else 0)
    byte = tl.load(ring + place, mask=inside, other=0)
    value = byte.to(tl.float32) * _of_channel(c, SCALE) + _of_channel(c, SHIFT)
    target = tiles + n.to(tl.int64) * (len(SCALE) * SIDE * SIDE)
    tl.store(target + index, value.to(tiles.dtype.element_ty), mask=inside)


def plan_tile_normalize(
    lines: int,
    width: int,
    channels: int,
    pitch: int,
    side: int,
    overlap: int,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    channels_last: bool,
    tile: Tile,
) -> Launch:
    """Launch of `tile_normalize_kernel` for the lines of a strip, in a ring whose rows are `pitch` bytes apart."""
    if len(mean) != NETWORK_CHANNELS:
        raise ConfigError(f"the kernel writes {NETWORK_CHANNELS} channels, not {len(mean)}")
    scale, shift = scale_and_shift(mean, std)
    across, down = (len(tile_starts(length, side, overlap)) for length in (width, lines))
    return Launch(
        tile_normalize_kernel,
        {"ring": "*u8", "start": "i32", "capacity": "i32", "lines": "i32", "tiles": pointer(dtype)},
        {
            "WIDTH": width,
            "C": channels,
            "PITCH": pitch,
            "SIDE": side,
            "STRIDE": side - overlap,
            "ACROSS": across,
            "SCALE": scale,
            "SHIFT": shift,
            "CHANNELS_LAST": channels_last,
            "ALIGNMENT": math.gcd(16, pitch, (side - overlap) * channels, (width - side) * channels),
            **tile.blocks,
        },
        (ceil_div(NETWORK_CHANNELS * side**2, tile.blocks["BLOCK"]), down * across),
        tile,
    )


def tile_normalize(
    ring: Tensor,
    start: int,
    lines: int,
    side: int,
    overlap: int,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    channels_last: bool = True,
    tile: Tile | None = None,
) -> Tensor:
    """The function that `reference.tile_normalize` defines, on a GPU (or the CPU in Triton's interpreter).

    Args:
        ring: (capacity, W, C); rows any number of bytes apart, copied where the pixels of a row are not side by side.
        channels_last: layout of the result, otherwise contiguous.
        tile: of the kernel; by default the device's.
    """
    check_strip(ring, start, lines)
    capacity, width, channels = ring.shape
    if ring.stride()[1:] != (channels, 1):
        ring = ring.contiguous()
    launch = plan_tile_normalize(
        lines,
        width,
        channels,
        ring.stride(0),
        side,
        overlap,
        mean,
        std,
        dtype,
        channels_last,
        tile or tile_for("tile_normalize", capability_of(ring), dtype),
    )
    tiles = torch.empty(
        (launch.grid[1], NETWORK_CHANNELS, side, side),
        dtype=dtype,
        device=ring.device,
        memory_format=layout_for(channels_last),
    )
    launch(ring, start, capacity, lines, tiles)
    return tiles


def normalize_images(
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    channels_last: bool = True,
    tile: Tile | None = None,
) -> Tensor:
    """The function that `reference.normalize_images` defines for uint8 images (N, S, S, C), by the same kernel."""
    if images.ndim != 4 or images.shape[0] == 0 or images.shape[1] != images.shape[2]:
        raise ConfigError(f"images have shape {tuple(images.shape)}; the kernel takes one or more (N, S, S, C)")
    count, side = images.shape[:2]
    ring = images.contiguous().flatten(0, 1)
    return tile_normalize(ring, 0, count * side, side, 0, mean, std, dtype, channels_last, tile)
