"""The level of a screen's score: what the mean and the spread of a map say of a normal image, fitted to a product.

    z = w_1 largest + w_2 mean + w_3 spread            of the logits of a map
    loss = mean of log(1 + exp(-y z)) + penalty |w|^2  y: -1 normal, +1 anomalous, both classes weigh the same
    level = (w_2 / w_1, w_3 / w_1, u)                  u: the mean normal image has the level 0

Logistic regression, with each statistic in units of its own spread. Weights are bounded so that an image whose whole
map rises never gets a lower score, however much the level of normal images varies.
"""

import numpy as np
from numpy.typing import NDArray

# Of each logit by which a whole map rises, at least this share stays in the score.
MIN_SHARE = 0.2
# A mean or a spread counts at most this often as much as the largest logits: beyond it, these would not matter.
MAX_WEIGHT = 4.0
PENALTY = 0.01
# Fewer normal images or anomalies do not tell two weights.
MIN_IMAGES = 10


def fit_level(normals: NDArray[np.floating], anomalies: NDArray[np.floating]) -> NDArray[np.float32]:
    """The level's weights.

    Args:
        normals: (N, 3), mean of the largest logits, mean and spread of each normal image's map.
        anomalies: (M, 3), the same of anomalies.
    Returns:
        float32 (3,), for `Screen.level`; zeros where there are fewer than ten of either, or where the largest logits
        tell nothing.
    """
    if min(len(normals), len(anomalies)) < MIN_IMAGES:
        return np.zeros(3, np.float32)
    # In these coordinates the bound is a sign: largest - (1 - share) mean, mean, spread.
    kept = 1.0 - MIN_SHARE
    turned = np.concatenate([normals, anomalies]).astype(np.float64)
    turned[:, 0] -= kept * turned[:, 1]
    slopes = _fit(turned, np.repeat([-1.0, 1.0], [len(normals), len(anomalies)]))
    if slopes[0] <= 0:
        return np.zeros(3, np.float32)
    weights = np.minimum(slopes[1:] / slopes[0] - [kept, 0.0], MAX_WEIGHT)
    return np.append(weights, -float(normals[:, 1:].mean(0) @ weights)).astype(np.float32)


def _fit(features: NDArray[np.float64], labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """(J,) slopes of 0 or more, for features (N, J) in their own units and labels of -1 and 1."""
    from scipy.optimize import minimize

    mean, spread = features.mean(0), np.maximum(features.std(0), 1e-6)
    scaled = (features - mean) / spread
    weights = np.where(labels > 0, 0.5 / (labels > 0).sum(), 0.5 / (labels < 0).sum())

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        slopes, offset = values[:-1], values[-1]
        decisions = labels * (scaled @ slopes + offset)
        steep = -labels * weights * np.exp(-np.logaddexp(0.0, decisions))
        value = float(weights @ np.logaddexp(0.0, -decisions) + PENALTY / 2 * slopes @ slopes)
        return value, np.append(scaled.T @ steep + PENALTY * slopes, steep.sum())

    bounds = [(0.0, None)] * features.shape[1] + [(None, None)]
    found = minimize(loss, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(found.x[:-1] / spread)
