"""Does a built engine compute what the network computes? Measured on the package's own validation images."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from prn_fast.engine.base import Detections, Engine
from prn_fast.package import ValidationSet
from prn_fast.training.calibration import validation_metrics


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may be from float32 eager.

    Attributes:
        score: largest difference of an image score, in 0..1.
        mean_map: mean absolute difference over all pixels of all maps.
        image_auroc: largest loss of image AUROC on the validation split.
    """

    score: float
    mean_map: float
    image_auroc: float


TOLERANCES = {
    "fp32": Tolerance(score=1e-3, mean_map=1e-4, image_auroc=1e-4),
    "bf16": Tolerance(score=0.25, mean_map=0.01, image_auroc=0.005),
    "fp16": Tolerance(score=0.05, mean_map=0.005, image_auroc=0.002),
    "int8": Tolerance(score=0.35, mean_map=0.02, image_auroc=0.005),
    "fp8": Tolerance(score=0.35, mean_map=0.02, image_auroc=0.005),
}


@dataclass(frozen=True)
class Parity:
    """Differences of an engine's output to the reference's, over the same images.

    Attributes:
        images: how many.
        max_score, mean_score: absolute differences of the image scores.
        max_map, mean_map: absolute differences of the maps' pixels.
    """

    images: int
    max_score: float
    mean_score: float
    max_map: float
    mean_map: float


def compare(found: Detections, reference: Detections) -> Parity:
    """Differences of two engines' detections of the same images."""
    scores = np.abs(found.scores.astype(np.float64) - reference.scores)
    return Parity(
        images=len(scores),
        max_score=float(scores.max()),
        mean_score=float(scores.mean()),
        max_map=float(np.abs(found.maps - reference.maps).max()),
        mean_map=float(np.abs(found.maps - reference.maps).mean(dtype=np.float64)),
    )


def faults(parity: Parity, auroc_loss: float, tolerance: Tolerance) -> list[str]:
    """What is beyond tolerance, as sentences; empty if the engine may be used. NaN is beyond any tolerance."""
    checks = (
        ("an image score differs by", parity.max_score, tolerance.score),
        ("the maps differ on average by", parity.mean_map, tolerance.mean_map),
        ("image AUROC falls by", auroc_loss, tolerance.image_auroc),
    )
    return [f"{what} {value:.2g}, more than {limit:g}" for what, value, limit in checks if not value <= limit]


@dataclass(frozen=True)
class Verification:
    """The result of verifying an engine; `faults` is empty if it passed."""

    parity: Parity
    reference_metrics: dict[str, float]
    engine_metrics: dict[str, float]
    faults: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, with the change of each metric."""
        change = {name: self.engine_metrics[name] - value for name, value in self.reference_metrics.items()}
        return {**asdict(self), "metric_change": change}


def verify(engine: Engine, expected: Detections, validation: ValidationSet, precision: str) -> Verification:
    """Compare an engine with float32 eager on the validation split.

    Args:
        engine: the one in question.
        expected: what float32 eager finds in the validation images.
        validation: real images and generated anomalies.
        precision: key of `TOLERANCES`.
    Raises:
        EngineError: an output that is not finite.
    """
    found = engine.infer(validation.images)
    before = validation_metrics(expected, validation)
    after = validation_metrics(found, validation)
    parity = compare(found, expected)
    auroc_loss = before["image_auroc"] - after["image_auroc"]
    return Verification(parity, before, after, faults(parity, auroc_loss, TOLERANCES[precision]))
