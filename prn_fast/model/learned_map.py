"""The learned anomaly map: the network's logits weighed with two other views of the image.

    logits' = w_1 logits + up(w_2 d + w_3 s + b)
    d = mean of 3 x 3 of the distances to a memory of normal patches (`prn_fast.model.memory`)
    s = logits of a screen (`prn_fast.model.screen`)

The network is trained on generated anomalies and fits them closely. The memory knows no anomaly, and the screen is too
small to fit them as closely: where the network overlooks what is unlike the generated ones, they may not. Which of the
three tells most differs from product to product, so training fits the weights (`prn_fast.training.learned_map`). Both
views are at stride 8; up is bilinear. Image scores are taken of the learned map.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from prn_fast.model.config import SCREEN_STRIDE, PRNConfig
from prn_fast.model.memory import PatchMemory
from prn_fast.model.screen import Screen

NETWORK, MEMORY, SCREEN = "network", "memory", "screen"


class LearnedMap(nn.Module):
    """Weights of the learned map as buffers, so that they are stored and exported with the network.

    Attributes:
        weights: (J,), one for each of `names`; until they are fitted, the network's map stays as it is.
        intercept: (1,), b.
        memory: None if `config.memory` is 0.
        screen: frozen; None if `config.screen_width` is 0.
    """

    weights: Tensor
    intercept: Tensor

    def __init__(self, config: PRNConfig) -> None:
        super().__init__()
        self.memory = PatchMemory(config.memory, config) if config.memory else None
        self.screen = Screen(config, config.screen_width).requires_grad_(False) if config.screen_width else None
        self.register_buffer("weights", torch.tensor([float(name == NETWORK) for name in self.names]))
        self.register_buffer("intercept", torch.zeros(1))

    @property
    def names(self) -> tuple[str, ...]:
        """What is weighed, in the order of the weights."""
        return (
            NETWORK,
            *((MEMORY,) if self.memory is not None else ()),
            *((SCREEN,) if self.screen is not None else ()),
        )

    def forward(self, logits: Tensor, features: Sequence[Tensor], residuals: Sequence[Tensor]) -> Tensor:
        """The learned logits (B, 1, S, S) of the network's, in their dtype.

        Args:
            logits: of the network.
            features, residuals: at strides 4, 8 and 16.
        """
        return self.weigh(logits, self.views(features, residuals))

    def views(self, features: Sequence[Tensor], residuals: Sequence[Tensor]) -> Tensor:
        """Memory and screen (B, J - 1, S / 8, S / 8), float32 at least; arguments as for `forward`."""
        # In the dtype of the weights also where the rest is in half precision: distances are small differences of large
        # values, and the screen is a thousandth of the work.
        dtype = self.weights.dtype
        features, residuals = [one.to(dtype) for one in features], [one.to(dtype) for one in residuals]
        found = []
        if self.memory is not None:
            found.append(self.distances(features))
        if self.screen is not None:
            found.append(self.screen(features, residuals))
        return torch.cat(found, dim=1)

    def distances(self, features: Sequence[Tensor], most: int | None = None) -> Tensor:
        """d (B, 1, S / 8, S / 8) of features at strides 4, 8 and 16, float32 at least; needs `memory`.

        Args:
            most: patches of the memory to compare with; all by default.
        """
        assert self.memory is not None
        distances = self.memory(features[1], features[2], most)[:, None]
        return functional.avg_pool2d(distances, 3, 1, 1, count_include_pad=False)

    def weigh(self, logits: Tensor, views: Tensor) -> Tensor:
        """The learned logits (B, 1, S, S) of the network's and `views`."""
        weighed = (views * self.weights[1:, None, None]).sum(1, keepdim=True) + self.intercept
        return (logits * self.weights[0] + enlarged(weighed)).to(logits.dtype)

    @torch.no_grad()
    def set_weights(self, weights: Tensor) -> None:
        """Take over fitted weights (J + 1,): one for each of `names`, and the intercept."""
        self.weights.copy_(weights[:-1])
        self.intercept.copy_(weights[-1:])


def enlarged(maps: Tensor) -> Tensor:
    """Maps at stride 8 (B, J, h, w) at the image's size, bilinear."""
    return functional.interpolate(maps, scale_factor=float(SCREEN_STRIDE), mode="bilinear", align_corners=False)
