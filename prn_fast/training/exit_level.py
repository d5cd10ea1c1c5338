"""The level of a screen's map: what the mean and the spread of its logits say of an image, fitted to a product.

    z = b + w_1 largest + w_2 mean + w_3 spread        of the logits of a map
    loss = mean of log(1 + exp(-y z)) + penalty / 2 |w|^2        y: -1 normal, +1 anomalous; both classes weigh the same
    level = max(u_1 mean + u_2 spread + u_3, u_4),  u_1 = w_2 / w_1, u_2 = w_3 / w_1

with u_3 so that the mean normal image has the level 0, and u_4 the lowest level of a normal image: what is unlike all
of them is given no more allowance than they are. This is logistic regression with each statistic in units of its own
spread. Its weights are bounded: where a whole map rises, its score does, too.
"""

import numpy as np
from numpy.typing import NDArray

# Of each logit by which a whole map rises, at least this share stays in the score.
MIN_SHARE = 0.2
# A mean or a spread counts at most this many times as much as the largest logits: beyond it, these would not matter.
MAX_WEIGHT = 4.0
PENALTY = 0.01
# Fewer normal images or anomalies cannot determine two weights.
MIN_IMAGES = 10


def fit_level(normals: NDArray[np.floating], anomalies: NDArray[np.floating]) -> NDArray[np.float32]:
    """The weights of the level.

    Args:
        normals: (N, 3), mean of the largest logits, mean and spread of each normal image's map.
        anomalies: (M, 3), the same of anomalies.
    Returns:
        float32 (4,), for `Screen.level_weights`; zeros where there are fewer than ten of either, or where the largest
        logits tell nothing.
    """
    if min(len(normals), len(anomalies)) < MIN_IMAGES:
        return np.zeros(4, np.float32)
    # In these coordinates the bound is a sign: largest - (1 - share) mean, mean, spread.
    taken = 1.0 - MIN_SHARE
    turned = np.concatenate([normals, anomalies]).astype(np.float64)
    turned[:, 0] -= taken * turned[:, 1]
    slopes = _fit(turned, np.repeat([-1.0, 1.0], [len(normals), len(anomalies)]))
    if not slopes[0] > 0:
        return np.zeros(4, np.float32)
    weights = np.minimum(slopes[1:] / slopes[0] - [taken, 0.0], MAX_WEIGHT)
    levels = normals[:, 1:].astype(np.float64) @ weights
    return np.array([*weights, -levels.mean(), levels.min() - levels.mean()], np.float32)


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
