"""Logistic regression with slopes of 0 or more."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from prn_fast.training.logistic import fit_slopes


def test_where_all_slopes_are_positive_they_are_those_of_the_common_fit() -> None:
    rng = np.random.default_rng(0)
    anomalous = rng.random(3000) < 0.2
    features = rng.normal(0, (1.0, 5.0), (3000, 2)) + anomalous[:, None] * (1.0, 4.0)
    weights = rng.random(3000)
    balanced = weights * np.where(anomalous, 0.5 / weights[anomalous].sum(), 0.5 / weights[~anomalous].sum())
    scaled = (features - features.mean(0)) / features.std(0)
    common = LogisticRegression(C=1e6, tol=1e-8, max_iter=1000).fit(scaled, anomalous, sample_weight=3000 * balanced)
    found = fit_slopes(features, anomalous, 0.0, weights)
    np.testing.assert_allclose(found, common.coef_[0] / features.std(0), rtol=0.01)


def test_what_falls_with_anomalies_is_left_out() -> None:
    rng = np.random.default_rng(1)
    anomalous = np.arange(2000) % 2 == 0
    features = rng.normal(0, 1, (2000, 2)) + anomalous[:, None] * (2.0, -2.0)
    slopes = fit_slopes(features, anomalous, 1e-3)
    assert slopes[0] > 1
    assert slopes[1] == 0


def test_a_penalty_makes_slopes_smaller() -> None:
    anomalous = np.repeat([False, True], 50)
    separable = np.where(anomalous, 1.0, -1.0)[:, None]
    slopes = [fit_slopes(separable, anomalous, penalty)[0] for penalty in (0.01, 0.1)]
    assert slopes[0] > 1.5 * slopes[1] > 0
    assert slopes[0] == pytest.approx(np.log(1 / 0.01), rel=0.5)
