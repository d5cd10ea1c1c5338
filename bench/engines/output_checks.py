"""What an engine is known to answer, and the comparison of every answer that it gives while timed with that one."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_fast.bench.engines.agreement import form_faults
from prn_fast.engine.base import Detections
from prn_fast.engine.parity import SMALLEST_SPREAD

# Above this share of its own differences between images, an answer given while timed is not the one that was checked.
STALE_ANSWER = 0.5
STALE_SCORE = 0.02
# Of the spread over all images: a map that is close to the mean map is judged as if it were that far from it.
STALE_FLOOR = 0.25
PROBED_PIXELS = 2048
Pixels = NDArray[np.integer] | slice
EVERY_PIXEL = slice(None)


@dataclass(frozen=True)
class KnownAnswers:
    """An engine's checked answers to N images, and their mean.

    Attributes:
        images: (N, S, S, C).
        answers: scores (N,) and maps (N, S, S).
        centre: mean score (1,) and mean map (1, S, S).
        smallest_spread: what counts as the least distance of a map from the mean map, see `stale`.
    """

    images: NDArray[np.uint8]
    answers: Detections
    centre: Detections
    smallest_spread: float

    @classmethod
    def of(cls, images: NDArray[np.uint8], answers: Detections) -> "KnownAnswers":
        """Known answers with their centre."""
        centre = Detections.of(answers.raw_scores.mean(keepdims=True), answers.maps.mean(axis=0, keepdims=True))
        smallest = max(SMALLEST_SPREAD, STALE_FLOOR * spread_of(answers.maps))
        return cls(images, answers, centre, smallest)

    def faults(self, indices: NDArray[np.integer], answers: Detections) -> list[str]:
        """What is wrong with answers to known images, (B,) indices: their form, or their values."""
        if faults := form_faults(answers, len(indices), self.answers.maps.shape[1]):
            return faults
        return self.stale_faults(indices, _part(answers), EVERY_PIXEL)

    def stale_faults(self, indices: NDArray[np.integer], answers: Detections, pixels: Pixels) -> list[str]:
        """Whether answers are not the known ones.

        Args:
            indices: (B,) of known images; -1 is one whose answer is not known.
            answers: well-formed; scores (B,), maps (B, P) at these pixels.
        """
        judged = np.flatnonzero(indices >= 0)
        if not len(judged):
            return []
        known, centre = _part(self.answers, indices[judged], pixels), _part(self.centre, pixels=pixels)
        fault = stale(_part(answers, judged), known, centre, self.smallest_spread)
        return [fault] if fault else []


def _part(
    answers: Detections, images: NDArray[np.integer] | slice = slice(None), pixels: Pixels = EVERY_PIXEL
) -> Detections:
    """Scores (B,) of some images and their maps (B, P) at some pixels."""
    maps = answers.maps.reshape(len(answers.maps), -1)
    return Detections.of(answers.raw_scores[images], maps[images][:, pixels])


class SpotChecks:
    """Answers of a run whose clock does not stop for checks: each score and a few pixels are kept, and compared later.

    The pixels are drawn at random for each run.
    """

    def __init__(self, known: KnownAnswers, rng: np.random.Generator) -> None:
        self._known = known
        side = known.answers.maps.shape[1]
        self._pixels = rng.choice(side * side, size=min(PROBED_PIXELS, side * side), replace=False)
        self._kept: list[tuple[NDArray[np.integer], Detections]] = []
        self.faults: list[str] = []

    def keep(self, answers: Detections, indices: NDArray[np.integer]) -> None:
        """Copy what is needed of answers to known images; -1 is an image whose answer is not known.

        Called right after the engine returned, before the clock is read: an unfinished answer is found out.
        """
        side = self._known.answers.maps.shape[1]
        if answers.raw_scores.shape != (len(indices),) or answers.maps.shape != (len(indices), side, side):
            self.faults.append(
                f"answers to {len(indices)} images have shapes {answers.raw_scores.shape} and {answers.maps.shape}"
            )
            return
        probed = _part(answers, pixels=self._pixels)
        self._kept.append((indices, Detections.of(np.array(probed.raw_scores), probed.maps)))

    def verdict(self) -> list[str]:
        """The faults of the answers that were kept; an empty list is a pass."""
        if self.faults:
            return self.faults
        for indices, answers in self._kept:
            for name, values in (("scores", answers.raw_scores), ("maps", answers.maps)):
                if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
                    return [f"{name} given while timed are NaN, infinite or outside 0..1"]
            if faults := self._known.stale_faults(indices, answers, self._pixels):
                return faults
        return []


def stale(
    answers: Detections, checked: Detections, centre: Detections, smallest_spread: float = SMALLEST_SPREAD
) -> str:
    """Which answers are not the engine's own checked answers to the same images? Each image is judged alone.

    Args:
        answers: well-formed answers to a batch.
        checked: the engine's answers to the same images when it was checked.
        centre: mean score and mean map of all its checked answers, shapes (1,) and (1, ...) like a map.
        smallest_spread: a map that lies closer to the mean map counts as that far from it.
    Returns:
        The fault in words: "" if there is no such image.
    """
    errors = _distances(answers.maps, checked.maps) / np.maximum(_distances(checked.maps, centre.maps), smallest_spread)
    score_errors = np.abs(answers.raw_scores - checked.raw_scores)
    allowed = np.maximum(STALE_SCORE, STALE_ANSWER * np.abs(checked.raw_scores - centre.raw_scores))
    # Stated so that NaN fails.
    is_stale = ~((errors <= STALE_ANSWER) & (score_errors <= allowed))
    if not is_stale.any():
        return ""
    worst = np.flatnonzero(is_stale)[0]
    return (
        "an answer given while timed is not the checked answer to the same image "
        f"(relative map error {errors[worst]:.3g}, score error {score_errors[worst]:.3g})"
    )


def spread_of(maps: NDArray) -> float:
    """Root mean square distance of maps (N, ...) from their mean."""
    return float(np.sqrt(np.mean(_distances(maps, maps.mean(axis=0, keepdims=True)) ** 2)))


def _distances(maps: NDArray, others: NDArray) -> NDArray[np.float64]:
    """Root mean square difference of each map (N, ...) to the other one."""
    difference = (maps.astype(np.float64) - others).reshape(len(maps), -1)
    return np.sqrt(np.einsum("ij,ij->i", difference, difference) / difference.shape[1])
