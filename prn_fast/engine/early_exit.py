"""When an image leaves after the screen, and what its scores and map then are.

The screen has a scale of its own, on which an image leaves below the package's cut. Its scores and pixels are moved to
the network's scale by a shift of their logits, so that the cut falls on the threshold:

    moved(v) = sigmoid(logit(v) - logit(cut) + logit(threshold))
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from prn_fast.errors import EngineError

if TYPE_CHECKING:
    from prn_fast.package import Package

# Values this close to 0 and 1 have no finite logit.
_MARGIN = 1e-7
# Bilinear interpolation rounds; pixels of an image that left stay below the threshold all the same.
_ROUNDING = 1e-5


def moved(values: NDArray[np.floating] | float, limit: float, threshold: float) -> NDArray[np.float64]:
    """Values in 0..1 whose logits are shifted so that `limit` becomes `threshold`; NaN and infinities become NaN."""
    limit, threshold = (min(max(one, _MARGIN), 1.0 - _MARGIN) for one in (limit, threshold))
    wide = np.asarray(values, np.float64)
    above, below = wide * (1.0 - limit) * threshold, limit * (1.0 - wide) * (1.0 - threshold)
    with np.errstate(invalid="ignore"):
        return above / (above + below)


def logit(scores: NDArray[np.floating] | float) -> NDArray[np.float64]:
    """log(s / (1 - s)) of scores in 0..1, finite also for 0 and 1."""
    clipped = np.clip(np.asarray(scores, np.float64), _MARGIN, 1 - _MARGIN)
    return np.log(clipped) - np.log1p(-clipped)


@dataclass(frozen=True)
class Screening:
    """What an engine does with the screen's answers.

    Attributes:
        cut: an image leaves where its screen score lies below it, 0..1.
        threshold, pixel_threshold: of the network's raw scores and maps, where the cut falls.
        alone: no image goes on to the network: the screen's answers are the engine's.
    """

    cut: float
    threshold: float
    pixel_threshold: float
    alone: bool = False

    @classmethod
    def of(cls, package: "Package", *, early_exit: bool, screen_only: bool, cut_shift: float = 0.0) -> Self | None:
        """That of a package, or None to run whole: not asked for, no screen, or one that lets too few images leave.

        Args:
            cut_shift: by how much the cut's logit is moved for an engine's own screen, see `Package.cut_shift`.
        Raises:
            EngineError: the screen alone was asked for, and the package has none with a cut.
        """
        if screen_only and (reason := package.why_whole):
            raise EngineError(f"{package.path}: the screen cannot run alone: {reason}")
        known = package.early_exit
        if known is None or not (early_exit or screen_only):
            return None
        threshold, pixel_threshold = package.calibration("threshold"), package.calibration("pixel_threshold")
        cut = float(moved(known.cut, 0.5, 1.0 / (1.0 + math.exp(-cut_shift))))
        return cls(cut, threshold, pixel_threshold, screen_only)

    def answer(
        self,
        screen_scores: NDArray[np.float32],
        screen_maps: NDArray[np.float32],
        scores: NDArray[np.float32],
        maps: NDArray[np.float32],
    ) -> NDArray[np.bool_]:
        """Write the answers to images that leave, and with `alone` those to all.

        Args:
            screen_scores, screen_maps: the screen's, (N,) and (N, h, h).
            scores, maps: to be written, (N,) and (N, S, S): a score below the threshold and pixels below the pixel
                threshold where an image leaves.
        Returns:
            (N,): which images leave. One whose score is not a number stays.
        """
        leaves = screen_scores < self.cut
        rows = np.arange(len(leaves)) if self.alone else np.flatnonzero(leaves)
        if not len(rows):
            return leaves
        gone = leaves[rows]
        found = moved(screen_scores[rows], self.cut, self.threshold).astype(np.float32)
        below, above = _around(self.threshold)
        scores[rows] = np.where(gone, np.minimum(found, below), np.maximum(found, above))
        pixels = moved(screen_maps[rows], self.cut, self.pixel_threshold)
        most = np.where(gone, self.pixel_threshold * (1.0 - _ROUNDING), 1.0)
        enlarge(np.minimum(pixels, most[:, None, None]).astype(np.float32), maps, rows)
        return leaves


def enlarge(small: NDArray[np.float32], maps: NDArray[np.float32], rows: NDArray[np.integer]) -> None:
    """Write maps (n, h, h) at full size into `rows` of `maps` (N, S, S), by bilinear interpolation of pixel centres.

    In the calling thread alone: matrix products would wake the threads of numpy's library for each image, and those
    take the processor from an engine that works on the next ones.
    """
    place = _places(small.shape[-1], maps.shape[-1])
    for one, row in zip(small, rows, strict=True):
        np.clip(_longer(_longer(one.T, *place).T, *place), 0.0, 1.0, out=maps[row])


@lru_cache
def _places(short: int, long: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """The two of `short` pixels between whose centres each of `long` lies, and the weight of the second (long, 1)."""
    at = np.clip((np.arange(long) + 0.5) * short / long - 0.5, 0, short - 1)
    first = np.floor(at).astype(np.intp)
    return first, np.minimum(first + 1, short - 1), (at - first).astype(np.float32)[:, None]


def _longer(
    values: NDArray[np.float32], first: NDArray[np.intp], second: NDArray[np.intp], weight: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Rows between those of `values`, contiguous."""
    values = np.ascontiguousarray(values)
    between = values[first]
    between += (values[second] - between) * weight
    return between


def _around(threshold: float) -> tuple[np.float32, np.float32]:
    """The largest float32 below a threshold, and the smallest that reaches it."""
    nearest = np.float32(threshold)
    if float(nearest) < threshold:
        return nearest, np.nextafter(nearest, np.float32(np.inf))
    return np.nextafter(nearest, np.float32(-np.inf)), nearest
