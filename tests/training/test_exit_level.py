"""The level of a screen's score: what is fitted, and what it never does."""

import numpy as np
import pytest
import torch

from prn_fast.model.screen import map_level
from prn_fast.training.exit_level import MAX_WEIGHT, MIN_IMAGES, MIN_SHARE, MapStatistics, fit_level


def drawn(count, *, stands_out, level_spread=2.0, spread=1.0, seed=0):
    """Statistics of maps that stand out of their own level by so much; the level differs from image to image."""
    rng = np.random.default_rng(seed)
    level = -5 + level_spread * rng.standard_normal(count)
    largest = level + stands_out + 0.3 * rng.standard_normal(count)
    return np.stack([largest, level, spread + 0.1 * rng.random(count)], 1).astype("f4")


def maps(values):
    """Those with these statistics, (n, 3)."""
    return MapStatistics(values[:, :1], values[:, 1], values[:, 2])


def fitted(normals, anomalies):
    return fit_level(maps(normals), maps(anomalies))


def scores(weights, values):
    return maps(values).scores(weights)


def leaving(weights, normals, anomalies):
    """Share of the normal images whose score is below that of every anomaly."""
    return np.mean(scores(weights, normals) < scores(weights, anomalies).min())


def test_what_stands_out_of_a_map_is_told_from_a_map_that_is_higher():
    normals, anomalies = drawn(60, stands_out=2.0), drawn(200, stands_out=4.0, seed=1)
    level = fitted(normals, anomalies)
    assert leaving(level, normals, anomalies) > leaving(np.zeros(4, np.float32), normals, anomalies) + 0.2
    # Also on images that it was not fitted to.
    others = drawn(60, stands_out=2.0, seed=2), drawn(200, stands_out=4.0, seed=3)
    assert leaving(level, *others) > leaving(np.zeros(4, np.float32), *others) + 0.2


@pytest.mark.parametrize("seed", range(5))
def test_an_image_whose_whole_map_rises_never_gets_a_lower_score(seed):
    level = fitted(
        drawn(40, stands_out=1.0, level_spread=8.0, seed=seed), drawn(90, stands_out=2.0, level_spread=8.0, seed=9)
    )
    assert MIN_SHARE - 1 - 1e-6 <= level[0] <= MAX_WEIGHT
    assert 0 <= level[1] <= MAX_WEIGHT
    risen = np.arange(-8, 8, 0.5, np.float32)
    found = scores(level, np.stack([risen, risen - 2, np.ones_like(risen)], 1))
    assert (np.diff(found) > 0).all()


@pytest.mark.parametrize("level_spread", [0.3, 1.0])
@pytest.mark.parametrize("unlike", [(5.0, 5.0, 0.0), (10.0, 10.0, 0.0), (9.0, 9.0, 3.0)], ids=str)
def test_a_map_that_is_all_defect_never_leaves(level_spread, unlike):
    normals = drawn(40, stands_out=1.0, level_spread=level_spread)
    anomalies = drawn(90, stands_out=2.0, level_spread=level_spread, seed=9)
    level = fitted(normals, anomalies)
    assert scores(level, np.array([unlike], np.float32))[0] > max(scores(level, normals).mean(), 0.5)


def test_no_image_gets_a_lower_level_than_the_lowest_of_a_normal_one():
    normals = drawn(40, stands_out=1.0)
    weights = fitted(normals, drawn(90, stands_out=3.0, seed=9))
    assert weights[:2].any()
    levels = normals[:, 1:] @ weights[:2] + weights[2]
    assert weights[3] == pytest.approx(levels.min(), abs=1e-4)
    unlike = [torch.tensor([value]) for value in (-10.0, 0.0)], [torch.tensor([value]) for value in (10.0, 0.0)]
    for mean, spread in unlike:
        assert float(map_level(mean, spread, torch.from_numpy(weights))) >= weights[3]


def test_the_mean_normal_image_has_the_level_zero():
    normals = drawn(50, stands_out=2.0)
    level = fitted(normals, drawn(50, stands_out=4.0, seed=1))
    assert level.any()
    assert normals[:, 1:].mean(0) @ level[:2] + level[2] == pytest.approx(0.0, abs=1e-4)
    assert level[3] < 0


@pytest.mark.parametrize(
    ("normals", "anomalies"),
    [
        (drawn(MIN_IMAGES - 1, stands_out=1.0), drawn(50, stands_out=3.0)),
        (drawn(50, stands_out=1.0), drawn(MIN_IMAGES - 1, stands_out=3.0)),
        (drawn(50, stands_out=1.0), drawn(50, stands_out=-30.0)),
        (np.ones((20, 3), np.float32), np.ones((20, 3), np.float32)),
    ],
    ids=["few normal images", "few anomalies", "anomalies stand out less", "all alike"],
)
def test_where_nothing_is_told_there_is_no_level(normals, anomalies):
    assert not fitted(normals, anomalies).any()
