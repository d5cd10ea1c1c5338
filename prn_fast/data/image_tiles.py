"""Large images as overlapping tiles, cut and put together as a line camera's strips are.

Where tiles lie is defined in `prn_fast.kernels.tile_normalize`, how their maps are put together in
`prn_fast.kernels.anomaly_score`.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from prn_fast.data.images import image_size
from prn_fast.data.samples import Sample, load_sample
from prn_fast.kernels.anomaly_score.reference import stitch_tiles
from prn_fast.kernels.tile_normalize.reference import tile_positions


def tiled_shape(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width at which an image is cut: its own, enlarged in proportion where one is below `side`."""
    shorter = min(height, width)
    if shorter >= side:
        return height, width
    return max(side, round(height * side / shorter)), max(side, round(width * side / shorter))


def cut_image(image: NDArray[np.uint8], side: int, overlap: int) -> NDArray[np.uint8]:
    """Tiles (N, side, side, C) of an image (H, W, C) at its `tiled_shape`, in the order of `tile_positions`."""
    height, width = tiled_shape(image.shape[0], image.shape[1], side)
    scaled = _scaled(image, (height, width), cv2.INTER_LINEAR).reshape(height, width, -1)
    return np.stack([scaled[top : top + side, left : left + side] for top, left in _places(image, side, overlap)])


def cut_mask(mask: NDArray[np.bool_], side: int, overlap: int) -> NDArray[np.bool_]:
    """Tiles (N, side, side) of a mask (H, W), as `cut_image` cuts its image."""
    scaled = _scaled(mask.view(np.uint8), tiled_shape(mask.shape[0], mask.shape[1], side), cv2.INTER_NEAREST).astype(
        bool
    )
    return np.stack([scaled[top : top + side, left : left + side] for top, left in _places(mask, side, overlap)])


def stitch_maps(maps: NDArray[np.float32], shape: tuple[int, int], overlap: int) -> NDArray[np.float32]:
    """The map of an image of (height, width) `shape` from those of its tiles (N, side, side), at its `tiled_shape`."""
    height, width = tiled_shape(*shape, maps.shape[-1])
    return stitch_tiles(torch.from_numpy(maps), height, width, overlap).numpy()


def tile_count(path: Path, side: int, overlap: int, content: bytes | None = None) -> int:
    """Number of tiles of an image, from its header; see `image_size`."""
    return len(tile_positions(*tiled_shape(*image_size(path, content), side), side, overlap))


def load_tiles(
    samples: Sequence[Sample], side: int, channels: int, overlap: int, most: int, seed: int, progress: str | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Read images as tiles, up to a number of them, drawn by the seed.

    Returns:
        images uint8 (N, side, side, channels) and masks bool (N, side, side), in the order of samples and tiles.
    Raises:
        DataError: as `load_samples`. ConfigError: an overlap that `tile_starts` refuses.
    """
    counts = [tile_count(sample.path, side, overlap) for sample in samples]
    total = sum(counts)
    chosen = np.sort(np.random.default_rng((seed, 2)).permutation(total)[:most])
    images = np.empty((len(chosen), side, side, channels), np.uint8)
    masks = np.zeros((len(chosen), side, side), bool)
    first = 0
    for sample, count in track(
        list(zip(samples, counts, strict=True)), progress or "", disable=progress is None, transient=True
    ):
        places = np.flatnonzero((chosen >= first) & (chosen < first + count))
        if len(places):
            tiles = chosen[places] - first
            image, mask = load_sample(sample, channels)
            images[places] = cut_image(image, side, overlap)[tiles]
            if mask is not None:
                masks[places] = cut_mask(mask, side, overlap)[tiles]
        first += count
    return images, masks


def _places(image: NDArray, side: int, overlap: int) -> list[tuple[int, int]]:
    return tile_positions(*tiled_shape(image.shape[0], image.shape[1], side), side, overlap)


def _scaled(values: NDArray, shape: tuple[int, int], method: int) -> NDArray:
    return values if values.shape[:2] == shape else cv2.resize(values, shape[::-1], interpolation=method)
