"""Prototype residual, the published formulation.

    d_bk = || F_b - P_k + eps ||_2        over the whole map, eps = 1e-6 added to each difference
    k*_b = argmin_k d_bk                  the lowest index on a tie
    R_b  = (F_b - P_k*)^2                 elementwise

Source: Zhang et al., CVPR 2023; the public implementation expands both operands to (B K, C, h, w).
"""

import torch
from torch import Tensor
from torch.nn import functional

# torch.nn.functional.pairwise_distance adds it to each difference; part of the published distance.
DISTANCE_EPSILON = 1e-6


def prototype_distances(features: Tensor, prototypes: Tensor) -> Tensor:
    """L2 distance of each map to each prototype.

    Args:
        features: (B, C, h, w), floating point.
        prototypes: (K, C, h, w), same dtype.
    Returns:
        (B, K), same dtype, zero or more.
    """
    batch, count = features.shape[0], prototypes.shape[0]
    expanded_features = features.unsqueeze(1).expand(batch, count, *features.shape[1:])
    expanded_prototypes = prototypes.unsqueeze(0).expand(batch, count, *prototypes.shape[1:])
    distances = functional.pairwise_distance(
        expanded_features.reshape(batch * count, -1),
        expanded_prototypes.reshape(batch * count, -1),
        p=2,
        eps=DISTANCE_EPSILON,
    )
    return distances.reshape(batch, count)


def prototype_residual(features: Tensor, prototypes: Tensor) -> Tensor:
    """Squared difference of each map to its nearest prototype.

    Args:
        features: (B, C, h, w), floating point.
        prototypes: (K, C, h, w), same dtype.
    Returns:
        (B, C, h, w), same dtype, zero or more.
    """
    nearest = torch.argmin(prototype_distances(features, prototypes), dim=1)
    return functional.mse_loss(features, prototypes[nearest], reduction="none")
