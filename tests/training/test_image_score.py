"""Weights of a learned score: what is fitted, on what, and how it is told apart from chance."""

import numpy as np
import pytest

from prn_fast.training.image_score import STEEPEST, _folds, fit_score
from prn_fast.training.metrics import image_metrics

LABELS = np.repeat([0, 1], 40)


def drawn(seed: int, shift: tuple[float, ...]) -> np.ndarray:
    """(80, J) statistics, those of anomalies shifted."""
    rng = np.random.default_rng(seed)
    statistics = rng.normal(0, 1, (80, len(shift)))
    statistics[LABELS == 1] += shift
    return statistics


def auroc(statistics: np.ndarray, weights: np.ndarray) -> float:
    return image_metrics(statistics @ weights[:-1] + weights[-1], LABELS).auroc


def test_a_level_that_differs_from_image_to_image_is_taken_off() -> None:
    def images(seed: int) -> np.ndarray:
        level = np.random.default_rng(seed + 100).normal(0, 5, (80, 1))
        return np.concatenate([level + drawn(seed, (2.0,)), level], axis=1)

    fitted = fit_score(images(0), LABELS, np.empty((0, 2)))
    assert fitted.weights[0] > 0 > fitted.weights[1]
    others = images(1)
    assert image_metrics(others[:, 0], LABELS).auroc < 0.7
    assert auroc(others, fitted.weights) > 0.85


def test_seen_anomalies_count_as_much_as_all_generated_ones() -> None:
    generated = drawn(0, (3.0, 0.0))
    seen = np.random.default_rng(1).normal((0.0, 6.0), 1, (5, 2))
    without = fit_score(generated, LABELS, np.empty((0, 2))).weights
    beside = fit_score(generated, LABELS, seen).weights
    assert abs(without[1]) < 0.2 * without[0]
    assert beside[1] > 0.3 * beside[0]


def test_held_out_scores_of_noise_are_at_chance_where_fitted_ones_are_not() -> None:
    noise = drawn(0, (0.0,) * 5)
    fitted = fit_score(noise, LABELS, np.empty((0, 5)))
    assert auroc(noise, fitted.weights) > 0.6
    assert image_metrics(fitted.held_out, LABELS).auroc < 0.6
    assert 0 < fitted.held_out.min() <= fitted.held_out.max() < 1


@pytest.mark.parametrize("normals", [1, 2, 3])
def test_few_images_are_enough(normals: int) -> None:
    statistics, labels = drawn(0, (3.0, 1.0))[40 - normals : 40 + normals], np.repeat([0, 1], normals)
    fitted = fit_score(statistics, labels, np.empty((0, 2)))
    assert np.isfinite(fitted.weights).all()
    assert np.isfinite(fitted.held_out).all()


def test_decisions_are_no_steeper_than_maps() -> None:
    statistics = drawn(0, (50.0, 0.0, 1.0)) * (0.01, 1.0, 1.0)
    fitted = fit_score(statistics, LABELS, np.empty((0, 3)))
    assert np.abs(fitted.weights[:-1]).sum() == pytest.approx(STEEPEST)
    assert auroc(statistics, fitted.weights) > 0.99


def test_each_seen_anomaly_is_told_by_weights_that_were_fitted_without_it() -> None:
    noise, seen = drawn(0, (0.0,) * 5), np.random.default_rng(1).normal(0, 1, (10, 5))
    fitted = fit_score(noise, LABELS, seen)
    known = 1 / (1 + np.exp(-(seen @ fitted.weights[:-1] + fitted.weights[-1])))
    assert len(fitted.held_out_seen) == 10
    assert fitted.held_out_seen.mean() < known.mean() - 0.05


@pytest.mark.parametrize("seen", [0, 1, 10, 13])
def test_folds_leave_everything_out_once_and_spread_every_kind(seen: int) -> None:
    kinds = np.concatenate([LABELS, np.full(seen, 2)])
    folds = list(_folds(kinds, 0))
    assert sorted(np.concatenate([left_out for _, left_out in folds])) == list(range(len(kinds)))
    for fitted, left_out in folds:
        assert not set(fitted) & set(left_out)
        assert set(kinds[fitted]) >= {0, 1}
        assert (kinds[left_out] == 2).sum() in (seen // 10, -(-seen // 10))
