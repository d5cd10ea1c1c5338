"""Prototype residual without the (B K, C h w) expansion: the nearest prototype by one matrix product.

With c the mean prototype, f' = f - c and p' = p - c, leaving out what does not depend on k,

    |f - p_k + eps|^2 / 2  ~  |p'_k|^2 / 2 - eps sum(p'_k) - f' . p'_k

Subtracting c first keeps the terms as small as the differences between images, so that little cancels; only two
prototypes whose distances agree to about a millionth can change places.
"""

import torch
from torch import Tensor

from prn_fast.kernels.prototype_residual.reference import DISTANCE_EPSILON


def distance_order(features: Tensor, prototypes: Tensor) -> Tensor:
    """(B, K) numbers in the order of the published distances: half their square, less a term of the image alone."""
    centre = prototypes.mean(dim=0, keepdim=True)
    centred = (prototypes - centre).flatten(1)
    offsets = centred.square().sum(1) / 2 - DISTANCE_EPSILON * centred.sum(1)
    return offsets - (features - centre).flatten(1) @ centred.T


def nearest_prototype(features: Tensor, prototypes: Tensor) -> Tensor:
    """(B,) int64: the prototype nearest to each map, the lowest index on a tie."""
    return torch.argmin(distance_order(features.detach(), prototypes), dim=1)


def prototype_residual(features: Tensor, prototypes: Tensor) -> Tensor:
    """The function that `reference.prototype_residual` defines; same arguments and result."""
    return (features - prototypes[nearest_prototype(features, prototypes)]).square()
