"""Test-time flips: what an engine sees in an image and in its mirror images, taken together."""

import numpy as np
import torch
from numpy.typing import NDArray

from prn_fast.engine.base import Engine
from prn_fast.kernels.anomaly_score.reference import image_scores

# Axes of (N, S, S, ...) that are turned round.
_MIRRORINGS: tuple[tuple[int, ...], ...] = ((), (1,), (2,), (1, 2))


class MirroredEngine(Engine):
    """The mean of the maps of an image and its three mirror images, each mirrored back, and the score of that mean.

    Four times the work. Scores differ from the engine's own: thresholds have to be calibrated anew.

    Args:
        engine: open; whoever opened it closes it.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(f"{engine.name}, flips", engine.image_size, engine.image_channels, engine.batch)
        self._engine = engine

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores and maps of checked images."""
        total = np.zeros(images.shape[:3], np.float32)
        for axes in _MIRRORINGS:
            seen = self._engine.infer(np.ascontiguousarray(np.flip(images, axes)))
            total += np.flip(seen.maps, axes)
        maps = total * np.float32(1 / len(_MIRRORINGS))
        return image_scores(torch.from_numpy(maps)).numpy(), maps
