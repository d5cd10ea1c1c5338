"""What an engine is known to answer, and checks of the answers that it gives while it is timed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_fast.bench import parity
from prn_fast.bench.answers import Answers

PROBED_PIXELS = 2048


@dataclass(frozen=True)
class Known:
    """An engine's checked answers to N images, and their mean.

    Attributes:
        answers: scores (N,) and maps (N, S, S).
        centre: mean score (1,) and mean map (1, S, S).
        smallest_spread: what counts as the least distance of a map from the mean map, see `parity.stale_faults`.
    """

    answers: Answers
    centre: Answers
    smallest_spread: float

    @classmethod
    def of(cls, answers: Answers) -> "Known":
        """Known answers with their centre."""
        centre = Answers(answers.scores.mean(keepdims=True), answers.maps.mean(axis=0, keepdims=True))
        smallest = max(parity.SMALLEST_SPREAD, parity.STALE_FLOOR * parity.spread_of(answers.maps))
        return cls(answers, centre, smallest)

    def faults(self, answers: Answers, indices: NDArray[np.integer]) -> list[str]:
        """What is wrong with answers to the images of these indices: their form, or that they are not the known."""
        if faults := parity.form_faults(answers, len(indices), self.answers.maps.shape[1]):
            return faults
        known = Answers(self.answers.scores[indices], self.answers.maps[indices])
        return parity.stale_faults(answers, known, self.centre, self.smallest_spread)


class SpotChecks:
    """Answers of a run whose clock does not stop for checks: each score and a few pixels are kept, and checked later.

    The pixels are drawn at random for each run, so that an engine cannot know which ones count.
    """

    def __init__(self, known: Known, rng: np.random.Generator) -> None:
        self._known = known
        side = known.answers.maps.shape[1]
        self._pixels = rng.choice(side * side, size=min(PROBED_PIXELS, side * side), replace=False)
        self._kept: list[tuple[NDArray[np.integer], Answers]] = []
        self.faults: list[str] = []

    def keep(self, answers: Answers, indices: NDArray[np.integer]) -> None:
        """Copy what is needed of answers to known images; an index of -1 is an image whose answer is not known.

        Called right after the engine returned, before the clock is read: an unfinished answer is found out.
        """
        side = self._known.answers.maps.shape[1]
        if answers.scores.shape != (len(indices),) or answers.maps.shape != (len(indices), side, side):
            self.faults.append(
                f"answers to {len(indices)} images have shapes {answers.scores.shape} and {answers.maps.shape}"
            )
            return
        pixels = answers.maps.reshape(len(indices), -1)[:, self._pixels]
        self._kept.append((indices, Answers(np.array(answers.scores), pixels)))

    def verdict(self) -> list[str]:
        """All faults of the answers that were kept; an empty list is a pass."""
        if self.faults or not self._kept:
            return self.faults
        indices = np.concatenate([where for where, _ in self._kept])
        scores = np.concatenate([answers.scores for _, answers in self._kept])
        pixels = np.concatenate([answers.maps for _, answers in self._kept])
        for name, values in (("scores", scores), ("maps", pixels)):
            if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
                return [f"{name} given while timed are NaN, infinite or outside 0..1"]
        seen = indices >= 0
        expected = self._at_pixels(self._known.answers)
        return parity.stale_faults(
            Answers(scores[seen], pixels[seen]),
            Answers(expected.scores[indices[seen]], expected.maps[indices[seen]]),
            self._at_pixels(self._known.centre),
            self._known.smallest_spread,
        )

    def _at_pixels(self, answers: Answers) -> Answers:
        return Answers(answers.scores, answers.maps.reshape(len(answers.maps), -1)[:, self._pixels])
