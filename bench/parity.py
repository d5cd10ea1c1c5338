"""Does an engine compute what float32 `eager` computes? An engine that does not gets no speed.

Written for engines that are wrong in ways that make them fast: constant answers, answers to the previous image,
unfinished answers, NaN. Errors are absolute, in units of the score (0..1), and relative to how much the reference
itself differs from image to image:

    relative error = || maps - reference || / || reference - mean of the reference over the images ||

A constant answer has a relative error of at least 1, answers to the wrong images about 1.4.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_fast.bench.answers import Answers
from prn_fast.build.verify import TOLERANCES as BUILD_TOLERANCES
from prn_fast.training.metrics import image_metrics


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted errors of one precision; scores and maps are in 0..1."""

    score_max: float
    map_max: float
    map_mean: float
    relative: float
    auroc_loss: float


def _tolerance(precision: str, map_max: float, relative: float, auroc_loss: float) -> Tolerance:
    built = BUILD_TOLERANCES[precision]
    return Tolerance(built.score, map_max, built.mean_map, relative, auroc_loss)


# Scores and mean map error as in the verification of a build. Of the rest: float32 differs by the order of sums alone;
# in half precision a pixel at the edge of a defect moves; INT8 is a different network, of which the order of images
# must survive, single pixels need not. AUROC has more slack than in a build, since it is taken on fewer images.
TOLERANCES = {
    "fp32": _tolerance("fp32", map_max=2e-2, relative=0.02, auroc_loss=0.002),
    "fp16": _tolerance("fp16", map_max=0.4, relative=0.2, auroc_loss=0.01),
    "bf16": _tolerance("bf16", map_max=0.8, relative=0.4, auroc_loss=0.02),
    "int8": _tolerance("int8", map_max=1.0, relative=0.6, auroc_loss=0.02),
}
STRICTEST = "fp32"

# Above this share of its own differences between images, an answer given while timed is not the one that was checked.
STALE_ANSWER = 0.5
STALE_SCORE = 0.02
# Of the spread over all images: a map that is close to the mean map is judged as if it were that far from it.
STALE_FLOOR = 0.25
# A reference that differs from image to image by less than this cannot magnify rounding into an error.
SMALLEST_SPREAD = 1e-4


@dataclass(frozen=True)
class Parity:
    """Errors of an engine's answers against the reference, over `images` images, of which `anomalies` have a defect."""

    images: int
    anomalies: int
    score_max_error: float
    score_mean_error: float
    map_max_error: float
    map_mean_error: float
    relative_error: float
    image_auroc: float | None
    image_auroc_change: float | None

    def to_dict(self) -> dict[str, float | int | None]:
        """JSON-ready values."""
        return dataclasses.asdict(self)


def precision_of(engine_name: str) -> str:
    """The precision that a name like "openvino:int8" states; float32, the strictest, where it states none."""
    stated = engine_name.rpartition(":")[2]
    return stated if stated in TOLERANCES else STRICTEST


def form_faults(answers: Answers, count: int, side: int) -> list[str]:
    """What is wrong with the answers in themselves: shape, dtype, values that are not finite or not in 0..1."""
    faults = []
    for name, values, shape in (
        ("scores", answers.scores, (count,)),
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


def dependence_faults(answers: Answers) -> list[str]:
    """Which part of the answers is the same for all images."""
    parts = (("maps", answers.maps), ("scores", answers.scores))
    return [f"the {name} do not depend on the image" for name, values in parts if np.ptp(values, axis=0).max() <= 0]


def compare(answers: Answers, reference: Answers, labels: NDArray[np.integer]) -> Parity:
    """Errors of well-formed answers against the reference, and the image AUROC of both.

    Args:
        labels: (N,) 0 (good) or 1 (defect); with one class alone there is no AUROC (None).
    """
    score_errors = np.abs(answers.scores.astype(np.float64) - reference.scores)
    map_errors = np.abs(answers.maps.astype(np.float64) - reference.maps)
    auroc, change = None, None
    if 0 < labels.sum() < len(labels):
        auroc = image_metrics(answers.scores, labels).auroc
        change = auroc - image_metrics(reference.scores, labels).auroc
    return Parity(
        images=len(labels),
        anomalies=int(labels.sum()),
        score_max_error=float(score_errors.max()),
        score_mean_error=float(score_errors.mean()),
        map_max_error=float(map_errors.max()),
        map_mean_error=float(map_errors.mean()),
        relative_error=relative_error(answers.maps, reference.maps, reference.maps.mean(axis=0)),
        image_auroc=auroc,
        image_auroc_change=change,
    )


def parity_faults(parity: Parity, tolerance: Tolerance) -> list[str]:
    """Which errors are over the tolerance."""
    checks = (
        ("largest score error", parity.score_max_error, tolerance.score_max),
        ("largest map error", parity.map_max_error, tolerance.map_max),
        ("mean map error", parity.map_mean_error, tolerance.map_mean),
        ("relative map error", parity.relative_error, tolerance.relative),
        ("loss of image AUROC", -(parity.image_auroc_change or 0.0), tolerance.auroc_loss),
    )
    # Stated so that NaN fails.
    return [f"{name} {value:.3g} is over {limit:g}" for name, value, limit in checks if not value <= limit]


def relative_error(maps: NDArray, reference: NDArray, centre: NDArray) -> float:
    """|| maps - reference || / || reference - centre ||."""
    error = np.sqrt(np.mean((maps.astype(np.float64) - reference) ** 2))
    spread = np.sqrt(np.mean((reference.astype(np.float64) - centre) ** 2))
    return float(error / max(spread, SMALLEST_SPREAD))


def stale(
    answers: Answers, checked: Answers, centre: Answers, smallest_spread: float = SMALLEST_SPREAD
) -> tuple[NDArray[np.bool_], str]:
    """Which answers are not the engine's own checked answers to the same images? Each image is judged alone.

    Args:
        answers: well-formed answers to a batch.
        checked: the engine's answers to the same images when it was checked.
        centre: mean score and mean map of all its checked answers, shapes (1,) and (1, ...) like a map.
        smallest_spread: a map that lies closer to the mean map counts as that far from it.
    Returns:
        True for each image whose answer is another one, and a fault in words: "" if there is no such image.
    """
    errors = _distances(answers.maps, checked.maps) / np.maximum(_distances(checked.maps, centre.maps), smallest_spread)
    score_errors = np.abs(answers.scores - checked.scores)
    allowed = np.maximum(STALE_SCORE, STALE_ANSWER * np.abs(checked.scores - centre.scores))
    # Stated so that NaN fails.
    is_stale = ~((errors <= STALE_ANSWER) & (score_errors <= allowed))
    if not is_stale.any():
        return is_stale, ""
    worst = np.flatnonzero(is_stale)[0]
    return is_stale, (
        "an answer given while timed is not the checked answer to the same image "
        f"(relative map error {errors[worst]:.3g}, score error {score_errors[worst]:.3g})"
    )


def spread_of(maps: NDArray) -> float:
    """Root mean square distance of maps (N, ...) from their mean."""
    return float(np.sqrt(np.mean(_distances(maps, maps.mean(axis=0, keepdims=True)) ** 2)))


def _distances(maps: NDArray, others: NDArray) -> NDArray[np.float64]:
    """Root mean square difference of each map (N, ...) to the other one."""
    difference = (maps.astype(np.float64) - others).reshape(len(maps), -1)
    return np.sqrt(np.einsum("ij,ij->i", difference, difference) / difference.shape[1])
