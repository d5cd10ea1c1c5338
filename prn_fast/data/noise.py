"""Smooth random fields: the raw material of masks, textures and surfaces."""

import cv2
import numpy as np
from numpy.typing import NDArray


def smooth_noise(shape: tuple[int, int], cells: tuple[float, float], rng: np.random.Generator) -> NDArray[np.float32]:
    """One octave of lattice noise: normal values on a grid with a random offset, cubic interpolation between them.

    Perlin's construction with values in place of gradients, computed by a resize: ten times faster.

    Args:
        shape: (H, W) in pixels.
        cells: lattice cells along height and width, at least about 1; they set the size of the lumps.
        rng: source of all draws.
    Returns:
        float32 (H, W), mean near 0, standard deviation near 0.7.
    """
    height, width = shape
    rows, columns = (max(1.0, min(count, size)) for count, size in zip(cells, shape, strict=True))
    lattice = rng.standard_normal((int(np.ceil(rows)) + 3, int(np.ceil(columns)) + 3), np.float32)
    offset_y, offset_x = rng.uniform(1, 2, 2)
    # Destination pixel -> lattice position.
    matrix = np.array([[columns / width, 0, offset_x], [0, rows / height, offset_y]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    field = cv2.warpAffine(lattice, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(field, np.float32)


def fractal_noise(
    shape: tuple[int, int],
    cells: tuple[float, float],
    octaves: int,
    rng: np.random.Generator,
    gain: float = 0.5,
) -> NDArray[np.float32]:
    """Sum of octaves of `smooth_noise`, each with twice the cells and `gain` times the height of the one before."""
    total = smooth_noise(shape, cells, rng)
    for octave in range(1, octaves):
        scale = 2**octave
        total += gain**octave * smooth_noise(shape, (cells[0] * scale, cells[1] * scale), rng)
    return total


def normalised(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values moved and scaled to mean 0 and standard deviation 1; a constant field becomes 0."""
    return (values - values.mean()) / max(float(values.std()), 1e-6)
