"""How much the memory counts in a screen's logits, chosen for a product.

    logits = (1 - a) t + a s (d - m)       t: the screen's own logits, d: distances to the network's memory

m and s bring the distances of held-out normal images to mean 0 and to the deviation that t has there. Of a few shares
a, the one is taken that leaves the lowest score of a flagged anomaly farthest above those of normal images, in their
standard deviations: that distance decides how many normal images leave.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from prn_fast.engine.early_exit import logit
from prn_fast.model.screen import weigh_views
from prn_fast.training.exit_level import MIN_IMAGES, MapStatistics, fit_level

# The least is not 0: the network's map mostly counts the memory, and of the few anomalies that are fitted to, none need
# be one that it is flagged for.
SHARES = (1 / 8, 1 / 4, 1 / 2, 3 / 4)
# Where too few images are there to choose.
USUAL_SHARE = 1 / 4


def weights_for(share: float, normals: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights (3,) for `Screen.view_weights`.

    Args:
        share: a, of the memory.
        normals: (N, 2, h, w), t and d of normal images.
    """
    own, distances = normals[:, 0].astype(np.float64), normals[:, 1].astype(np.float64)
    spread = float(distances.std())
    # Where all distances are the same but for rounding, they tell nothing.
    slope = share * own.std() / spread if spread > 1e-5 * float(np.abs(distances).mean()) else 0.0
    return np.array([1.0 - share, slope, -slope * distances.mean()], np.float32)


def logits_of(views: NDArray[np.float32], weights: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Logits (n, h, w) of t, or of t and d, (n, 1 or 2, h, w), by `Screen.view_weights`; without weights they are t."""
    if weights is None:
        return views[:, 0]
    return weigh_views(*map(torch.from_numpy, (views[:, 0], views[:, 1], weights))).numpy()


def choose_weights(normals: NDArray[np.float32], anomalies: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights (3,) for `Screen.view_weights`, each share judged with the level that is fitted for it.

    Args:
        normals: (N, 2, h, w), t and d of held-out normal images.
        anomalies: (M, 2, h, w), of anomalies that the network flags.
    Returns:
        Those of `USUAL_SHARE` where there are fewer than ten of either.
    """
    if min(len(normals), len(anomalies)) < MIN_IMAGES:
        return weights_for(USUAL_SHARE, normals)
    candidates = [weights_for(share, normals) for share in SHARES]
    return max(candidates, key=lambda weights: _distance(normals, anomalies, weights))


def _distance(normals: NDArray[np.float32], anomalies: NDArray[np.float32], weights: NDArray[np.float32]) -> float:
    """From the mean score of normal images to the lowest of an anomaly, in the deviation of the former, as logits."""
    good, bad = (MapStatistics.of(logits_of(views, weights)) for views in (normals, anomalies))
    level = fit_level(good, bad)
    scores = logit(good.scores(level))
    return float((logit(bad.scores(level)).min() - scores.mean()) / max(float(scores.std()), 1e-6))
