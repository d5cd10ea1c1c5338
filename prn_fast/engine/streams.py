"""Images one after the other through an engine, with answers in the same order: what `Engine.infer_many` drives."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Raw scores (N,), maps (N, S, S), and which images left after the screen (N,).
Answers = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]


class Stream(ABC):
    """Batches that are on their way; one thread at a time uses it."""

    @abstractmethod
    def put(self, images: Any) -> None:
        """Take checked images (N, S, S, C), which nobody changes afterwards."""

    @abstractmethod
    def take(self) -> Answers:
        """Answers to the oldest batch that was put and not taken; waits for them."""

    @abstractmethod
    def __len__(self) -> int:
        """How many batches were put and not taken."""

    @property
    @abstractmethod
    def full(self) -> bool:
        """Whether there is enough to work on for now, so that no other batch should be put."""

    def wait(self) -> bool:
        """Wait until the oldest batch is answered, True, or until the stream is no longer full, False."""
        return True

    def close(self) -> None:  # noqa: B027  (most streams hold nothing)
        """Wait for what is under way, and forget it."""


class BatchStream(Stream):
    """Puts small batches together until there are `batch` images, and runs them in one go.

    Args:
        answer: runs images.
        batch: images that are worth a run.
    """

    def __init__(self, answer: Callable[[Any], Answers], batch: int) -> None:
        self._answer, self._batch = answer, batch
        self._waiting: list[NDArray[np.uint8]] = []
        self._found: deque[Answers] = deque()

    def put(self, images: Any) -> None:
        """See `Stream`; images on a device are run at once."""
        if isinstance(images, np.ndarray):
            self._waiting.append(images)
        else:
            self._run()
            self._found.append(self._answer(images))

    def take(self) -> Answers:
        """See `Stream`."""
        if not self._found:
            self._run()
        return self._found.popleft()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._found)

    @property
    def full(self) -> bool:
        """See `Stream`."""
        return bool(self._found) or sum(map(len, self._waiting)) >= self._batch

    def _run(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        answers = self._answer(waiting[0] if len(waiting) == 1 else np.concatenate(waiting))
        start = 0
        for images in waiting:
            part = slice(start, start + len(images))
            self._found.append((answers[0][part], answers[1][part], answers[2][part]))
            start = part.stop
