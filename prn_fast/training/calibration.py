"""What scores mean for one model: thresholds, from the validation split."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine.base import Detections
from prn_fast.package import ValidationSet
from prn_fast.training.metrics import image_metrics, pixel_metrics

QUANTILES = (0.5, 0.9, 0.95, 0.99)


def validation_metrics(detections: Detections, validation: ValidationSet) -> dict[str, float]:
    """Image and pixel figures of detections on the validation split, JSON-ready."""
    image = image_metrics(detections.scores, validation.labels)
    pixel = pixel_metrics(detections.maps, validation.masks)
    return {
        "image_auroc": image.auroc,
        "image_average_precision": image.average_precision,
        "image_f1_max": image.f1_max,
        "pixel_auroc": pixel.auroc,
        "pixel_average_precision": pixel.average_precision,
        "pro": pixel.pro,
    }


def calibrate(detections: Detections, validation: ValidationSet) -> dict[str, Any]:
    """Thresholds for images and pixels.

    Each lies half-way between the smallest score that the largest F1 on the validation split needs and the next one
    below it. The quantiles of the normal images' scores help to choose another: one normal image in a hundred scores
    above the 0.99 quantile.

    Returns:
        JSON-ready: "threshold" (an image scoring at or above it is defective), "pixel_threshold" (the same for pixels
        of a map), "normal_score_quantiles", "method".
    """
    normal = detections.scores[validation.labels == 0]
    pixels = detections.maps.reshape(-1)
    defective = validation.masks.reshape(-1)
    return {
        "method": "largest F1 on the validation split",
        "threshold": best_threshold(detections.scores, validation.labels.astype(bool)),
        "pixel_threshold": best_threshold(pixels, defective),
        "normal_score_quantiles": {str(q): float(np.quantile(normal, q)) for q in QUANTILES},
    }


def best_threshold(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    """The middle of the gap below the lowest score that is called defective when F1 is largest."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(positive[order])
    f1 = 2.0 * hits / (np.arange(1, len(scores) + 1) + positive.sum())
    # Only a place where the score changes can be a threshold: equal scores are called alike.
    f1[:-1][ranked[:-1] == ranked[1:]] = 0.0
    last = int(np.argmax(f1))
    below = ranked[last + 1] if last + 1 < len(ranked) else 0.0
    return float((float(ranked[last]) + float(below)) / 2)
