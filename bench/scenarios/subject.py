"""An engine in a scenario: sound so far, with its known answers, and fed with images that it has not seen."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from prn_fast.bench.answers import SupportsInfer, ask, ask_without_copy, marked_copies
from prn_fast.bench.known import Known, SpotChecks

CALIBRATION_CALLS = 3
CALIBRATION_SECONDS = 0.5
MOST_SEED = 2**63


@dataclass
class Subject:
    """An engine that passed its checks.

    Attributes:
        faults: what was found wrong in a scenario; such an engine gets no further run and no figure.
    """

    name: str
    engine: SupportsInfer
    known: Known
    rng: np.random.Generator
    faults: list[str] = field(default_factory=list)

    @property
    def images(self) -> NDArray[np.uint8]:
        """(N, S, S, C), to which the answers are known."""
        return self.known.images

    def spot_checks(self) -> SpotChecks:
        """Checks for one run."""
        return SpotChecks(self.known, self.engine, self.rng)

    def answer(self, indices: NDArray[np.integer], checks: SpotChecks) -> None:
        """Infer marked copies of known images and keep the answers for the checks; copying counts as serving does."""
        self.answer_copies(lambda: self.images[indices], indices, checks)

    def answer_copies(
        self, images: Callable[[], NDArray[np.uint8]], indices: NDArray[np.integer], checks: SpotChecks
    ) -> None:
        """Infer marked copies of the images that `images` gives each time; indices as for `SpotChecks.keep`."""
        seed = self.rng.integers(MOST_SEED)

        def copies() -> NDArray[np.uint8]:
            return marked_copies(images(), np.random.default_rng(seed))

        checks.keep(ask_without_copy(self.engine, copies()), indices, copies)

    def seconds_per_call(self, batch: int) -> float:
        """Median time of a few calls with `batch` images, after one that counts only if it is slow."""
        seconds: list[float] = []
        while len(seconds) <= CALIBRATION_CALLS and sum(seconds) < CALIBRATION_SECONDS:
            images = marked_copies(self.images[self.rng.integers(len(self.images), size=batch)], self.rng)
            start = time.perf_counter()
            ask(self.engine, images)
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds[1:] or seconds))
