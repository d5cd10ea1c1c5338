"""Split conformal thresholds: what n good images can promise about the next one, whatever their scores look like.

A new good image is equally likely to take any place among n others of its kind. So it lies above the k-th highest of
them with a probability of k / (n + 1) at most: just above that score lies the threshold (Vovk, Gammerman, Shafer,
"Algorithmic Learning in a Random World"; Lei et al., "Distribution-Free Predictive Inference for Regression", 2018).
The images must come from the line as it runs, and must not have been used to train or to choose anything.
"""

import math

import numpy as np
from numpy.typing import NDArray

from prn_fast.errors import ConfigError

# Of good images that are called defective, where nobody says otherwise and the good images support it.
FALSE_ALARM_RATE = 0.02
# Unless somebody asks for less, the threshold lies above the second highest score of the good images, or a lower one.
# The highest of n is the only one that a single odd image (a wrong label, dust on the lens) moves without limit. It
# also spreads most from draw to draw: where the tail falls off exponentially, with a mean excess of b, the k-th highest
# has a standard deviation of b sqrt(1/k^2 + ... + 1/n^2) (Renyi, "On the theory of order statistics", 1953), and an
# error of b is a factor e in the rate. For k = 1, 2, 3 that is a factor of 3.6, 2.2, 1.9, and `rate_bound` is 3.0, 2.4,
# 2.1 times the promise: most is gained by the first step, and each one adds 1 / (n + 1) to what is promised.
USUAL_PLACE = 2
# No plant would want more, and the calibration describes no higher rate.
MAX_FALSE_ALARM_RATE = 0.25
# Side by side in tables.
SHOWN_RATES = (0.001, 0.01, 0.02, 0.05)
# An outcome less likely than this is not put down to luck.
UNLIKELY = 0.025
# Quantiles that stand for a distribution.
_LEVELS = 4000
# Users give rates as decimals: rounding must not push (n + 1) R below a whole number.
_ROUNDING = 1e-9


def lowest_rate(normals: int) -> float:
    """The lowest false-alarm rate that a number of good images can promise: 1 / (n + 1)."""
    return 1.0 / (normals + 1)


def needed_normals(false_alarm_rate: float) -> int:
    """How many good images it takes to promise a rate: 19 for 0.05, 99 for 0.01."""
    return math.ceil(1.0 / false_alarm_rate - _ROUNDING) - 1


def default_rate(normals: int) -> float:
    """The rate to promise by default: `FALSE_ALARM_RATE`, or a higher one that n good images support.

    The higher one is twice the lowest possible (`USUAL_PLACE`): at the lowest, one odd image alone would set the
    threshold.
    """
    return min(max(FALSE_ALARM_RATE, USUAL_PLACE * lowest_rate(normals)), MAX_FALSE_ALARM_RATE)


def require_rate(false_alarm_rate: float) -> None:
    """A ConfigError unless a false-alarm rate is above 0 and at most `MAX_FALSE_ALARM_RATE`."""
    if not 0 < false_alarm_rate <= MAX_FALSE_ALARM_RATE:
        raise ConfigError(
            f"--false-alarm-rate must be above 0 and at most {MAX_FALSE_ALARM_RATE:.2g}, not {false_alarm_rate}: the "
            "calibration only covers the highest scores of normal images"
        )


def allowed_above(normals: int, false_alarm_rate: float) -> int:
    """k, the place of the good image just above which the threshold lies, from the top; 0 where the rate is too low."""
    return math.floor((normals + 1) * false_alarm_rate + _ROUNDING)


def rate_bound(normals: int, place: int) -> float:
    """Upper 95 % bound of the false-alarm rate just above the k-th highest of n good images.

    The promise k / (n + 1) is the mean over all draws of n images. Over these draws, the rate spreads as a beta
    distribution does: with few images, a single draw may be far off.
    """
    from scipy.stats import beta

    return float(beta.ppf(0.95, place, normals + 1 - place))


def promise_at(normals: int, false_alarm_rate: float) -> tuple[float, float] | None:
    """What n good images promise of the threshold for a rate: the rate to expect, and its upper 95 % bound.

    None where they are too few for any promise, so that the threshold is extrapolated.
    """
    place = allowed_above(normals, false_alarm_rate)
    return (place / (normals + 1), rate_bound(normals, place)) if place else None


def chance_of_alarms(false_alarms: int, good: int, normals: int, place: int, pieces: float = 1.0) -> float:
    """How likely so many false alarms, or more, are among new good images, if these are like those of the calibration.

        chance = mean over q of P(Binomial(m, min(1, t q)) >= f),  q ~ Beta(k, n + 1 - k)

    Args:
        false_alarms, good: f of m new images.
        normals, place: n good images, and k, the place of the one just above which the threshold lies, from the top.
        pieces: t, how many tiles of an image are judged, each of which may call it defective.
    """
    from scipy.stats import beta, binom

    levels = (np.arange(_LEVELS) + 0.5) / _LEVELS
    rates = np.minimum(1.0, pieces * beta.ppf(levels, place, normals + 1 - place))
    return float(np.mean(binom.sf(false_alarms - 1, good, rates)))


def just_above(score: float) -> float:
    """The next float32 above a raw score: the lowest threshold that does not reach it. At most 1."""
    return min(1.0, float(np.nextafter(np.float32(score), np.float32(np.inf))))


def conformal_threshold(scores: NDArray[np.floating], false_alarm_rate: float) -> float:
    """The raw score at or above which a new good image lies with at most the given probability.

    Args:
        scores: (n,) raw scores of good images.
        false_alarm_rate: R.
    Raises:
        ConfigError: R is not above 0, or below 1 / (n + 1); says how many images it takes.
    """
    require_rate(false_alarm_rate)
    place = allowed_above(len(scores), false_alarm_rate)
    if place < 1:
        raise ConfigError(too_few(len(scores), false_alarm_rate))
    return just_above(float(np.sort(scores)[-place]))


def too_few(normals: int, false_alarm_rate: float, pieces: str = "good images") -> str:
    """Says that these good images are too few for a rate, how many it takes, and which rate they support."""
    return (
        f"{normals} {pieces} can promise no false-alarm rate below {lowest_rate(normals):.2g}; "
        f"{false_alarm_rate:.2g} takes {needed_normals(false_alarm_rate):,} {pieces}, "
        f"or a --false-alarm-rate of {lowest_rate(normals):.2g} or more"
    )


def share_interval(count: int, total: int) -> tuple[float, float]:
    """Exact (Clopper-Pearson) 95 % interval of a share, of which `count` of `total` were seen."""
    from scipy.stats import beta

    low = 0.0 if count == 0 else float(beta.ppf(0.025, count, total - count + 1))
    high = 1.0 if count == total else float(beta.ppf(0.975, count + 1, total - count))
    return low, high
