"""An anomaly map in colours, to lay over its picture."""

import numpy as np
from numpy.typing import NDArray


def heat_colours(threshold: float) -> NDArray[np.uint8]:
    """(256, 4) BGRA for map values 0..1: clear far below the threshold, yellow at it, red at 1."""
    value = np.linspace(0, 1, 256)
    over = np.clip((value - threshold) / (1 - threshold), 0, 1)
    alpha = np.clip((value - threshold / 2) / (threshold / 2), 0, 1) * (0.55 + 0.35 * over)
    colours = np.stack([30 * np.ones(256), 200 * (1 - over) + 20, 235 * np.ones(256), 255 * alpha], axis=1)
    return np.rint(colours).astype(np.uint8)
