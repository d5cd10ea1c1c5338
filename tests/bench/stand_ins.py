"""Small real engines, sound and faulty, with the interface of `prn_fast.engine`."""

import threading
import time

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine import Detections

SIDE = 32
PIXELS_IN_SCORE = 100
BOX = 5


def blob_images(count: int = 12, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Grey noise (N, SIDE, SIDE, 1); every second image has a bright square at a random place."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 120, (count, SIDE, SIDE, 1), dtype=np.uint8)
    labels = np.arange(count) % 2
    for index in np.flatnonzero(labels):
        row, column = rng.integers(0, SIDE - 12, size=2)
        images[index, row : row + 12, column : column + 12] = 220
    return images, labels


class ConvolutionEngine:
    """A detector of bright regions: a box filter and sigmoid maps, on one thread."""

    def __init__(self) -> None:
        self.calls = 0

    def infer(self, images: NDArray[np.uint8]) -> Detections:
        self.calls += 1
        pixels = np.pad(images[..., 0].astype(np.float32) / 255, ((0, 0), (BOX // 2, BOX // 2), (BOX // 2, BOX // 2)))
        blurred = np.lib.stride_tricks.sliding_window_view(pixels, (BOX, BOX), axis=(1, 2)).mean(axis=(3, 4))
        maps = (1 / (1 + np.exp(-20 * (blurred - 0.6)))).astype(np.float32)
        scores = np.sort(maps.reshape(len(maps), -1), axis=1)[:, -PIXELS_IN_SCORE:].mean(axis=1)
        return Detections.of(scores, maps)


class WanderingEngine(ConvolutionEngine):
    """The answer to the same image changes from call to call, one time in ten."""

    def infer(self, images: NDArray[np.uint8]) -> Detections:
        done = super().infer(images)
        return Detections.of(1 - done.raw_scores, 1 - done.maps) if self.calls % 10 == 0 else done


class ZeroEngine(ConvolutionEngine):
    """Does nothing."""

    def infer(self, images: NDArray[np.uint8]) -> Detections:
        return Detections.of(np.zeros(len(images), np.float32), np.zeros((len(images), SIDE, SIDE), np.float32))


class NaNEngine(ConvolutionEngine):
    """One pixel of one map is not a number."""

    def infer(self, images: NDArray[np.uint8]) -> Detections:
        detections = super().infer(images)
        detections.maps[0, 3, 3] = np.nan
        return detections


class FirstAnswerEngine(ConvolutionEngine):
    """Computes once for each batch size and gives that answer from then on."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, Detections] = {}

    def infer(self, images: NDArray[np.uint8]) -> Detections:
        if len(images) not in self.known:
            self.known[len(images)] = super().infer(images)
        return self.known[len(images)]


class LastAnswerEngine(ConvolutionEngine):
    """Hands out the answer to the call before."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[int, Detections] = {}

    def infer(self, images: NDArray[np.uint8]) -> Detections:
        new = super().infer(images)
        old = self.last.get(len(images), new)
        self.last[len(images)] = new
        return old


class LazyAfterChecksEngine(ConvolutionEngine):
    """Works until it has been checked, then repeats its last answer."""

    def __init__(self, honest_calls: int) -> None:
        super().__init__()
        self.honest_calls = honest_calls
        self.known: dict[int, Detections] = {}

    def infer(self, images: NDArray[np.uint8]) -> Detections:
        if self.calls >= self.honest_calls and len(images) in self.known:
            return self.known[len(images)]
        self.known[len(images)] = super().infer(images)
        return self.known[len(images)]


class EarlyEngine(ConvolutionEngine):
    """Returns at once and fills the answer in later."""

    def infer(self, images: NDArray[np.uint8]) -> Detections:
        done = super().infer(images)
        early = Detections.of(np.zeros_like(done.raw_scores), np.zeros_like(done.maps))

        def finish() -> None:
            time.sleep(0.02)
            early.raw_scores[:] = done.raw_scores
            early.maps[:] = done.maps

        threading.Thread(target=finish, daemon=True).start()
        return early


class BufferEngine(ConvolutionEngine):
    """Writes every answer into the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.scores, self.maps = np.empty(64, np.float32), np.empty((64, SIDE, SIDE), np.float32)

    def infer(self, images: NDArray[np.uint8]) -> Detections:
        done = super().infer(images)
        count = len(images)
        self.scores[:count], self.maps[:count] = done.raw_scores, done.maps
        return Detections.of(self.scores[:count], self.maps[:count])


class WrongShapeEngine(ConvolutionEngine):
    """Maps at half the side."""

    def infer(self, images: NDArray[np.uint8]) -> Detections:
        done = super().infer(images)
        return Detections.of(done.raw_scores, done.maps[:, ::2, ::2])


class RaisingEngine(ConvolutionEngine):
    """A backend that fails."""

    def infer(self, images: NDArray[np.uint8]) -> Detections:
        raise RuntimeError("out of memory")


class SlowEngine(ConvolutionEngine):
    """The same answers, two milliseconds later."""

    def infer(self, images: NDArray[np.uint8]) -> Detections:
        time.sleep(0.002)
        return super().infer(images)
