"""The learned image score of a network: a weighted sum of statistics of its logit map.

    score = sigmoid(b + sum over j of w_j x_j),  x the statistics of `prn_fast.kernels.anomaly_score`

Training fits the weights (`prn_fast.training.image_score`).
"""

import torch
from torch import Tensor, nn

from prn_fast.kernels import Ops
from prn_fast.kernels.anomaly_score import STATISTICS
from prn_fast.kernels.anomaly_score.reference import TOP_PIXELS

# Until weights are fitted, the published score's pixels decide.
_UNTRAINED = tuple(float(name == f"largest {TOP_PIXELS}") for name in STATISTICS)


class LearnedScore(nn.Module):
    """Weights of the learned score as buffers, so that they are stored and exported with the network.

    Attributes:
        weights: (5,), one for each of `STATISTICS`.
        intercept: (1,), b.
    """

    weights: Tensor
    intercept: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(_UNTRAINED))
        self.register_buffer("intercept", torch.zeros(1))

    def forward(self, logits: Tensor, ops: Ops) -> Tensor:
        """Scores (B,) in 0..1, float32 at least, of logit maps (B, 1, S, S), by a formulation of the operation."""
        return ops.learned_score(logits, self.weights, self.intercept.expand(logits.shape[0]))

    @torch.no_grad()
    def set_weights(self, weights: Tensor) -> None:
        """Take over fitted weights (J + 1,): one for each of `STATISTICS`, and the intercept."""
        self.weights.copy_(weights[:-1])
        self.intercept.copy_(weights[-1:])
