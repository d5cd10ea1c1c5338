"""The level of a screen's map: what the mean and the spread of its logits say of an image, fitted to a product.

    z = b + w_1 largest + w_2 mean + w_3 spread        of the logits of a map
    level = max(u_1 mean + u_2 spread + u_3, u_4),  u_1 = w_2 / w_1, u_2 = w_3 / w_1

with u_3 so that the mean normal image has the level 0, and u_4 the lowest level of a normal image: what is unlike all
of them is given no more allowance than they are. The weights w are those of a logistic regression
(`prn_fast.training.logistic`). They are bounded: where a whole map rises, its score does, too.
"""

import numpy as np
from numpy.typing import NDArray

from prn_fast.training.logistic import fit_slopes

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
    slopes = fit_slopes(turned, np.repeat([False, True], [len(normals), len(anomalies)]), PENALTY)
    if not slopes[0] > 0:
        return np.zeros(4, np.float32)
    weights = np.minimum(slopes[1:] / slopes[0] - [taken, 0.0], MAX_WEIGHT)
    levels = normals[:, 1:].astype(np.float64) @ weights
    return np.array([*weights, -levels.mean(), levels.min() - levels.mean()], np.float32)
