"""What every engine is: camera bytes in, detections out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from prn_fast.errors import EngineError


@dataclass(frozen=True)
class Detections:
    """What an engine found in N images.

    Attributes:
        scores: (N,) float32 in 0..1, image scores: the mean of the 100 largest pixels of the map.
        maps: (N, S, S) float32 in 0..1, anomaly maps.
    """

    scores: NDArray[np.float32]
    maps: NDArray[np.float32]


class Engine(ABC):
    """Runs a PRN; one subclass a backend.

    Attributes:
        name: "backend" or "backend:precision".
        image_size: side S of the images, pixels.
        image_channels: 1 (grey) or 3 (RGB).
        batch: most images in one run of the backend; more are split.
    """

    def __init__(self, name: str, image_size: int, image_channels: int, batch: int) -> None:
        if batch < 1:
            raise EngineError(f"batch must be at least 1, not {batch}")
        self.name = name
        self.image_size = image_size
        self.image_channels = image_channels
        self.batch = batch

    def infer(self, images: Any) -> Detections:
        """Inspect images.

        Args:
            images: uint8 (N, S, S, C), a numpy array or a torch tensor; N of one or more.
        Raises:
            EngineError: wrong kind, dtype, shape or size, before anything runs; or an output that is not finite.
        """
        array = self.check(images)
        scores = np.empty(len(array), np.float32)
        maps = np.empty((len(array), self.image_size, self.image_size), np.float32)
        self.fill(array, scores, maps)
        # A map decides about every pixel: one that is not a number must stop the line, not pass as good.
        if not (np.isfinite(scores).all() and np.isfinite(maps).all()):
            raise EngineError(f"{self.name}: the output holds NaN or infinite values; do not use this engine")
        return Detections(scores, maps)

    def check(self, images: Any) -> NDArray[np.uint8]:
        """The images as a numpy array, or an EngineError that says what is wrong with them."""
        if not isinstance(images, np.ndarray):
            if not hasattr(images, "__dlpack__"):
                raise EngineError(f"images must be a numpy array or a torch tensor, not {type(images).__name__}")
            images = images.detach().cpu().numpy() if hasattr(images, "detach") else np.from_dlpack(images)
        self.check_shape(images)
        return images

    def check_shape(self, images: Any) -> None:
        """An EngineError unless `images`, an array wherever it lies, are uint8 (N, S, S, C)."""
        if images.dtype != np.uint8:
            raise EngineError(
                f"images have dtype {images.dtype}; engines take uint8 as cameras deliver it, not normalised values"
            )
        expected = (self.image_size, self.image_size, self.image_channels)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise EngineError(
                f"images have shape {images.shape}; this engine takes (N, {', '.join(map(str, expected))}), "
                "number, height, width, channels"
            )
        if len(images) == 0:
            raise EngineError("there are no images: N is 0")

    def fill(self, images: NDArray[np.uint8], scores: NDArray[np.float32], maps: NDArray[np.float32]) -> None:
        """Write the scores (N,) and maps (N, S, S) of checked images, one part of at most `batch` after the other.

        A backend that works on several parts at a time has its own.
        """
        for start in range(0, len(images), self.batch):
            part = slice(start, min(start + self.batch, len(images)))
            scores[part], maps[part] = self.run(images[part])

    @abstractmethod
    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores (n,) and maps (n, S, S) of at most `batch` checked images."""

    def close(self) -> None:  # noqa: B027  (most backends hold nothing that Python does not free)
        """Free what the backend holds; the engine cannot be used afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
