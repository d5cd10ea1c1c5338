"""Percentiles and intervals."""

import numpy as np
import pytest

from prn_fast.bench.stats import drift_ratio, interquartile_ratio, median_interval, percentiles, ratio_interval


@pytest.mark.parametrize(
    ("count", "given"),
    [
        (1, {"p50"}),
        (9, {"p50"}),
        (10, {"p50", "p90"}),
        (100, {"p50", "p90", "p99"}),
        (1000, {"p50", "p90", "p99", "p999"}),
    ],
)
def test_a_percentile_needs_samples_beyond_it(count: int, given: set[str]) -> None:
    values = percentiles(list(range(count)))
    assert {name for name, value in values.items() if value is not None} == given


def test_percentiles_are_those_of_numpy() -> None:
    samples = np.random.default_rng(0).exponential(size=2000)
    assert percentiles(samples)["p99"] == np.percentile(samples, 99)


def test_spread_and_drift() -> None:
    assert interquartile_ratio([10.0]) == 0.0
    assert interquartile_ratio([9.0, 10.0, 11.0]) == pytest.approx(0.1)
    assert drift_ratio([[10.0]] * 3 + [[15.0]] * 3) == pytest.approx(1.5)
    assert drift_ratio([[10.0]] * 5) is None


def test_few_rounds_give_no_interval() -> None:
    assert median_interval([[1.0, 2.0, 3.0]] * 4) is None
    assert ratio_interval([[1.0]] * 9, [[1.0]] * 4) is None


def test_the_interval_of_the_median_holds_the_true_median_at_its_rate() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(60):
        rounds = rng.lognormal(mean=np.log(5.0), sigma=0.2, size=(30, 4))
        low, high = median_interval(rounds, seed=seed)
        hits += low <= 5.0 <= high
    # 57 of 60 expected; under 51 has a probability below one in a thousand.
    assert hits >= 51


def test_drift_that_both_sides_share_leaves_the_ratio_alone() -> None:
    drift = np.linspace(1.0, 2.0, 40)
    base = [[20.0 * d] * 3 for d in drift]
    fast = [[5.0 * d] * 7 for d in drift]
    low, high = ratio_interval(base, fast)
    assert low == pytest.approx(4.0, rel=0.02)
    assert high == pytest.approx(4.0, rel=0.02)


def test_the_interval_of_unequal_rounds_matches_plain_resampling() -> None:
    rng = np.random.default_rng(2)
    rounds = [list(rng.normal(10, 1, size=size)) for size in (3, 1, 8, 2, 5, 4)]
    draws = rng.integers(0, len(rounds), size=(4000, len(rounds)))
    medians = [np.percentile(np.concatenate([rounds[i] for i in draw]), 50, method="inverted_cdf") for draw in draws]
    assert median_interval(rounds) == pytest.approx(np.percentile(medians, [2.5, 97.5]), abs=0.15)
