"""How much the memory counts in a screen's logits: what is chosen, and what the weights make of the views."""

import numpy as np
import pytest

from prn_fast.engine.early_exit import logit
from prn_fast.training.early_exit import ScreenWeights, StageScores
from prn_fast.training.exit_level import MapStatistics, fit_level
from prn_fast.training.exit_views import SHARES, USUAL_SHARE, choose_weights, logits_of, weights_for

SIDE = 8


def drawn(count, *, own=0.0, distance=0.0, seed=0):
    """Views (n, 2, h, w) in units of their own; a defect of four places rises by so much in either."""
    views = np.random.default_rng(seed).standard_normal((count, 2, SIDE, SIDE)).astype("f4")
    views[:, 0, 2:4, 2:4] += own
    views[:, 1, 2:4, 2:4] += distance
    return views * np.array([2.0, 0.5], "f4")[:, None, None] + np.array([-4.0, 3.0], "f4")[:, None, None]


def share_of(weights):
    return 1.0 - weights[0]


def test_what_only_the_memory_sees_makes_it_count_most_and_what_only_the_screen_sees_least():
    normals = drawn(40)
    seen_by_either = drawn(60, own=4.0, seed=1), drawn(60, distance=4.0, seed=1)
    chosen = [share_of(choose_weights(normals, anomalies)) for anomalies in seen_by_either]
    assert chosen == pytest.approx([SHARES[0], SHARES[-1]])


def test_a_flagged_anomaly_that_the_screen_overlooks_no_longer_keeps_all_images():
    """The planted fault: without the memory, nothing could leave."""
    normals = drawn(40)
    anomalies = np.concatenate([drawn(80, own=4.0, distance=4.0, seed=1), drawn(20, distance=4.0, seed=2)])
    leaving = []
    for weights in (ScreenWeights(np.zeros(4, "f4")), ScreenWeights.fitted(normals, anomalies)):
        good, bad = (StageScores(views, np.ones(len(views), "f4")).screen(weights) for views in (normals, anomalies))
        leaving.append(np.mean(good < bad.min()))
    assert leaving[0] < 0.1
    assert leaving[1] > 0.9


@pytest.mark.parametrize("share", [0.0, *SHARES])
def test_the_weights_bring_distances_to_the_deviation_of_the_own_logits(share):
    normals = drawn(30, seed=5).astype(np.float64)
    weights = weights_for(share, normals.astype("f4"))
    own, distances = normals[:, 0], normals[:, 1]
    expected = (1 - share) * own + share * own.std() * (distances - distances.mean()) / distances.std()
    np.testing.assert_allclose(logits_of(normals.astype("f4"), weights), expected, atol=1e-4)


def test_without_a_memory_there_is_nothing_to_choose():
    normals, anomalies = drawn(30)[:, :1], drawn(30, own=4.0, seed=1)[:, :1]
    weights = ScreenWeights.fitted(normals, anomalies)
    assert weights.views is None
    np.testing.assert_array_equal(logits_of(normals, weights.views), normals[:, 0])


@pytest.mark.parametrize(("normals", "anomalies"), [(9, 60), (30, 9), (1, 0)])
def test_too_few_images_choose_nothing(normals, anomalies):
    weights = ScreenWeights.fitted(drawn(normals), drawn(anomalies, own=4.0, seed=1))
    assert share_of(weights.views) == pytest.approx(USUAL_SHARE)
    assert not weights.level.any()


def test_distances_that_are_all_alike_but_for_rounding_count_nothing():
    normals = drawn(30)
    normals[:, 1] = 3.0
    normals[::2, 1] = np.nextafter(np.float32(3), np.float32(4))
    weights = choose_weights(normals, drawn(30, own=4.0, seed=1))
    assert weights[1:].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(logits_of(normals, weights), weights[0] * normals[:, 0], rtol=1e-6)


def test_a_share_is_judged_in_the_deviation_of_the_normal_images_and_with_its_level():
    """Distances lie twice as far apart, and differ from image to image as a whole: a level that is taken off."""
    normals, anomalies = drawn(60, seed=3), drawn(90, own=1.5, distance=3.0, seed=4)
    for seed, views in enumerate((normals, anomalies)):
        views[:, 1] += np.random.default_rng(seed).standard_normal((len(views), 1, 1)).astype("f4")
    told = {}
    for share in SHARES:
        weights = weights_for(share, normals)
        good, bad = (MapStatistics.of(logits_of(views, weights)) for views in (normals, anomalies))
        for name, level in (("level", fit_level(good, bad)), ("none", np.zeros(4, "f4"))):
            own = logit(good.scores(level))
            told.setdefault(name, []).append((logit(bad.scores(level)).min() - own.mean()) / own.std())
    best = SHARES[int(np.argmax(told["level"]))]
    assert share_of(choose_weights(normals, anomalies)) == pytest.approx(best)
    assert best != SHARES[int(np.argmax(told["none"]))]
