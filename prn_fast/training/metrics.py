"""Figures of detection (images) and localisation (pixels), exact: no figure is binned.

Curves come from scikit-learn. Only the per-region overlap (PRO) is computed here, since no light library has it.
"""

import dataclasses
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from prn_fast.errors import DataError, EngineError
from prn_fast.extras import require_extra

PRO_LIMIT = 0.3


@dataclass(frozen=True)
class ImageMetrics:
    """Detection figures over images, each in 0..1, higher is better.

    Attributes:
        auroc: area under the ROC curve (0.5 is chance).
        average_precision: sum of precision times the step in recall over all thresholds.
        f1_max: largest F1 over all thresholds.
        f1_threshold: the largest score threshold (score >= threshold is a defect) that reaches `f1_max`.
    """

    auroc: float
    average_precision: float
    f1_max: float
    f1_threshold: float

    def to_dict(self) -> dict[str, float]:
        """JSON-ready values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class PixelMetrics:
    """Localisation figures over pixels, each in 0..1, higher is better.

    Attributes:
        auroc: area under the ROC curve (0.5 is chance).
        average_precision: sum of precision times the step in recall over all thresholds.
        pro: per-region overlap up to 30 % false positives (0.15 is chance); see `pixel_metrics`.
        regions: number of connected defect regions.
    """

    auroc: float
    average_precision: float
    pro: float
    regions: int

    def to_dict(self) -> dict[str, float]:
        """JSON-ready values."""
        return dataclasses.asdict(self)


def image_metrics(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> ImageMetrics:
    """AUROC, average precision and F1-max of image scores.

    Args:
        scores: (N,), finite, higher means more anomalous.
        labels: (N,), 0 (good) or 1 (defect); both must occur.
    Errors: EngineError for scores that are not finite; DataError for empty input, shapes that differ, other labels
    or one class only.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise DataError(f"image scores {scores.shape} and labels {labels.shape} must be two lists of one length")
    if not np.isin(labels, (0, 1)).all():
        raise DataError(f"image labels must be 0 (good) or 1 (defect), not {np.unique(labels).tolist()}")
    _require_both(defects=int(labels.sum()), total=labels.size, unit="images")
    _require_finite(scores, "image scores")

    require_extra("eval", "sklearn")
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

    precision, recall, thresholds = precision_recall_curve(labels, scores)
    # The curve's last point (precision 1, recall 0) belongs to no threshold.
    precision, recall = precision[:-1], recall[:-1]
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    best = int(np.flatnonzero(f1 == f1.max())[-1])
    return ImageMetrics(
        auroc=_at_most_one(roc_auc_score(labels, scores)),
        average_precision=_at_most_one(average_precision_score(labels, scores)),
        f1_max=_at_most_one(f1[best]),
        f1_threshold=float(thresholds[best]),
    )


def pixel_metrics(maps: NDArray[np.floating], masks: NDArray[np.bool_], pro_limit: float = PRO_LIMIT) -> PixelMetrics:
    """AUROC, average precision and PRO of anomaly maps.

        FPR(t) = share of defect-free pixels, of all images, with value >= t
        PRO(t) = mean over defect regions of the share of the region's pixels with value >= t
        pro    = area under PRO over FPR from 0 to `pro_limit`, divided by `pro_limit`

    A region is an 8-connected component of one mask. The curve is linear between thresholds that occur, also at the
    cut. Source: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section on evaluation metrics.

    Args:
        maps: (N, H, W), finite, higher means more anomalous.
        masks: (N, H, W) bool, True on defects; both values must occur.
        pro_limit: false-positive rate up to which PRO is integrated, above 0, at most 1.
    Errors: EngineError for maps that are not finite; DataError for empty input, shapes that differ, masks that are
    not bool, or one class only.
    """
    maps, masks = np.asarray(maps), np.asarray(masks)
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise DataError(f"anomaly maps {maps.shape} and masks {masks.shape} must both be (N, H, W), and equal")
    if masks.dtype != np.bool_:
        raise DataError(f"masks must be bool, not {masks.dtype}")
    if not 0 < pro_limit <= 1:
        raise DataError(f"the false-positive limit of PRO must be above 0 and at most 1, not {pro_limit}")
    _require_both(defects=int(masks.sum()), total=masks.size, unit="pixels")
    _require_finite(maps, "anomaly maps")

    require_extra("eval", "sklearn")
    from sklearn.metrics import average_precision_score, roc_auc_score

    # Only the order of values matters, and only where defect pixels lie in it: all defect-free pixels between two
    # neighbouring values of defect pixels move a curve along one straight line. So millions of them become one point
    # with a weight, and every figure stays exact.
    positives, weights, regions = _regions(maps, masks)
    values, inverse, counts = np.unique(positives, return_inverse=True, return_counts=True)
    negatives = np.sort(maps[~masks])
    below = np.searchsorted(negatives, values, side="left")
    up_to = np.searchsorted(negatives, values, side="right")

    # Rank 2i + 1 is the i-th value of a defect pixel, rank 2i the gap below it.
    ranks = 2 * len(values) + 1
    negatives_at = np.diff(np.stack([below, up_to], axis=1).ravel(), prepend=0, append=len(negatives))
    positives_at = np.zeros(ranks)
    positives_at[1::2] = counts
    overlap_at = np.zeros(ranks)
    overlap_at[1::2] = np.bincount(inverse, weights=weights) / regions

    labels = np.repeat([1, 0], ranks)
    order = np.tile(np.arange(ranks), 2)
    weight = np.concatenate([positives_at, negatives_at])
    return PixelMetrics(
        auroc=_at_most_one(roc_auc_score(labels, order, sample_weight=weight)),
        average_precision=_at_most_one(average_precision_score(labels, order, sample_weight=weight)),
        pro=_area_up_to(
            np.concatenate([[0.0], np.cumsum(negatives_at[::-1]) / len(negatives)]),
            np.concatenate([[0.0], np.minimum(np.cumsum(overlap_at[::-1]), 1.0)]),
            pro_limit,
        ),
        regions=regions,
    )


def _regions(maps: NDArray, masks: NDArray[np.bool_]) -> tuple[NDArray, NDArray[np.float64], int]:
    """Values of all defect pixels, one over the area of the region each belongs to, and the number of regions."""
    values, weights, regions = [], [], 0
    for index in np.flatnonzero(masks.any(axis=(1, 2))):
        mask = masks[index]
        count, components, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        areas = stats[:, cv2.CC_STAT_AREA]
        values.append(maps[index][mask])
        weights.append(1.0 / areas[components[mask]])
        regions += count - 1  # component 0 is the background
    return np.concatenate(values), np.concatenate(weights), regions


def _area_up_to(x: NDArray[np.float64], y: NDArray[np.float64], limit: float) -> float:
    """Area under the line through (x, y), x rising from 0 to 1, from 0 to `limit`, divided by `limit`."""
    cut = int(np.searchsorted(x, limit, side="left"))
    share = (limit - x[cut - 1]) / (x[cut] - x[cut - 1])
    x_to = np.append(x[:cut], limit)
    y_to = np.append(y[:cut], y[cut - 1] + share * (y[cut] - y[cut - 1]))
    return _at_most_one(np.trapezoid(y_to, x_to) / limit)


def _at_most_one(figure: float | np.floating) -> float:
    """A figure whose sum may be rounded to just above 1."""
    return min(float(figure), 1.0)


def _require_finite(values: NDArray, what: str) -> None:
    wrong = values.size - int(np.count_nonzero(np.isfinite(values)))
    if wrong:
        raise EngineError(
            f"{wrong} of {values.size} values in the {what} are NaN or infinite, so nothing can be said about them; "
            "check the model's weights and the engine (prn-build-engine verifies it)"
        )


def _require_both(defects: int, total: int, unit: str) -> None:
    if not total:
        raise DataError(f"no {unit} to score: the metrics need good and defect {unit}")
    if defects in (0, total):
        found = "defect" if defects else "good"
        raise DataError(f"all {total} {unit} are {found}: the metrics need good and defect {unit}")
