"""The moving average of a network's weights (Polyak and Juditsky, 1992), which validates better than the last ones."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = list[Tensor] | tuple[Tensor, ...]


def make_average(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of a network that follows it: average <- d average + (1 - d) weights, at each `update_parameters`.

    d = min(decay, (1 + n) / (10 + n)) after n updates, so that the average of a short run forgets where it began.
    The statistics of batch norms are averaged like weights; whole numbers are taken over.

    Args:
        decay: largest d, above 0 and below 1.
    """

    @torch.no_grad()
    def follow(averages: Tensors, weights: Tensors, updates: Tensor | int) -> None:
        n = int(average.n_averaged)
        share = 1.0 - min(decay, (1 + n) / (10 + n))
        for one, weight in zip(averages, weights, strict=True):
            if one.is_floating_point():
                one.lerp_(weight, share)
            else:
                one.copy_(weight)

    average = AveragedModel(model, multi_avg_fn=follow, use_buffers=True)
    # Counted on the host: reading the count from a GPU would wait for all work queued there.
    average.n_averaged = torch.zeros((), dtype=torch.long, device="cpu")
    return average
