"""uint8 pixels to the network's normalised input, and the cutting of a camera's strip into tiles.

    x_c = (pixel_c / 255 - mean_c) / std_c

The network sees a grey image as three equal channels.

A strip is some lines of a line camera, out of a ring buffer of rows: line l lies in row (start + l) mod capacity. Its
tiles are squares of `side` pixels; along each direction they start `side - overlap` pixels apart, and the last one is
moved back until it is flush with the end, so that the tiles cover every pixel: `tile_starts`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from prn_fast.errors import ConfigError

NETWORK_CHANNELS = 3


def scale_and_shift(mean: Sequence[float], std: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """One multiply and one add for each pixel: (p / 255 - m) / s = p * 1 / (255 s) - m / s.

    Args:
        mean, std: a value for each channel of the network, three or one, for pixels in 0..1.
    Returns:
        Scales and shifts of pixels in 0..255, as many values each.
    """
    if len(mean) != len(std) or len(mean) not in (1, NETWORK_CHANNELS):
        raise ConfigError(
            f"mean and std have {len(mean)} and {len(std)} values; the network has {NETWORK_CHANNELS} channels, or 1"
        )
    return tuple(1.0 / (255.0 * s) for s in std), tuple(-m / s for m, s in zip(mean, std, strict=True))


def normalize_images(
    images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Normalise images for the backbone.

    Args:
        images: (N, H, W, C), uint8 (or floats in 0..255), C = 1 or 3 (RGB).
        mean, std: three values each, for pixels in 0..1; or one each, for grey images and a network that takes them as
            one channel.
        dtype: of the result; half precision is computed in float32 and rounded once.
    Returns:
        (N, 3, H, W), or (N, 1, H, W) with one value.
    Raises:
        ConfigError: another number of channels.
    """
    check_channels(images.shape[-1])
    scales, shifts = scale_and_shift(mean, std)
    if images.shape[-1] not in (1, len(scales)):
        raise ConfigError(f"images have {images.shape[-1]} channels; this network takes grey ones, as one channel")
    if images.shape[-1] != len(scales):
        images = images.expand(*images.shape[:-1], len(scales))
    computed = torch.promote_types(dtype, torch.float32)
    scale, shift = (_filled(values, computed, images.device) for values in (scales, shifts))
    return (images.to(computed) * scale + shift).to(dtype).permute(0, 3, 1, 2)


def _filled(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Values as a tensor that the device fills by itself: no CUDA graph can hold a copy from ordinary host memory."""
    return torch.cat([torch.full((1,), value, dtype=dtype, device=device) for value in values])


def check_channels(channels: int) -> None:
    """Refuse pixels that are neither grey nor colour."""
    if channels not in (1, NETWORK_CHANNELS):
        raise ConfigError(f"pixels have {channels} channels; cameras here are grey (1) or colour (3)")


def tile_starts(length: int, side: int, overlap: int) -> list[int]:
    """First pixel of each tile along a direction: start_i = min(i (side - overlap), length - side).

    Args:
        length: pixels to cover, at least `side`.
        side: of a tile.
        overlap: pixels that neighbouring tiles share, 0 to side - 1; the last two may share more.
    Returns:
        ceil((length - side) / (side - overlap)) + 1 ascending starts; the first is 0, the last length - side.
    Raises:
        ConfigError: a length or an overlap out of range.
    """
    if not 0 <= overlap < side:
        raise ConfigError(f"tiles of {side} pixels overlap by {overlap}; the overlap must be 0 to {side - 1}")
    if length < side:
        raise ConfigError(f"a strip of {length} pixels is narrower than a tile of {side}")
    stride = side - overlap
    return [*range(0, length - side, stride), length - side]


def tile_positions(lines: int, width: int, side: int, overlap: int) -> list[tuple[int, int]]:
    """Top line and left column of every tile of a strip, in the order of the tiles: along a line first.

    Arguments and errors as of `tile_starts`, in both directions.
    """
    lefts = tile_starts(width, side, overlap)
    return [(top, left) for top in tile_starts(lines, side, overlap) for left in lefts]


def cut_tiles(ring: Tensor, start: int, lines: int, side: int, overlap: int) -> Tensor:
    """Tiles of a strip in a ring buffer, unwrapped.

    Args:
        ring: (capacity, W, C), uint8, C = 1 or 3; rows may be any number of bytes apart.
        start: row of the strip's first line, 0 to capacity - 1.
        lines: of the strip, `side` to capacity.
        side, overlap: see `tile_starts`.
    Returns:
        (N, side, side, C), uint8, in the order of `tile_positions`.
    Raises:
        ConfigError: a ring that is not as described, or a strip that is not inside it.
    """
    check_strip(ring, start, lines)
    rows = (start + torch.arange(lines, device=ring.device)) % ring.shape[0]
    strip = ring[rows]
    positions = tile_positions(lines, ring.shape[1], side, overlap)
    return torch.stack([strip[top : top + side, left : left + side] for top, left in positions])


def check_strip(ring: Tensor, start: int, lines: int) -> None:
    """Refuse a ring that is not (capacity, W, C) bytes, or a strip that is not inside it."""
    if ring.ndim != 3 or ring.dtype != torch.uint8:
        raise ConfigError(f"a ring is uint8 (capacity, W, C), not {ring.dtype} {tuple(ring.shape)}")
    check_channels(ring.shape[2])
    capacity = ring.shape[0]
    if not 0 <= start < capacity:
        raise ConfigError(f"the strip starts in row {start} of a ring of {capacity} rows")
    if lines > capacity:
        raise ConfigError(f"the strip has {lines} lines, the ring {capacity} rows")


def tile_normalize(
    ring: Tensor,
    start: int,
    lines: int,
    side: int,
    overlap: int,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Normalised tiles (N, 3, side, side) of a strip; arguments as of `cut_tiles` and `normalize_images`."""
    return normalize_images(cut_tiles(ring, start, lines, side, overlap), mean, std, dtype)
