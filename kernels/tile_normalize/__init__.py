"""Camera bytes to the network's normalised input.

`tile_normalize` cuts a strip of a line ring buffer into tiles, `normalize_images` takes whole images; on a GPU both are
one kernel. Both are operations that a compiled or exported graph keeps: the reference on the CPU, Triton on a GPU.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from prn_fast.kernels.launch import has_kernels, layout_for
from prn_fast.kernels.tile_normalize import reference
from prn_fast.kernels.tile_normalize.reference import tile_positions, tile_starts

__all__ = ["normalize_images", "tile_normalize", "tile_positions", "tile_starts"]


def _plain_tiles(
    ring: Tensor,
    start: int,
    lines: int,
    side: int,
    overlap: int,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    channels_last: bool,
) -> Tensor:
    tiles = reference.tile_normalize(ring, start, lines, side, overlap, mean, std, dtype)
    return tiles.contiguous(memory_format=layout_for(channels_last))


def _plain_images(
    images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype, channels_last: bool
) -> Tensor:
    normalized = reference.normalize_images(images, mean, std, dtype)
    return normalized.contiguous(memory_format=layout_for(channels_last))


@torch.library.custom_op("prn_fast::tile_normalize", mutates_args=())
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
) -> Tensor:
    """The function that `reference.tile_normalize` defines; the result channels-last or contiguous."""
    return _plain_tiles(ring, start, lines, side, overlap, mean, std, dtype, channels_last)


@tile_normalize.register_kernel("cuda")
def _(
    ring: Tensor,
    start: int,
    lines: int,
    side: int,
    overlap: int,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    channels_last: bool = True,
) -> Tensor:
    from prn_fast.kernels.tile_normalize import fused

    formulation = fused.tile_normalize if has_kernels(dtype) else _plain_tiles
    return formulation(ring, start, lines, side, overlap, mean, std, dtype, channels_last)


@tile_normalize.register_fake
def _(
    ring: Tensor,
    start: int,
    lines: int,
    side: int,
    overlap: int,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    channels_last: bool = True,
) -> Tensor:
    shape = (len(tile_positions(lines, ring.shape[1], side, overlap)), len(mean), side, side)
    return ring.new_empty(shape, dtype=dtype).contiguous(memory_format=layout_for(channels_last))


@torch.library.custom_op("prn_fast::normalize_images", mutates_args=())
def normalize_images(
    images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype, channels_last: bool = True
) -> Tensor:
    """The function that `reference.normalize_images` defines for uint8 images (N, S, S, C); layout as asked for."""
    return _plain_images(images, mean, std, dtype, channels_last)


@normalize_images.register_kernel("cuda")
def _(
    images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype, channels_last: bool = True
) -> Tensor:
    from prn_fast.kernels.tile_normalize import fused

    formulation = fused.normalize_images if has_kernels(dtype) else _plain_images
    return formulation(images, mean, std, dtype, channels_last)


@normalize_images.register_fake
def _(
    images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype, channels_last: bool = True
) -> Tensor:
    count, height, width, _ = images.shape
    empty = images.new_empty((count, len(mean), height, width), dtype=dtype)
    return empty.contiguous(memory_format=layout_for(channels_last))
