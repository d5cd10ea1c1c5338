"""The level of a screen's map: what the mean and the spread of its logits say of an image, fitted to a product.

    z = b + w_1 largest + w_2 mean + w_3 spread        of the logits of a map
    level = max(u_1 mean + u_2 spread + u_3, u_4),  u_1 = w_2 / w_1, u_2 = w_3 / w_1

with u_3 so that the mean normal image has the level 0, and u_4 the lowest level of a normal image: what is unlike all
of them is given no more allowance than they are. The weights w are those of a logistic regression
(`prn_fast.training.logistic`). They are bounded: where a whole map rises, its score does, too.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from prn_fast.model.screen import largest_logits, map_level, mean_and_spread, score_of
from prn_fast.training.logistic import fit_slopes

# Of each logit by which a whole map rises, at least this share stays in the score.
MIN_SHARE = 0.2
# A mean or a spread counts at most this many times as much as the largest logits: beyond it, these would not matter.
MAX_WEIGHT = 4.0
PENALTY = 0.01
# Fewer normal images or anomalies cannot determine two weights.
MIN_IMAGES = 10


@dataclass(frozen=True)
class MapStatistics:
    """What a screen's score is made of, of n images, float32.

    Attributes:
        largest: (n, k), the largest of the logits.
        mean, spread: (n,), of all of them, as `mean_and_spread`.
    """

    largest: NDArray[np.float32]
    mean: NDArray[np.float32]
    spread: NDArray[np.float32]

    @classmethod
    def of(cls, logits: NDArray[np.float32]) -> Self:
        """Those of logits (n, h, w)."""
        maps = torch.from_numpy(logits)
        return cls(largest_logits(maps).numpy(), *(values.numpy() for values in mean_and_spread(maps)))

    def scores(self, level_weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores (n,) of the screen, with weights of the level (4,)."""
        level = map_level(*map(torch.from_numpy, (self.mean, self.spread, level_weights)))
        return score_of(torch.from_numpy(self.largest), level).numpy()

    @property
    def features(self) -> NDArray[np.float64]:
        """(n, 3): mean of the largest, mean and spread."""
        return np.column_stack([self.largest.mean(1), self.mean, self.spread]).astype(np.float64)


def fit_level(normal_maps: MapStatistics, anomalous_maps: MapStatistics) -> NDArray[np.float32]:
    """The weights of the level, from the maps of normal images and of anomalies.

    Returns:
        float32 (4,), for `Screen.level_weights`; zeros where there are fewer than ten of either, or where the largest
        logits tell nothing.
    """
    normals, anomalies = normal_maps.features, anomalous_maps.features
    if min(len(normals), len(anomalies)) < MIN_IMAGES:
        return np.zeros(4, np.float32)
    # In these coordinates the bound is a sign: largest - (1 - share) mean, mean, spread.
    taken = 1.0 - MIN_SHARE
    turned = np.concatenate([normals, anomalies])
    turned[:, 0] -= taken * turned[:, 1]
    slopes = fit_slopes(turned, np.repeat([False, True], [len(normals), len(anomalies)]), PENALTY)
    if not slopes[0] > 0:
        return np.zeros(4, np.float32)
    weights = np.minimum(slopes[1:] / slopes[0] - [taken, 0.0], MAX_WEIGHT)
    levels = normals[:, 1:] @ weights
    return np.array([*weights, -levels.mean(), levels.min() - levels.mean()], np.float32)
