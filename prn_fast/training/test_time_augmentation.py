"""Test-time flips: the mean of an engine's outputs on an image and on its mirror images."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from prn_fast.engine.base import Engine, Thresholds
from prn_fast.kernels.anomaly_score.reference import image_scores
from prn_fast.model.config import ScoreKind

# Axes of (N, S, S, ...) to flip.
_MIRRORINGS: tuple[tuple[int, ...], ...] = ((), (1,), (2,), (1, 2))


def flip_averaged(
    maps_of: Callable[[NDArray[np.uint8]], NDArray[np.floating]], images: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """The mean of the maps of images (N, S, S, C) and of their mirror images, each mirrored back: (N, S, S)."""
    total = np.zeros(images.shape[:3], np.float32)
    for axes in _MIRRORINGS:
        total += np.flip(maps_of(np.ascontiguousarray(np.flip(images, axes))), axes)
    return total * np.float32(1 / len(_MIRRORINGS))


class FlipAveragedEngine(Engine):
    """The mean of the maps of an image and its three mirror images, each mirrored back, and the score of that mean.

    A learned score reads logits: there it is the mean of the four scores. Four times the work. Scores differ
    from the engine's own: thresholds have to be recalibrated.

    Args:
        engine: open; whoever opened it closes it.
        score: of the engine's package.
    """

    def __init__(self, engine: Engine, score: ScoreKind = "published") -> None:
        super().__init__(
            f"{engine.name}, flips",
            engine.image_size,
            engine.image_channels,
            engine.batch,
            thresholds=Thresholds(engine.threshold, engine.pixel_threshold),
        )
        self._engine, self._score = engine, score

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores and maps of checked images."""
        scores: list[NDArray[np.float32]] = []

        def maps_of(turned: NDArray[np.uint8]) -> NDArray[np.float32]:
            found = self._engine.infer(turned)
            scores.append(found.raw_scores)
            return found.maps

        maps = flip_averaged(maps_of, images)
        if self._score == "learned":
            return np.mean(scores, axis=0, dtype=np.float32), maps
        return image_scores(torch.from_numpy(maps)).numpy(), maps
