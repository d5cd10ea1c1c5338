import numpy as np
import pytest
from scipy.stats import betabinom, binomtest

from prn_fast.errors import ConfigError
from prn_fast.training.conformal import (
    allowed_above,
    chance_of_alarms,
    conformal_threshold,
    default_rate,
    lowest_rate,
    needed_normals,
    rate_bound,
    share_interval,
)


@pytest.mark.parametrize("normals", [1, 4, 99])
def test_no_lower_rate_can_be_promised_than_that_of_a_new_image_above_all(normals):
    rng = np.random.default_rng(normals)
    scores = rng.random((100_000, normals + 1))
    above_all = np.mean(scores[:, 0] > scores[:, 1:].max(axis=1))
    assert above_all == pytest.approx(lowest_rate(normals), abs=0.005)


@pytest.mark.parametrize(("rate", "needed"), [(0.05, 19), (0.01, 99), (0.02, 49), (0.001, 999), (0.1, 9), (0.25, 3)])
def test_as_many_images_as_needed_are_enough_and_one_less_is_not(rate, needed):
    assert needed_normals(rate) == needed
    scores = np.random.default_rng(0).random(needed).astype(np.float32)
    assert conformal_threshold(scores, rate) > scores.max()
    with pytest.raises(ConfigError, match=f"takes {needed:,} good images, or a --false-alarm-rate of"):
        conformal_threshold(scores[1:], rate)


@pytest.mark.parametrize(("normals", "rate"), [(19, 0.05), (100, 0.02), (100, 0.1), (76, 0.02)])
@pytest.mark.parametrize("shape", ["normal", "heavy", "ties"])
def test_the_promised_rate_is_kept_on_new_images_whatever_the_scores_look_like(normals, rate, shape):
    rng = np.random.default_rng(normals)
    raw = {
        "normal": lambda: 1 / (1 + np.exp(-rng.normal(size=(4000, normals + 1)))),
        "heavy": lambda: 1 / (1 + rng.pareto(0.5, (4000, normals + 1))),
        "ties": lambda: np.round(rng.random((4000, normals + 1)), 1) * 0.9,
    }[shape]().astype(np.float32)
    alarms = sum(one[0] >= conformal_threshold(one[1:], rate) for one in raw)
    promised = allowed_above(normals, rate) / (normals + 1)
    assert alarms / len(raw) <= promised + 3 * np.sqrt(promised / len(raw))
    if shape != "ties":
        assert alarms / len(raw) >= promised - 3 * np.sqrt(promised / len(raw))


def test_the_usual_rate_is_two_percent_or_what_few_images_support():
    assert default_rate(99) == default_rate(500) == 0.02
    assert default_rate(20) == 2 / 21
    assert default_rate(0) == 0.25


@pytest.mark.parametrize("normals", [20, 76, 98])
def test_one_wrong_image_among_few_does_not_set_the_usual_threshold(normals):
    scores = np.random.default_rng(normals).uniform(0.1, 0.4, normals).astype(np.float32)
    usual = conformal_threshold(scores, default_rate(normals))
    lowest = conformal_threshold(scores, lowest_rate(normals))
    scores[scores.argmin()] = 0.99
    assert conformal_threshold(scores, default_rate(normals)) <= lowest
    assert conformal_threshold(scores, lowest_rate(normals)) > 0.98
    assert usual < lowest


@pytest.mark.parametrize(("place", "spread", "bound"), [(1, 1.28, 3.0), (2, 0.80, 2.4), (3, 0.63, 2.1)])
def test_the_second_highest_gains_most_over_the_highest(place, spread, bound):
    """The figures beside `USUAL_PLACE`."""
    scores = np.sort(np.random.default_rng(0).exponential(size=(10_000, 100)), axis=1)
    assert scores[:, -place].std() == pytest.approx(spread, rel=0.05)
    assert rate_bound(100, place) / (place / 101) == pytest.approx(bound, rel=0.03)


@pytest.mark.parametrize(("normals", "place"), [(20, 2), (100, 2), (99, 1)])
def test_nineteen_of_twenty_calibrations_keep_their_rate_below_the_bound(normals, place):
    rng = np.random.default_rng(place)
    # Of uniform scores, what lies above a threshold is a share of one less the threshold.
    rates = 1 - np.sort(rng.random((20_000, normals)), axis=1)[:, -place]
    assert np.mean(rates <= rate_bound(normals, place)) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(
    ("normals", "place", "good", "alarms", "pieces"), [(20, 2, 18, 5, 1), (99, 2, 70, 3, 1), (40, 1, 30, 6, 3)]
)
def test_the_chance_of_false_alarms_is_how_often_they_happen(normals, place, good, alarms, pieces):
    rng = np.random.default_rng(normals)
    thresholds = np.sort(rng.random((20_000, normals)), axis=1)[:, -place]
    # An image is called defective where one of its pieces lies above the threshold, each of them in another image.
    above = rng.random((20_000, good, pieces)) > thresholds[:, None, None]
    counts = above.any(2).sum(1)
    chance = chance_of_alarms(alarms, good, normals, place, pieces)
    if pieces == 1:
        assert chance == pytest.approx(betabinom.sf(alarms - 1, good, place, normals + 1 - place), abs=1e-4)
        assert np.mean(counts >= alarms) == pytest.approx(chance, abs=0.01)
    else:
        # Of pieces that are above together, no more images are called defective.
        assert np.mean(counts >= alarms) <= chance + 0.01


def test_no_false_alarm_is_always_possible():
    assert chance_of_alarms(0, 10, 20, 2) == 1.0


@pytest.mark.parametrize("rate", [0.0, -0.1, 0.5, float("nan")])
def test_an_impossible_rate_is_refused(rate):
    with pytest.raises(ConfigError, match="--false-alarm-rate must be above 0"):
        conformal_threshold(np.linspace(0.1, 0.2, 40), rate)


@pytest.mark.parametrize(("count", "total"), [(0, 7), (7, 7), (3, 50), (1, 1)])
def test_intervals_are_exact(count, total):
    expected = binomtest(count, total).proportion_ci(0.95, method="exact")
    assert share_interval(count, total) == pytest.approx((expected.low, expected.high))
