"""Figures of a list of latencies: percentiles that the sample count supports, and bootstrap intervals.

Calls that follow each other share the machine's mood (clock, neighbours), so a single call is not an independent
sample. All intervals here resample whole rounds of the run, and both sides of a ratio with the same rounds.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# A percentile is given only where at least one sample is expected beyond it.
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}
MINIMUM_SAMPLES = {"p50": 1, "p90": 10, "p99": 100, "p999": 1000}

BOOTSTRAP_DRAWS = 2000
MINIMUM_ROUNDS = 5
CONFIDENCE = 0.95
_DRAWS_AT_ONCE = 200

Rounds = Sequence[Sequence[float]]


def percentiles(samples: Sequence[float]) -> dict[str, float | None]:
    """p50, p90, p99 and p99.9 (key "p999"), None where there are too few samples to tell."""
    return {
        name: float(np.percentile(samples, percent)) if len(samples) >= MINIMUM_SAMPLES[name] else None
        for name, percent in PERCENTILES.items()
    }


def interquartile_ratio(samples: Sequence[float]) -> float:
    """(p75 - p25) / p50: the relative spread of the middle half; 0 for a single sample."""
    low, middle, high = np.percentile(samples, [25, 50, 75])
    return float((high - low) / middle)


def drift_ratio(rounds: Rounds) -> float | None:
    """Median of the last third of the rounds over the median of the first third; None under six rounds."""
    third = len(rounds) // 3
    if third < 2:
        return None
    first, last = np.concatenate(rounds[:third]), np.concatenate(rounds[-third:])
    return float(np.median(last) / np.median(first))


def median_interval(rounds: Rounds, seed: int = 0) -> tuple[float, float] | None:
    """95 % bootstrap interval of the median over all samples; None under five rounds."""
    if len(rounds) < MINIMUM_ROUNDS:
        return None
    return _interval(_resampled_medians(rounds, _draws(len(rounds), seed)))


def ratio_interval(numerator: Rounds, denominator: Rounds, seed: int = 0) -> tuple[float, float] | None:
    """95 % bootstrap interval of median(numerator) / median(denominator); None under five common rounds.

    Round i of both was measured at the same time, so a draw takes the same rounds of both.
    """
    common = min(len(numerator), len(denominator))
    if common < MINIMUM_ROUNDS:
        return None
    draws = _draws(common, seed)
    return _interval(_resampled_medians(numerator[:common], draws) / _resampled_medians(denominator[:common], draws))


def unpaired_ratio_interval(numerator: Rounds, denominator: Rounds, seed: int = 0) -> tuple[float, float] | None:
    """95 % bootstrap interval of median(numerator) / median(denominator) of two runs; None under five rounds."""
    if min(len(numerator), len(denominator)) < MINIMUM_ROUNDS:
        return None
    above = _resampled_medians(numerator, _draws(len(numerator), seed))
    below = _resampled_medians(denominator, _draws(len(denominator), seed + 1))
    return _interval(above / below)


def median(rounds: Rounds) -> float:
    """Median of all samples."""
    return float(np.median(np.concatenate([np.asarray(r, dtype=np.float64) for r in rounds])))


def _draws(rounds: int, seed: int) -> NDArray[np.int64]:
    """How often each draw takes each round: (BOOTSTRAP_DRAWS, rounds), every row sums to `rounds`."""
    return np.random.default_rng(seed).multinomial(rounds, [1 / rounds] * rounds, size=BOOTSTRAP_DRAWS)


def _resampled_medians(rounds: Rounds, draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """The median of each draw: the smallest sample with at least half of the drawn samples at or below it."""
    samples = np.concatenate([np.asarray(r, dtype=np.float64) for r in rounds])
    round_of = np.repeat(np.arange(len(rounds)), [len(r) for r in rounds])
    order = np.argsort(samples, kind="stable")
    samples, round_of = samples[order], round_of[order]
    medians = []
    for start in range(0, len(draws), _DRAWS_AT_ONCE):
        below = np.cumsum(draws[start : start + _DRAWS_AT_ONCE][:, round_of], axis=1)
        medians.append(samples[np.argmax(2 * below >= below[:, -1:], axis=1)])
    return np.concatenate(medians)


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
