"""What scores mean for one model: thresholds and probabilities, from the validation split."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine.base import Detections
from prn_fast.errors import ConfigError
from prn_fast.package import ValidationSet
from prn_fast.training.metrics import image_metrics, pixel_metrics

# One good image in a hundred may be called defective: a rate that a few dozen normal images can still speak about.
FALSE_ALARM_RATE = 0.01
# Share of the normal images whose scores describe the tail.
TAIL_SHARE = 0.25
QUANTILES = (0.5, 0.9, 0.95, 0.99)
# Scores this close to 0 and 1 have no finite logit in float32.
_SCORE_MARGIN = 1e-7


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


def calibrate(
    detections: Detections, validation: ValidationSet, false_alarm_rate: float = FALSE_ALARM_RATE
) -> dict[str, Any]:
    """Thresholds for images and pixels, and what a score means, from normals that training has not seen.

    Args:
        detections: of the validation images.
        validation: held-out normals and generated anomalies.
        false_alarm_rate: wanted share of good images at or above the threshold, above 0 and below 1.
    Returns:
        JSON-ready:
        "threshold": an image scoring at or above it is defective; see `threshold_for`.
        "false_alarm_rate": the wanted rate that it stands for.
        "normal_tail": level, share above it and mean excess of the normals' logit scores, for `threshold_for`.
        "normals": number of normal images behind these figures.
        "probability": slope and intercept for `defect_probability`.
        "f1_threshold", "pixel_threshold": where F1 of images, of pixels, is largest.
        "normal_score_quantiles": by probability.
    """
    normal = detections.scores[validation.labels == 0]
    pixels = detections.maps.reshape(-1)
    defective = validation.masks.reshape(-1)
    calibration: dict[str, Any] = {
        "false_alarm_rate": false_alarm_rate,
        "normal_tail": normal_tail(normal),
        "normals": len(normal),
        "probability": fit_probability(detections.scores, validation.labels),
        "f1_threshold": best_threshold(detections.scores, validation.labels.astype(bool)),
        "pixel_threshold": best_threshold(pixels, defective),
        "normal_score_quantiles": {str(q): float(np.quantile(normal, q)) for q in QUANTILES},
    }
    return {"threshold": threshold_for(calibration, false_alarm_rate), **calibration}


def logit(scores: NDArray[np.floating] | float) -> NDArray[np.float64]:
    """log(s / (1 - s)) of scores in 0..1, finite also for 0 and 1."""
    clipped = np.clip(np.asarray(scores, np.float64), _SCORE_MARGIN, 1 - _SCORE_MARGIN)
    return np.log(clipped) - np.log1p(-clipped)


def normal_tail(scores: NDArray[np.float32]) -> dict[str, float]:
    """The upper tail of normal images' scores: their excess over a high level, on the logit scale.

    Above the level u, the share of scores beyond z is p_u exp(-(z - u) / beta), beta the mean excess: peaks over a
    threshold with an exponential tail (Coles, "An Introduction to Statistical Modeling of Extreme Values", chapter 4).

    Returns:
        "level" u, "share" p_u, "mean_excess" beta.
    """
    ordered = np.sort(logit(scores))
    above = max(1, math.floor(len(ordered) * TAIL_SHARE))
    level = ordered[-above - 1] if above < len(ordered) else ordered[0]
    return {
        "level": float(level),
        "share": above / len(ordered),
        "mean_excess": float(np.mean(ordered[-above:] - level)),
    }


def require_rate(false_alarm_rate: float, most: float = TAIL_SHARE) -> None:
    """A ConfigError unless a wanted false-alarm rate is above 0 and at most the share that the tail describes."""
    if not 0 < false_alarm_rate <= most:
        raise ConfigError(
            f"a false-alarm rate must be above 0 and at most {most:.2g}, not {false_alarm_rate}; "
            "the calibration describes no higher one, and no plant would want it"
        )


def threshold_for(calibration: Mapping[str, Any], false_alarm_rate: float) -> float:
    """The image score at or above which a wanted share of good images is expected.

    Args:
        calibration: as `calibrate` returns it.
        false_alarm_rate: above 0, and at most the share of scores that the tail describes (a quarter).
    Raises:
        ConfigError: a rate outside this range.
    """
    tail = calibration["normal_tail"]
    require_rate(false_alarm_rate, tail["share"])
    level = tail["level"] + tail["mean_excess"] * math.log(tail["share"] / false_alarm_rate)
    return 1.0 / (1.0 + math.exp(-level))


def expected_false_alarm_rate(calibration: Mapping[str, Any], threshold: float) -> float:
    """Expected share of good images at or above a threshold: the inverse of `threshold_for`, at most its tail share."""
    tail = calibration["normal_tail"]
    excess = float(logit(threshold)) - tail["level"]
    if excess <= 0:
        return tail["share"]
    return tail["share"] * math.exp(-excess / tail["mean_excess"]) if tail["mean_excess"] > 0 else 0.0


def fit_probability(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    """Logistic regression of the label on the logit of the score (Platt, 1999), both classes weighing the same.

    Returns:
        "slope" a and "intercept" b of P(defect | score) = sigmoid(a logit(score) + b), at equal odds.
    """
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(class_weight="balanced").fit(logit(scores)[:, None], labels)
    return {"slope": float(fitted.coef_[0, 0]), "intercept": float(fitted.intercept_[0])}


def defect_probability(
    scores: NDArray[np.floating], calibration: Mapping[str, Any], defect_share: float = 0.5
) -> NDArray[np.float64]:
    """Probability that images are defective, given their scores.

    Args:
        scores: (N,), in 0..1.
        calibration: as `calibrate` returns it.
        defect_share: of defective images among those that the line will show, above 0 and below 1. The calibration
            knows generated anomalies only: real defects that score lower than these are more likely than it says.
    Returns:
        (N,) in 0..1.
    """
    if not 0 < defect_share < 1:
        raise ConfigError(f"the share of defective images must be above 0 and below 1, not {defect_share}")
    fitted = calibration["probability"]
    odds = fitted["slope"] * logit(scores) + fitted["intercept"] + float(logit(defect_share))
    return 1.0 / (1.0 + np.exp(-odds))


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
