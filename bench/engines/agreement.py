"""Does an engine compute what float32 `eager` computes? An engine that does not gets no speed.

Written for engines that are wrong in ways that make them fast: constant answers, answers to the previous image,
unfinished answers, NaN.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine.base import Detections
from prn_fast.engine.parity import Parity, Tolerance, compare, faults
from prn_fast.training.metrics import image_metrics


@dataclass(frozen=True)
class Agreement:
    """How an engine's answers to labelled images agree with the reference's.

    Attributes:
        anomalies: how many of the images have a defect.
        image_auroc, image_auroc_change: of the engine, and against the reference; None where one class is missing.
    """

    parity: Parity
    anomalies: int
    image_auroc: float | None
    image_auroc_change: float | None

    @classmethod
    def of(cls, answers: Detections, reference: Detections, labels: NDArray[np.integer]) -> "Agreement":
        """That of well-formed answers; `labels`: (N,) 0 (good) or 1 (defect)."""
        auroc, change = None, None
        if 0 < labels.sum() < len(labels):
            auroc = image_metrics(answers.raw_scores, labels).auroc
            change = auroc - image_metrics(reference.raw_scores, labels).auroc
        return cls(compare(answers, reference), int(labels.sum()), auroc, change)

    def faults(self, tolerance: Tolerance) -> list[str]:
        """Which errors are over the tolerance."""
        return faults(self.parity, -(self.image_auroc_change or 0.0), tolerance, few_images=True)

    def to_dict(self) -> dict[str, float | int | None]:
        """JSON-ready values, by the names that reports have for them."""
        return {
            "images": self.parity.images,
            "anomalies": self.anomalies,
            "score_max_error": self.parity.max_score,
            "score_mean_error": self.parity.mean_score,
            "map_max_error": self.parity.max_map,
            "map_mean_error": self.parity.mean_map,
            "relative_error": self.parity.relative_map,
            "image_auroc": self.image_auroc,
            "image_auroc_change": self.image_auroc_change,
        }


@dataclass(frozen=True)
class Exits:
    """Which of the labelled images leave an engine after the screen.

    Attributes:
        good, good_left: images without a defect, and those of them that leave.
        flagged, lost: images with a defect that the whole network calls defective, and those of them that leave.
    """

    good: int
    good_left: int
    flagged: int
    lost: int

    @classmethod
    def of(cls, answers: Detections, reference: Detections, labels: NDArray[np.integer]) -> "Exits":
        """That of well-formed answers; `reference`: of the whole network; `labels`: (N,) 0 (good) or 1 (defect)."""
        good, flagged = labels == 0, (labels == 1) & reference.defective
        return cls(
            int(good.sum()), int(answers.exited[good].sum()), int(flagged.sum()), int(answers.exited[flagged].sum())
        )

    def faults(self) -> list[str]:
        """A detection that early exit loses: no speed is worth it."""
        return [f"{self.lost} of {self.flagged} detected defects leave early"] if self.lost else []


def form_faults(answers: Detections, count: int, side: int) -> list[str]:
    """What is wrong with the answers in themselves: shape, dtype, values that are not finite or not in 0..1."""
    faults = []
    for name, values, shape in (
        ("scores", answers.raw_scores, (count,)),
        ("maps", answers.maps, (count, side, side)),
    ):
        if values.shape != shape:
            faults.append(f"{name} have shape {values.shape} instead of {shape}")
        elif values.dtype != np.float32:
            faults.append(f"{name} are {values.dtype} instead of float32")
        elif not np.isfinite(values).all():
            wrong = values.size - int(np.isfinite(values).sum())
            faults.append(f"{wrong} of {values.size} values of the {name} are NaN or infinite")
        elif values.min() < 0 or values.max() > 1:
            faults.append(f"{name} leave 0..1: {values.min():.4g} to {values.max():.4g}")
    return faults


def dependence_faults(answers: Detections) -> list[str]:
    """Which part of the answers is the same for all images."""
    parts = (("maps", answers.maps), ("scores", answers.raw_scores))
    return [f"the {name} do not depend on the image" for name, values in parts if np.ptp(values, axis=0).max() <= 0]
