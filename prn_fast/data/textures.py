"""Textures that fill simulated anomalies: from a folder, or made from a seed."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from prn_fast.data.folders import find_images
from prn_fast.data.images import read_image
from prn_fast.data.noise import fractal_noise, normalised, smooth_noise

# Held in memory as a whole: 600 colour textures of this side are about 150 MB.
MAX_TEXTURES = 600
_SHORT_SIDE = 256
_GENERATED_COUNT = 48


def load_textures(
    folder: Path | str | None, channels: int, limit: int = MAX_TEXTURES, seed: int = 0
) -> list[NDArray[np.uint8]]:
    """Load texture images, such as those of the Describable Textures Dataset, or generate some.

    Args:
        folder: folder with images, at any depth; None generates textures, which needs no download.
        channels: 1 (grey) or 3 (RGB).
        limit: at most this many; a larger folder is thinned out evenly.
        seed: seed of generated textures.
    Returns:
        uint8 images (h, w, channels), shorter side 256.
    Raises:
        DataError: the folder is missing, holds no image, or holds an unreadable one.
    """
    if folder is None:
        return generate_textures(min(limit, _GENERATED_COUNT), channels, seed)
    paths: Sequence[Path] = find_images(folder).images
    if len(paths) > limit:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, limit).round().astype(int)]
    return [_scaled(read_image(path, channels)) for path in paths]


def generate_textures(count: int, channels: int, seed: int) -> list[NDArray[np.uint8]]:
    """Make `count` textures (256, 256, channels), all kinds in turn: clouds, grains, bands, checks, weaves, cells..."""
    rng = np.random.default_rng(seed)
    shape = (_SHORT_SIDE, _SHORT_SIDE)
    textures = []
    for index in range(count):
        pattern = normalised(_turned(_PATTERNS[index % len(_PATTERNS)](shape, rng), rng))
        textures.append(_coloured(pattern, channels, rng))
    return textures


def _scaled(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bring the shorter side to 256; of a strip, only the first two squares: they are texture enough."""
    short = min(image.shape[:2])
    image = image[: 2 * short, : 2 * short]
    height, width = (round(size * _SHORT_SIDE / short) for size in image.shape[:2])
    method = cv2.INTER_AREA if short > _SHORT_SIDE else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8).reshape(height, width, -1)


def _coloured(pattern: NDArray[np.float32], channels: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Two random colours, mixed along the pattern's values."""
    mix = 1 / (1 + np.exp(-1.5 * pattern))[..., None]
    colours = rng.uniform(0, 255, (2, channels))
    grey = colours.mean(axis=1, keepdims=True)
    low, high = grey + rng.uniform(0.1, 0.7) * (colours - grey) if channels > 1 else colours
    return np.clip(low + (high - low) * mix + rng.normal(0, 4, (*pattern.shape, 1)), 0, 255).astype(np.uint8)


def _turned(pattern: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    side = pattern.shape[0]
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(0, 180), rng.uniform(0.8, 1.5))
    turned = cv2.warpAffine(pattern, matrix, (side, side), borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(turned, np.float32)


def _grid(shape: tuple[int, int], rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Pixel coordinates, a little bent."""
    y, x = np.indices(shape, np.float32)
    bend = rng.uniform(0, 6)
    return y + bend * smooth_noise(shape, (4, 4), rng), x + bend * smooth_noise(shape, (4, 4), rng)


def _clouds(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    return fractal_noise(shape, (rng.uniform(2, 8),) * 2, 6, rng, gain=rng.uniform(0.4, 0.8))


def _grains(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    cells = rng.uniform(20, 90)
    return smooth_noise(shape, (cells, cells), rng) + 0.5 * smooth_noise(shape, (4, 4), rng)


def _fibres(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    return fractal_noise(shape, (rng.uniform(2, 6), rng.uniform(30, 90)), 3, rng)


def _bands(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    y, _ = _grid(shape, rng)
    return np.tanh(rng.uniform(1, 6) * np.sin(2 * np.pi * y / rng.uniform(8, 50)))


def _checks(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    y, x = _grid(shape, rng)
    period = rng.uniform(12, 60)
    return np.tanh(rng.uniform(2, 8) * np.sin(2 * np.pi * y / period) * np.sin(2 * np.pi * x / period))


def _weave(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    y, x = _grid(shape, rng)
    period = rng.uniform(8, 24)
    warp, weft = np.abs(np.sin(np.pi * x / period)), np.abs(np.sin(np.pi * y / period))
    over = (np.floor(x / period) + np.floor(y / period)) % 2 == 0
    return np.where(over, warp, 0.8 * weft).astype(np.float32)


def _dots(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    y, x = _grid(shape, rng)
    period = rng.uniform(10, 40)
    return np.tanh(4 * (np.cos(2 * np.pi * y / period) + np.cos(2 * np.pi * x / period) - rng.uniform(0, 1)))


def _distances(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Distance to the nearest of scattered points."""
    points = np.full(shape, 255, np.uint8)
    count = int(rng.integers(30, 300))
    points[rng.integers(0, shape[0], count), rng.integers(0, shape[1], count)] = 0
    return np.asarray(cv2.distanceTransform(points, cv2.DIST_L2, 3), np.float32)


def _bubbles(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    return np.minimum(_distances(shape, rng), np.float32(rng.uniform(6, 20)))


def _veins(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    return -np.sqrt(np.abs(_clouds(shape, rng)))


def _rings(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    return np.sin(rng.uniform(8, 25) * smooth_noise(shape, (rng.uniform(1.5, 3), rng.uniform(1.5, 4)), rng))


_PATTERNS: tuple[Callable[[tuple[int, int], np.random.Generator], NDArray[np.float32]], ...] = (
    _clouds,
    _grains,
    _fibres,
    _bands,
    _checks,
    _weave,
    _dots,
    _bubbles,
    _veins,
    _rings,
)
