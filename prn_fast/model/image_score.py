"""The learned image score of a network: statistics of its logit map, of a screen's, and distances to normal patches.

    score = sigmoid(b + sum over j of w_j x_j + sum over i of u_i z_i + sum over i of v_i y_i)

x are the statistics of the logit map (`prn_fast.kernels.anomaly_score`). z are the largest logits, the mean and the
spread of a screen's map (`prn_fast.model.screen`), which reads features and residuals alone and fits the generated
anomalies less closely than the network does. y are the largest and the mean of the distances to a memory of normal
patches (`prn_fast.model.memory`). Training fits the weights (`prn_fast.training.image_score`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prn_fast.kernels import Ops
from prn_fast.kernels.anomaly_score import STATISTICS
from prn_fast.kernels.anomaly_score.reference import LOGIT_LIMIT, TOP_PIXELS, map_statistics
from prn_fast.model.config import PRNConfig
from prn_fast.model.memory import PatchMemory
from prn_fast.model.screen import Screen, largest_logits, mean_and_spread

SCREEN_STATISTICS = ("screen, largest", "screen, mean", "screen, spread")
LOGIT_STATISTICS = (*STATISTICS, *SCREEN_STATISTICS)
MEMORY_STATISTICS = ("largest distance", "mean distance")
# Until weights are fitted, the published score's pixels decide.
_UNTRAINED = tuple(float(name == f"largest {TOP_PIXELS}") for name in STATISTICS)


class LearnedScore(nn.Module):
    """Weights of the learned score as buffers, so that they are stored and exported with the network.

    Attributes:
        map_weights: (5,), w.
        screen_weights: (3,), u; there is none without a screen.
        memory_weights: (2,), v; empty without a memory.
        intercept: (1,), b.
        screen: frozen; None if `config.screen_width` is 0.
        memory: None if `config.memory` is 0.
    """

    map_weights: Tensor
    screen_weights: Tensor
    memory_weights: Tensor
    intercept: Tensor

    def __init__(self, config: PRNConfig) -> None:
        super().__init__()
        self.memory = PatchMemory(config.memory, config) if config.memory else None
        self.screen = Screen(config, config.screen_width).requires_grad_(False) if config.screen_width else None
        self.register_buffer("map_weights", torch.tensor(_UNTRAINED))
        if config.screen_width:
            self.register_buffer("screen_weights", torch.zeros(len(SCREEN_STATISTICS)))
        self.register_buffer("memory_weights", torch.zeros(len(MEMORY_STATISTICS) if config.memory else 0))
        self.register_buffer("intercept", torch.zeros(1))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the statistics, in the order of `statistics` and of the weights; those in logits come first."""
        return (
            *STATISTICS,
            *(SCREEN_STATISTICS if self.screen is not None else ()),
            *(MEMORY_STATISTICS if self.memory is not None else ()),
        )

    def forward(self, logits: Tensor, features: Sequence[Tensor], residuals: Sequence[Tensor], ops: Ops) -> Tensor:
        """Scores (B,) in 0..1, float32 at least, of logit maps (B, 1, S, S).

        Args:
            logits: of the network.
            features, residuals: at strides 4, 8 and 16.
            ops: the formulation of the score.
        """
        offsets = self.intercept.expand(logits.shape[0])
        if self.screen is not None:
            offsets = offsets + (self._screened(features, residuals) * self.screen_weights).sum(1)
        if self.memory is not None:
            offsets = offsets + (self._distances(features) * self.memory_weights).sum(1)
        return ops.learned_score(logits, self.map_weights, offsets)

    def statistics(self, logits: Tensor, features: Sequence[Tensor], residuals: Sequence[Tensor]) -> Tensor:
        """(B, J) statistics that the weights apply to, in the order of `names`; arguments as for `forward`."""
        found = [map_statistics(logits)]
        if self.screen is not None:
            found.append(self._screened(features, residuals))
        if self.memory is not None:
            found.append(self._distances(features))
        return torch.cat(found, dim=1)

    def _screened(self, features: Sequence[Tensor], residuals: Sequence[Tensor]) -> Tensor:
        assert self.screen is not None
        # Also where the rest is in half precision: it is a thousandth of the work.
        dtype = self.screen.out.weight.dtype
        return screen_statistics(self.screen([one.to(dtype) for one in features], [one.to(dtype) for one in residuals]))

    def _distances(self, features: Sequence[Tensor]) -> Tensor:
        assert self.memory is not None
        distances = self.memory(features[1], features[2]).flatten(1)
        return torch.stack([distances.amax(1), distances.mean(1)], dim=1)

    @torch.no_grad()
    def set_weights(self, weights: Tensor) -> None:
        """Take over fitted weights (J + 1,): one a statistic, in the order of `names`, and the intercept."""
        own = [
            self.map_weights,
            *([self.screen_weights] if self.screen is not None else []),
            self.memory_weights,
            self.intercept,
        ]
        for one, given in zip(own, weights.split([len(one) for one in own]), strict=True):
            one.copy_(given)


def screen_statistics(logits: Tensor) -> Tensor:
    """(N, 3), in the order of `SCREEN_STATISTICS`, of a screen's logits (N, 1, h, w), cut as those of a map are."""
    largest = largest_logits(logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)).mean(1)
    return torch.stack([largest, *mean_and_spread(logits)], dim=1)
