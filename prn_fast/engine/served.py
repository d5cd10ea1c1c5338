"""What travels between a server and `RemoteEngine`: the tensors of a served package, and the package's description.

    images      uint8    (N, S, S, C)   as for `Engine.infer`
    scores      float32  (N, 1)         `Detections.scores`
    raw_scores  float32  (N, 1)         the network's own, of which `RemoteEngine` makes `Detections`
    verdicts    uint8    (N, 1)         1 where the package's threshold calls the image defective
    exited      uint8    (N, 1)         1 where the image left early, see `Detections.exited`
    maps        float32  (N, S, S)      `Detections.maps`
    identity    int64    (N, 1)         stands for weights and thresholds, so that no other model's answer is taken
    about       uint8    (N, L)         a `Description` as JSON in UTF-8, the same for every image

A client asks for the outputs that it wants, by name. Descriptions may gain fields; readers ignore new ones.
"""

import base64
import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine.base import Detections
from prn_fast.errors import EngineError
from prn_fast.manifest import WEIGHTS

if TYPE_CHECKING:
    from prn_fast.engine.base import Engine
    from prn_fast.package import Package

IMAGES = "images"
SCORES, RAW_SCORES, VERDICTS, EXITED = "scores", "raw_scores", "verdicts", "exited"
MAPS, IDENTITY, ABOUT = "maps", "identity", "about"
GRID = 8  # a known map is kept as the means of GRID x GRID fields
# How far an engine may be from its own earlier answer: another batch, and so another order of sums.
SAME_ENGINE = (0.01, 0.002)


def answers(found: Detections) -> dict[str, NDArray[Any]]:
    """The tensors that a server sends for detections: one place that knows what becomes of each field."""
    return {
        SCORES: found.scores[:, None],
        RAW_SCORES: found.raw_scores[:, None],
        VERDICTS: found.defective.astype(np.uint8)[:, None],
        EXITED: found.exited.astype(np.uint8)[:, None],
        MAPS: found.maps,
    }


@dataclass(frozen=True)
class Canary:
    """Images with known answers.

    Attributes:
        images: (n, S, S, C) uint8.
        scores: (n,) float32, the network's own.
        levels: (n, GRID, GRID) float32, means of the fields of each map.
    """

    images: NDArray[np.uint8]
    scores: NDArray[np.float32]
    levels: NDArray[np.float32]

    @classmethod
    def ask(cls, engine: "Engine", images: NDArray[np.uint8]) -> Self:
        """What an engine answers to images."""
        found = engine.infer(images)
        return cls(images, found.raw_scores, levels_of(found.maps))

    def faults(self, scores: NDArray[np.float32], maps: NDArray[np.float32], most: tuple[float, float]) -> list[str]:
        """What is wrong with other answers to the same images, as sentences; empty if they agree.

        Args:
            scores, maps: (n,) and (n, S, S).
            most: largest accepted difference of a score, and of the levels on average.
        """
        differences = (
            ("score", float(np.abs(scores - self.scores).max()), most[0]),
            ("map", float(np.abs(levels_of(maps) - self.levels).mean()), most[1]),
        )
        # Stated so that NaN fails.
        return [
            f"{name} differs by {value:.3g}, over {limit:g}" for name, value, limit in differences if not value <= limit
        ]


def levels_of(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means (n, GRID, GRID) of the fields of maps (n, S, S); the last fields take what is left over."""
    starts = np.arange(GRID) * maps.shape[1] // GRID
    sums = np.add.reduceat(np.add.reduceat(maps.astype(np.float64), starts, axis=1), starts, axis=2)
    sizes = np.diff([*starts, maps.shape[1]])
    return (sums / np.outer(sizes, sizes)).astype(np.float32)


@dataclass(frozen=True)
class Description:
    """What a server says of a package that it serves.

    Attributes:
        package: file name of the package, without its ending.
        weights: sha256 of its weights.
        engine: that runs it on the server, such as "openvino:int8".
        threshold, pixel_threshold: of the package's calibration.
        canary: images, and what this engine answers to them.
        early_exit: whether images may leave early there.
    """

    package: str
    weights: str
    engine: str
    threshold: float
    pixel_threshold: float
    canary: Canary
    early_exit: bool = False

    @classmethod
    def of(cls, package: "Package", engine: "Engine", canary: Canary) -> Self:
        """The description of a package, and of the engine that runs it."""
        thresholds = package.calibration("threshold"), package.calibration("pixel_threshold")
        return cls(package.path.stem, weights_of(package), engine.runs, *thresholds, canary, engine.leaves_early)

    @property
    def identity(self) -> int:
        """Stands for weights and thresholds: where it is the same, verdicts mean the same."""
        return identity_of(self.weights, self.threshold, self.pixel_threshold)

    def require(self, package: "Package", where: str) -> None:
        """An EngineError unless this is a description of `package`."""
        thresholds = package.calibration("threshold"), package.calibration("pixel_threshold")
        if self.identity != identity_of(weights_of(package), *thresholds):
            raise EngineError(
                f"{where} serves another package than {package.path}: its weights or thresholds differ; export that "
                "package to the server, or name the one that is served"
            )

    def to_json(self) -> bytes:
        """UTF-8, for `from_json`."""
        images = self.canary.images
        content = {
            "package": self.package,
            "weights": self.weights,
            "engine": self.engine,
            "threshold": self.threshold,
            "pixel_threshold": self.pixel_threshold,
            "early_exit": self.early_exit,
            "canary": {
                "shape": images.shape,
                "images": base64.b64encode(images.tobytes()).decode(),
                "scores": self.canary.scores.tolist(),
                "levels": self.canary.levels.tolist(),
            },
        }
        return json.dumps(content).encode()

    @classmethod
    def from_json(cls, content: bytes, where: str) -> Self:
        """Raises an EngineError that names `where` it comes from, unless it makes sense."""
        try:
            found = json.loads(content)
            known = found["canary"]
            images = np.frombuffer(base64.b64decode(known["images"]), np.uint8).reshape(known["shape"])
            scores = np.array(known["scores"], np.float32)
            levels = np.array(known["levels"], np.float32)
            thresholds = float(found["threshold"]), float(found["pixel_threshold"])
            texts = [str(found[name]) for name in ("package", "weights", "engine")]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise EngineError(f"{where}: is not a package of prn_fast; export one with `prn-serve export`") from None
        shaped = images.ndim == 4 and scores.shape == (len(images),) and levels.shape == (len(images), GRID, GRID)
        finite = all(map(math.isfinite, thresholds)) and np.isfinite(scores).all() and np.isfinite(levels).all()
        if not (len(images) and shaped and finite):
            raise EngineError(f"{where}: its known answers are invalid; export the package again")
        return cls(
            texts[0], texts[1], texts[2], *thresholds, Canary(images, scores, levels), bool(found.get("early_exit"))
        )


def identity_of(weights: str, threshold: float, pixel_threshold: float) -> int:
    """63 bits of a digest."""
    digest = hashlib.sha256(json.dumps([weights, threshold, pixel_threshold]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def weights_of(package: "Package") -> str:
    """sha256 of a package's weights: it identifies the model, whatever engines are added."""
    return package.manifest["files"][WEIGHTS]["sha256"]
