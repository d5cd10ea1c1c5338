"""What an engine is known to answer, and checks of the answers that it gives while it is timed.

It is timed on marked copies of known images, to which a sound engine gives the known answers, with rare exceptions:
where two prototypes lie equally near a pixel, a mark may move it from one to the other, and the map around it with it.
So an answer that is not the known one gets a second look: the engine is asked about other images, whose answers must be
the known ones and lie far from that answer, and right after that about the same copy, where it must answer as before.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_fast.bench import parity
from prn_fast.bench.answers import Answers, SupportsInfer, ask

PROBED_PIXELS = 2048
Pixels = NDArray[np.integer] | slice
EVERY_PIXEL = slice(None)


@dataclass(frozen=True)
class Known:
    """An engine's checked answers to N images, and their mean.

    Attributes:
        images: (N, S, S, C).
        answers: scores (N,) and maps (N, S, S).
        centre: mean score (1,) and mean map (1, S, S).
        smallest_spread: what counts as the least distance of a map from the mean map, see `parity.stale`.
    """

    images: NDArray[np.uint8]
    answers: Answers
    centre: Answers
    smallest_spread: float

    @classmethod
    def of(cls, images: NDArray[np.uint8], answers: Answers) -> "Known":
        """Known answers with their centre."""
        centre = Answers(answers.scores.mean(keepdims=True), answers.maps.mean(axis=0, keepdims=True))
        smallest = max(parity.SMALLEST_SPREAD, parity.STALE_FLOOR * parity.spread_of(answers.maps))
        return cls(images, answers, centre, smallest)

    def faults(
        self, engine: SupportsInfer, images: NDArray[np.uint8], indices: NDArray[np.integer], answers: Answers
    ) -> list[str]:
        """What is wrong with an engine's answers to marked copies of known images: their form, or their values.

        Args:
            engine: asked again if an answer is not the known one, see the module.
            images: the copies, (B, S, S, C).
            indices: (B,) of the known images that they are copies of.
        """
        if faults := parity.form_faults(answers, len(indices), self.answers.maps.shape[1]):
            return faults
        return self.stale_faults(engine, lambda: images, indices, _part(answers), EVERY_PIXEL)

    def stale_faults(
        self,
        engine: SupportsInfer,
        copies: Callable[[], NDArray[np.uint8]],
        indices: NDArray[np.integer],
        answers: Answers,
        pixels: Pixels,
    ) -> list[str]:
        """What is wrong with answers that are not the known ones, at a second look neither.

        Args:
            copies: makes the images that were asked about again, (B, S, S, C).
            indices: (B,) of the known images that they are copies of; -1 is one whose answer is not known.
            answers: well-formed; scores (B,), maps (B, P) at these pixels.
        """
        judged = np.flatnonzero(indices >= 0)
        if not len(judged):
            return []
        known, centre = _part(self.answers, indices[judged], pixels), _part(self.centre, pixels=pixels)
        suspect, fault = parity.stale(_part(answers, judged), known, centre, self.smallest_spread)
        if not fault:
            return []
        try:
            again, faults = self._second_look(engine, copies(), answers.scores)
        except Exception as error:
            # Whatever a backend raises is its fault, and must not cost the figures of the others.
            return [fault, f"raised {type(error).__name__} when asked again: {error}"]
        if again is None:
            return [fault, *faults]
        doubtful = judged[suspect]
        _, fault = parity.stale(_part(answers, doubtful), _part(again, doubtful, pixels), centre, self.smallest_spread)
        return [fault] if fault else []

    def _second_look(
        self, engine: SupportsInfer, images: NDArray[np.uint8], scores: NDArray[np.floating]
    ) -> tuple[Answers | None, list[str]]:
        """An engine's answers to the same copies once more; None, and why, if it cannot be trusted to look again.

        Args:
            scores: (B,) that it gave while timed.
        """
        side = self.answers.maps.shape[1]
        others = np.abs(self.answers.scores - scores[:, None]).argmax(axis=1)
        answers = ask(engine, self.images[others])
        if faults := parity.form_faults(answers, len(others), side):
            return None, faults
        known = Answers(self.answers.scores[others], self.answers.maps[others])
        _, fault = parity.stale(answers, known, self.centre, self.smallest_spread)
        if fault:
            return None, [fault]
        again = ask(engine, images)
        faults = parity.form_faults(again, len(images), side)
        return (None, faults) if faults else (again, [])


def _part(answers: Answers, images: NDArray[np.integer] | slice = slice(None), pixels: Pixels = EVERY_PIXEL) -> Answers:
    """Scores (B,) of some images and their maps (B, P) at some pixels."""
    maps = answers.maps.reshape(len(answers.maps), -1)
    return Answers(answers.scores[images], maps[images][:, pixels])


@dataclass(frozen=True)
class _Kept:
    """One call of a run: which images, what was answered at the probed pixels, and how to make the copies again."""

    indices: NDArray[np.integer]
    answers: Answers
    copies: Callable[[], NDArray[np.uint8]]


class SpotChecks:
    """Answers of a run whose clock does not stop for checks: each score and a few pixels are kept, and checked later.

    The pixels are drawn at random for each run, so that an engine cannot know which ones count.
    """

    def __init__(self, known: Known, engine: SupportsInfer, rng: np.random.Generator) -> None:
        self._known, self._engine = known, engine
        side = known.answers.maps.shape[1]
        self._pixels = rng.choice(side * side, size=min(PROBED_PIXELS, side * side), replace=False)
        self._kept: list[_Kept] = []
        self.faults: list[str] = []

    def keep(self, answers: Answers, indices: NDArray[np.integer], copies: Callable[[], NDArray[np.uint8]]) -> None:
        """Copy what is needed of answers to copies of known images; -1 is an image whose answer is not known.

        Called right after the engine returned, before the clock is read: an unfinished answer is found out.

        Args:
            copies: makes the copies again, for a second look.
        """
        side = self._known.answers.maps.shape[1]
        if answers.scores.shape != (len(indices),) or answers.maps.shape != (len(indices), side, side):
            self.faults.append(
                f"answers to {len(indices)} images have shapes {answers.scores.shape} and {answers.maps.shape}"
            )
            return
        probed = _part(answers, pixels=self._pixels)
        self._kept.append(_Kept(indices, Answers(np.array(probed.scores), probed.maps), copies))

    def verdict(self) -> list[str]:
        """The faults of the answers that were kept; an empty list is a pass. May ask the engine again."""
        if self.faults or not self._kept:
            return self.faults
        for kept in self._kept:
            for name, values in (("scores", kept.answers.scores), ("maps", kept.answers.maps)):
                if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
                    return [f"{name} given while timed are NaN, infinite or outside 0..1"]
            if faults := self._known.stale_faults(self._engine, kept.copies, kept.indices, kept.answers, self._pixels):
                return faults
        return []
