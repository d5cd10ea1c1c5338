"""What scores mean for one model: thresholds, from good images that training has not seen.

`calibration_entry` makes what a manifest keeps of a calibration, whoever calibrates: training, `prn-calibrate` or
`prn-update`.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine.base import Detections, is_defective
from prn_fast.engine.early_exit import logit
from prn_fast.engine.parity import STRICTEST
from prn_fast.errors import PackageError
from prn_fast.package import Package, ValidationSet, now
from prn_fast.training.conformal import (
    MAX_FALSE_ALARM_RATE,
    SHOWN_RATES,
    allowed_above,
    default_rate,
    just_above,
    lowest_rate,
    promise_at,
    require_rate,
    share_interval,
)
from prn_fast.training.metrics import image_metrics, pixel_metrics
from prn_fast.training.reference import reference_statistics

# Share of the normal images whose scores describe the tail.
TAIL_SHARE = MAX_FALSE_ALARM_RATE
QUANTILES = (0.5, 0.9, 0.95, 0.99)


def validation_metrics(detections: Detections, validation: ValidationSet) -> dict[str, float]:
    """Image and pixel figures of detections on the validation split, JSON-ready."""
    image = image_metrics(detections.raw_scores, validation.labels)
    pixel = pixel_metrics(detections.maps, validation.masks)
    return {
        "image_auroc": image.auroc,
        "image_average_precision": image.average_precision,
        "image_f1_max": image.f1_max,
        "pixel_auroc": pixel.auroc,
        "pixel_average_precision": pixel.average_precision,
        "pro": pixel.pro,
    }


@dataclass(frozen=True, eq=False)
class Scored:
    """Images that a calibration rests on.

    Attributes:
        images: (N, S, S, C) uint8, as the network sees them.
        raw_scores: (N,).
        kind: of the scores, see `score_kind`.
    """

    images: NDArray[np.uint8]
    raw_scores: NDArray[np.float32]
    kind: str = STRICTEST


@dataclass(frozen=True)
class RateMetrics:
    """What a false-alarm rate brings.

    Attributes:
        false_alarm_rate: the rate.
        threshold: raw score at or above which an image is defective.
        supported: whether the good images are enough to promise the rate; else the threshold is extrapolated.
        detected: of `defects` images.
        low, high: 95 % interval of the share detected.
    """

    false_alarm_rate: float
    threshold: float
    supported: bool
    detected: int
    defects: int
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def calibrate(
    detections: Detections, validation: ValidationSet, false_alarm_rate: float | None = None
) -> dict[str, Any]:
    """Thresholds for images and pixels, from a package's validation split.

    Args:
        detections: of the validation images.
        validation: held-out normals and generated anomalies.
        false_alarm_rate: see `calibration_entry`.
    Returns:
        as `calibration_entry`, and JSON-ready too:
        "f1_threshold", "pixel_threshold": where F1 of images, of pixels, is largest.
    """
    normal = validation.labels == 0
    return {
        **calibration_entry(
            Scored(validation.images[normal], detections.raw_scores[normal]),
            detections.raw_scores[~normal],
            false_alarm_rate,
            source="training",
            defects="generated",
        ),
        "f1_threshold": best_threshold(detections.raw_scores, validation.labels.astype(bool)),
        "pixel_threshold": best_threshold(detections.maps.reshape(-1), validation.masks.reshape(-1)),
    }


def calibration_entry(
    normals: Scored,
    defect_scores: NDArray[np.floating],
    false_alarm_rate: float | None,
    *,
    source: str,
    defects: Literal["generated", "real"],
) -> dict[str, Any]:
    """The manifest's entry of a calibration; nothing else makes one.

    Args:
        normals: good images that training has not seen.
        defect_scores: raw scores of defective images; may be empty.
        false_alarm_rate: target share of good images at or above the threshold, above 0 and at most a quarter; None
            takes `default_rate`. If there are too few normals to promise it, the threshold is extrapolated.
        source: where the normals come from: "training", or a folder.
        defects: whether the defective images are real ones.
    Returns:
        JSON-ready:
        "threshold": an image whose raw score reaches it is defective; see `threshold_for`.
        "false_alarm_rate": the target rate that it was set for.
        "promised_rate": the rate that the threshold is sure to keep, see `conformal`; null where it is extrapolated.
        "rate_bound": upper 95 % bound of the rate, since another draw of normals would have given another threshold.
        "normals": number of normal images behind these figures.
        "lowest_rate": the lowest that this number can promise.
        "highest_scores": of the normals, the highest first, as many as any rate asks for.
        "normal_tail": level, share above it and mean excess of the normals' logit scores, for `threshold_for`.
        "normal_score_quantiles": by probability.
        "reference": what the normal images are like, see `reference_statistics`.
        "detection": `RateMetrics` at several rates.
        "defects": "generated" or "real".
        "source", "date": where the normals come from, and when.
    """
    scores = normals.raw_scores
    rate = default_rate(len(scores)) if false_alarm_rate is None else false_alarm_rate
    require_rate(rate)
    kept = max(1, math.ceil((len(scores) + 1) * MAX_FALSE_ALARM_RATE))
    promised, bound = promise_at(len(scores), rate) or (None, None)
    calibration: dict[str, Any] = {
        "false_alarm_rate": rate,
        "promised_rate": promised,
        "rate_bound": bound,
        "normals": len(scores),
        "lowest_rate": lowest_rate(len(scores)),
        "highest_scores": [float(score) for score in np.sort(scores)[::-1][:kept]],
        "normal_tail": normal_tail(scores),
        "normal_score_quantiles": {str(q): float(np.quantile(scores, q)) for q in QUANTILES},
        "reference": reference_statistics(scores, normals.images, normals.kind),
        "defects": defects,
        "source": source,
        "date": now(),
    }
    calibration["threshold"] = threshold_for(calibration, rate)
    rates = sorted({*SHOWN_RATES, rate})
    calibration["detection"] = [one.to_dict() for one in metrics_at_rates(calibration, defect_scores, rates)]
    return calibration


def metrics_at_rates(
    calibration: Mapping[str, Any], defect_scores: NDArray[np.floating], rates: tuple[float, ...] | list[float]
) -> tuple[RateMetrics, ...]:
    """Detection at several false-alarm rates, to show the trade-off before one is chosen.

    Args:
        calibration: as `calibration_entry` returns it.
        defect_scores: (M,) raw scores of defective images; without any, there are no rows.
        rates: each above 0 and at most a quarter.
    """
    if not len(defect_scores):
        return ()
    rows = []
    for rate in rates:
        threshold = threshold_for(calibration, rate)
        detected = int(is_defective(defect_scores, threshold).sum())
        interval = share_interval(detected, len(defect_scores))
        supported = allowed_above(calibration["normals"], rate) > 0
        rows.append(RateMetrics(rate, threshold, supported, detected, len(defect_scores), *interval))
    return tuple(rows)


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


def threshold_for(calibration: Mapping[str, Any], false_alarm_rate: float) -> float:
    """The raw score at or above which at most a target share of good images is expected.

    Where the normals support the rate, it is the conformal threshold. For a lower rate it is extrapolated along the
    tail, and at least the lowest threshold that no normal reaches. Calibrations of earlier versions have the tail only.

    Args:
        calibration: as `calibration_entry` returns it.
        false_alarm_rate: above 0, and at most a quarter.
    Raises:
        ConfigError: a rate outside this range.
    """
    require_rate(false_alarm_rate)
    highest = calibration.get("highest_scores")
    if highest is not None and (place := allowed_above(calibration["normals"], false_alarm_rate)):
        return just_above(highest[place - 1])
    tail = calibration["normal_tail"]
    level = tail["level"] + tail["mean_excess"] * math.log(max(tail["share"] / false_alarm_rate, 1.0))
    extrapolated = 1.0 / (1.0 + math.exp(-level))
    return extrapolated if highest is None else max(extrapolated, just_above(highest[0]))


def judged_pieces(calibration: Mapping[str, Any], tiles: float) -> float:
    """How many scores decide about one image: those of its tiles, or one if the calibration scored whole images."""
    return 1.0 if calibration.get("per_image") else tiles


def image_threshold(package: Package, false_alarm_rate: float | None = None, tiles: float = 1.0) -> float:
    """The raw score at or above which a package calls an image defective.

    Args:
        package: with its calibration.
        false_alarm_rate: wanted share of good images called defective; None takes the package's.
        tiles: of an image, on average: an image is defective where one of its tiles is.
    Raises:
        PackageError: the calibration lacks what it takes. ConfigError: a rate that `threshold_for` refuses.
    """
    calibration = package.manifest["calibration"]
    pieces = judged_pieces(calibration, tiles)
    if false_alarm_rate is None and pieces == 1.0:
        return package.calibration("threshold")
    if "normal_tail" not in calibration:
        raise PackageError(f"{package.path}: its calibration has no normal_tail; train the package again")
    wanted = calibration["false_alarm_rate"] if false_alarm_rate is None else false_alarm_rate
    return threshold_for(calibration, wanted / pieces)


def tile_overlap(package: Package) -> int | None:
    """The overlap of the tiles that a package was trained on, pixels; None where images were resized."""
    tiles = package.manifest["training"].get("tiles")
    return None if tiles is None else int(tiles["overlap"])


def expected_false_alarm_rate(calibration: Mapping[str, Any], threshold: float) -> float:
    """Largest expected share of good images at or above a threshold, as far as the normals show; at most a quarter.

    Args:
        calibration: as `calibration_entry` returns it, or one of an earlier version, which has the tail only.
        threshold: of raw scores.
    """
    tail, highest = calibration["normal_tail"], calibration.get("highest_scores")
    if highest is not None and (above := int(is_defective(np.array(highest), threshold).sum())):
        return min((above + 1) / (calibration["normals"] + 1), MAX_FALSE_ALARM_RATE)
    excess = float(logit(threshold)) - tail["level"]
    if excess <= 0:
        rate = tail["share"]
    else:
        rate = tail["share"] * math.exp(-excess / tail["mean_excess"]) if tail["mean_excess"] > 0 else 0.0
    return rate if highest is None else min(rate, lowest_rate(calibration["normals"]))


def best_threshold(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    """The middle of the gap below the lowest score that is called defective when F1 is largest."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(positive[order])
    f1 = 2.0 * hits / (np.arange(1, len(scores) + 1) + positive.sum())
    # A threshold can lie only where the score changes: equal scores get equal verdicts.
    f1[:-1][ranked[:-1] == ranked[1:]] = 0.0
    last = int(np.argmax(f1))
    below = ranked[last + 1] if last + 1 < len(ranked) else 0.0
    return float((float(ranked[last]) + float(below)) / 2)
