"""Logistic regression with slopes of 0 or more: what speaks for an anomaly never speaks against one.

    loss = sum over i of v_i log(1 + exp(-y_i z_i)) + penalty / 2 |w|^2,  z = b + sum over j of w_j x_j

x are features in units of their own spread, y is -1 or +1, and the weights v of each class sum to one half.
"""

import numpy as np
from numpy.typing import NDArray


def fit_slopes(
    features: NDArray[np.floating],
    anomalous: NDArray[np.bool_],
    penalty: float,
    weights: NDArray[np.floating] | None = None,
) -> NDArray[np.float64]:
    """Slopes (J,) of 0 or more, for features in their own units.

    Args:
        features: (N, J).
        anomalous: (N,); both values occur.
        penalty: on the squares of the slopes.
        weights: (N,), within a class; by default all weigh the same.
    """
    from scipy.optimize import minimize

    mean, spread = features.mean(0), np.maximum(features.std(0), 1e-6)
    scaled = (features.astype(np.float64) - mean) / spread
    labels = np.where(anomalous, 1.0, -1.0)
    weights = np.ones(len(labels)) if weights is None else weights.astype(np.float64)
    weights = weights * np.where(anomalous, 0.5 / weights[anomalous].sum(), 0.5 / weights[~anomalous].sum())

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        slopes, offset = values[:-1], values[-1]
        decisions = labels * (scaled @ slopes + offset)
        steep = -labels * weights * np.exp(-np.logaddexp(0.0, decisions))
        value = float(weights @ np.logaddexp(0.0, -decisions) + penalty / 2 * slopes @ slopes)
        return value, np.append(scaled.T @ steep + penalty * slopes, steep.sum())

    bounds = [(0.0, None)] * features.shape[1] + [(None, None)]
    found = minimize(loss, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(found.x[:-1] / spread)
