"""Does a built engine compute what the network computes? Measured on the package's own validation images."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from prn_fast.engine.base import Detections, Engine, is_defective
from prn_fast.engine.parity import TOLERANCES, Parity, ScreenParity, compare, faults
from prn_fast.package import ValidationSet
from prn_fast.training.calibration import validation_metrics
from prn_fast.training.metrics import image_metrics


@dataclass(frozen=True)
class VerdictParity:
    """Where an engine's verdicts are those of float32 eager.

    Attributes:
        band: farther than this from the threshold, in raw scores of float32 eager, no validation image has another
            verdict: the largest difference of a score. A new image of their kind has a larger one once in `images` + 1
            times.
        images: of the validation split.
        inside: of these, no farther from the threshold.
        differ: of these, with another verdict.
    """

    band: float
    images: int
    inside: int
    differ: int

    @classmethod
    def of(cls, found: Detections, expected: Detections, threshold: float) -> "VerdictParity":
        """Of an engine's detections and float32 eager's, of the same images."""
        distance = np.abs(expected.raw_scores.astype(np.float64) - threshold)
        band = float(np.abs(found.raw_scores.astype(np.float64) - expected.raw_scores).max())
        differ = int((found.defective != is_defective(expected.raw_scores, threshold)).sum())
        return cls(band, len(distance), int((distance <= band).sum()), differ)


@dataclass(frozen=True)
class Verification:
    """The result of verifying an engine; `faults` is empty if it passed."""

    parity: Parity
    verdicts: VerdictParity
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
    verdicts = VerdictParity.of(found, expected, engine.threshold)
    return Verification(parity, verdicts, before, after, faults(parity, auroc_loss, TOLERANCES[precision]))


def verify_screen(engine: Engine, expected: Detections, whole: Detections, validation: ValidationSet) -> ScreenParity:
    """Compare an engine's screen with the float32 one on the validation split: which images leave.

    Args:
        engine: opened with `screen_only`.
        expected: what the float32 screen, alone, finds in the validation images.
        whole: what float32 eager finds in them.
        validation: real images and generated anomalies.
    Raises:
        EngineError: an output that is not finite.
    """
    return ScreenParity.of(
        engine.infer(validation.images),
        expected,
        whole,
        validation.labels,
        lambda found: image_metrics(found.raw_scores, validation.labels).auroc,
    )
