"""How far an engine's detections are from float32 eager's, and how far they may be: for builds, bench and GPU runs.

Errors are absolute, in units of the raw score (0..1), and for maps also relative to how much the reference itself
differs from image to image:

    relative error = || maps - reference || / || reference - mean of the reference over the images ||

Constant maps have a relative error of at least 1, maps of the wrong images about 1.4.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine.base import Detections, Engine
from prn_fast.engine.early_exit import logit
from prn_fast.engine.names import split_way

# A reference that differs from image to image by less than this cannot magnify rounding into an error.
SMALLEST_SPREAD = 1e-4


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted differences of one precision; scores and maps are in 0..1.

    Attributes:
        score: difference of an image score.
        mean_map: mean absolute difference over all pixels of all maps.
        image_auroc: loss of image AUROC on the validation split.
        max_map: difference of a pixel.
        relative_map: distance to eager's maps, over how far those lie from their own mean over the images.
        image_auroc_of_few: as `image_auroc`, on the fewer images of a bench.
    """

    score: float
    mean_map: float
    image_auroc: float
    max_map: float
    relative_map: float
    image_auroc_of_few: float


_FLOAT32 = Tolerance(1e-3, 1e-4, 1e-4, max_map=2e-2, relative_map=0.02, image_auroc_of_few=0.002)
_EIGHT_BITS = Tolerance(0.35, 0.02, 0.005, max_map=1.0, relative_map=0.6, image_auroc_of_few=0.02)
# How much smaller the share of normal images that leave may be with an engine's screen than with the float32 one.
LARGEST_LOSS_OF_EXITS = 0.05
# float32 differs by the order of sums alone; in half precision a pixel at the edge of a defect moves; eight bits are a
# different network, of which the order of images must survive, single pixels need not.
TOLERANCES = {
    "fp32": _FLOAT32,
    "bf16": Tolerance(0.25, 0.01, 0.005, max_map=0.8, relative_map=0.4, image_auroc_of_few=0.02),
    "fp16": Tolerance(0.05, 0.005, 0.002, max_map=0.4, relative_map=0.2, image_auroc_of_few=0.01),
    "int8": _EIGHT_BITS,
    "fp8": _EIGHT_BITS,
}
STRICTEST = "fp32"


def precision_of(engine_name: str) -> str:
    """The precision that a name like "openvino:int8" states; float32, the strictest, where it states none."""
    stated = split_way(engine_name)[0].rpartition(":")[2]
    return stated if stated in TOLERANCES else STRICTEST


def score_kind(engine: Engine) -> str:
    """What an engine's scores may be compared with, in words: those of the same kind, such as "int8"."""
    return precision_of(engine.runs) + (" with early exit" if engine.leaves_early else "")


@dataclass(frozen=True)
class Parity:
    """Differences of an engine's detections from the reference's, over the same images.

    Attributes:
        images: how many.
        max_score, mean_score: absolute differences of the raw image scores.
        max_map, mean_map: absolute differences of the maps' pixels.
        relative_map: relative error of the maps, see the module.
    """

    images: int
    max_score: float
    mean_score: float
    max_map: float
    mean_map: float
    relative_map: float


def compare(found: Detections, reference: Detections) -> Parity:
    """Differences of two engines' detections of the same images."""
    scores = np.abs(found.raw_scores.astype(np.float64) - reference.raw_scores)
    maps = np.abs(found.maps.astype(np.float64) - reference.maps)
    return Parity(
        images=len(scores),
        max_score=float(scores.max()),
        mean_score=float(scores.mean()),
        max_map=float(maps.max()),
        mean_map=float(maps.mean()),
        relative_map=relative_error(found.maps, reference.maps),
    )


def relative_error(maps: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """Relative error of maps (N, S, S), see the module."""
    error = np.sqrt(np.mean((maps.astype(np.float64) - reference) ** 2))
    spread = np.sqrt(np.mean((reference.astype(np.float64) - reference.mean(axis=0)) ** 2))
    return float(error / max(spread, SMALLEST_SPREAD))


def faults(parity: Parity, auroc_loss: float, tolerance: Tolerance, *, few_images: bool = False) -> list[str]:
    """What is beyond tolerance, as sentences; empty if the engine may be used. NaN is beyond any tolerance.

    Args:
        auroc_loss: by how much image AUROC falls.
        few_images: as a bench has: single pixels and the relative error are held against limits too, and a single image
            may move AUROC further.
    """
    checks = [
        ("largest score error", parity.max_score, tolerance.score),
        ("mean map error", parity.mean_map, tolerance.mean_map),
        ("loss of image AUROC", auroc_loss, tolerance.image_auroc_of_few if few_images else tolerance.image_auroc),
    ]
    if few_images:
        checks += [
            ("largest map error", parity.max_map, tolerance.max_map),
            ("relative map error", parity.relative_map, tolerance.relative_map),
        ]
    # Stated so that NaN fails.
    return [f"{name} {value:.3g} is over {limit:g}" for name, value, limit in checks if not value <= limit]


@dataclass(frozen=True)
class ScreenParity:
    """An engine's screen beside the float32 one, over the same labelled images.

    An engine's screen has its own cut, because scores in few bits may all be lower or higher than those that the
    package's cut was found with. It lies as far below the lowest score of a flagged defect as the package's cut does,
    on the logit scale.

    Attributes:
        cut_shift: by how much it is moved, logits: the engine's lowest score of a defect that the whole network flags
            (of any defect where it flags none), less the lowest float32 one.
        exit_share, float_exit_share: share of the normal images that leave, at the moved cut and at the package's.
        flagged: defects that the whole network calls defective.
        lost, float_lost: how many of these leave.
        auroc_loss: by how much image AUROC of the screen's scores falls.
    """

    cut_shift: float
    exit_share: float
    float_exit_share: float
    flagged: int
    lost: int
    float_lost: int
    auroc_loss: float

    @classmethod
    def of(
        cls,
        found: Detections,
        reference: Detections,
        whole: Detections,
        labels: NDArray[np.integer],
        auroc: Callable[[Detections], float],
    ) -> "ScreenParity":
        """Compare two screens that run alone.

        Args:
            found, reference: of the engine's screen, and of the float32 one, both at the package's cut.
            whole: of the whole network.
            labels: (N,) 0 (good) or 1 (defect), both of which occur.
            auroc: image AUROC of detections.
        """
        normal, flagged = labels == 0, (labels == 1) & whole.defective
        # 0 at the cut, see `Screening.answer`.
        above, reference_above = logit(found.scores), logit(reference.scores)
        decisive = flagged if flagged.any() else labels == 1
        cut_shift = float(above[decisive].min() - reference_above[decisive].min())
        leaves = above < cut_shift
        return cls(
            cut_shift=cut_shift,
            exit_share=float(leaves[normal].mean()),
            float_exit_share=float(reference.exited[normal].mean()),
            flagged=int(flagged.sum()),
            lost=int(leaves[flagged].sum()),
            float_lost=int(reference.exited[flagged].sum()),
            auroc_loss=auroc(reference) - auroc(found),
        )

    def faults(self, tolerance: Tolerance) -> list[str]:
        """What is beyond tolerance, as sentences; a defect that only the engine's screen lets go always is."""
        found = []
        if self.lost > self.float_lost:
            found.append(f"{self.lost} of {self.flagged} flagged defects would leave, {self.float_lost} in float32")
        if not self.exit_share >= self.float_exit_share - LARGEST_LOSS_OF_EXITS:
            found.append(f"{self.exit_share:.1%} of normal images leave, {self.float_exit_share:.1%} in float32")
        if not self.auroc_loss <= tolerance.image_auroc:
            found.append(f"loss of the screen's image AUROC {self.auroc_loss:.3g} is over {tolerance.image_auroc:g}")
        return found
