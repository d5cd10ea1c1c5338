"""An engine in a scenario: sound so far, with its known answers."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from prn_fast.bench.engines.answers import SupportsInfer, ask, ask_many, ask_without_copy
from prn_fast.bench.engines.output_checks import KnownAnswers, SpotChecks

CALIBRATION_CALLS = 3
CALIBRATION_SECONDS = 0.5


@dataclass
class Mix:
    """What a scenario fed an engine.

    Attributes:
        images, defects: how many, and those of them with a defect.
        left: how many left after the screen, by the engine's checked answers.
        lost: defects that the whole network detects and that left.
    """

    images: int = 0
    defects: int = 0
    left: int = 0
    lost: int = 0

    def add(self, defective: NDArray[np.bool_], left: NDArray[np.bool_]) -> None:
        """Count images."""
        self.images += len(left)
        self.defects += int(defective.sum())
        self.left += int(left.sum())


@dataclass
class EngineUnderTest:
    """An engine that passed its checks.

    Attributes:
        labels: (N,) 0 (good) or 1 (defect), of the known images; None: all good.
        library: indices of known images, in the mixture that is fed; None: each once.
        mix: what was fed since the scenario began.
        faults: what was found wrong in a scenario; such an engine gets no further run and no figure.
        draws: runs so far that drew images; each draws others, the same for every engine.
    """

    name: str
    engine: SupportsInfer
    known: KnownAnswers
    rng: np.random.Generator
    labels: NDArray[np.integer] | None = None
    library: NDArray[np.int64] | None = None
    mix: Mix = field(default_factory=lambda: Mix())
    faults: list[str] = field(default_factory=list)
    draws: int = 0

    @property
    def images(self) -> NDArray[np.uint8]:
        """(N, S, S, C), to which the answers are known."""
        return self.known.images

    def __post_init__(self) -> None:
        if self.labels is None:
            self.labels = np.zeros(len(self.images), np.int64)
        if self.library is None:
            self.library = np.arange(len(self.images))

    def spot_checks(self) -> SpotChecks:
        """Checks for one run."""
        return SpotChecks(self.known, self.rng)

    def answer(self, places: NDArray[np.integer], checks: SpotChecks) -> None:
        """Infer images of the library and keep the answers for the checks; copying counts, as in serving."""
        indices = self._fed(places)
        checks.keep(ask_without_copy(self.engine, self.images[indices]), indices)

    def answer_many(self, batches: Iterable[NDArray[np.integer]], checks: SpotChecks) -> Iterator[None]:
        """As `answer`, for one batch after the other, as a stream; yields when the next one is answered."""
        waiting: deque[NDArray[np.integer]] = deque()

        def images() -> Iterator[NDArray[np.uint8]]:
            for places in batches:
                waiting.append(self._fed(places))
                yield self.images[waiting[-1]]

        for answers in ask_many(self.engine, images()):
            checks.keep(answers, waiting.popleft())
            yield

    def _fed(self, places: NDArray[np.integer]) -> NDArray[np.integer]:
        """Which known images lie at places of the library; they are counted as fed."""
        assert self.library is not None
        assert self.labels is not None
        indices = self.library[places]
        self.mix.add(self.labels[indices] == 1, self.known.answers.exited[indices])
        return indices

    def seconds_per_call(self, batch: int) -> float:
        """Median time of a few calls with `batch` images, after one that counts only if it is slow."""
        seconds: list[float] = []
        while len(seconds) <= CALIBRATION_CALLS and sum(seconds) < CALIBRATION_SECONDS:
            assert self.library is not None
            images = self.images[self.rng.choice(self.library, size=batch)]
            start = time.perf_counter()
            ask(self.engine, images)
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds[1:] or seconds))
