"""Multi-scale fusion with the 1x1 convolution before the upsampling.

Bilinear weights sum to one, so the two commute exactly, bias included: 4 to 16 times less arithmetic.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from prn_fast.kernels.multi_scale_fusion.reference import (
    FusionWeights,
    Maps,
    Maps3,
    Projection,
    down,
    fuse,
    set_by_set,
    upsample,
)


def project_then_upsample(maps: Tensor, projection: Projection, factor: int) -> Tensor:
    """Project, then upsample."""
    return upsample(functional.conv2d(maps, projection.weight, projection.bias), factor)


def multi_scale_fusion(x1: Maps, x2: Maps, x3: Maps, weights: FusionWeights) -> Maps3:
    """The function that `reference.multi_scale_fusion` defines; same arguments and result."""
    return set_by_set(fuse, x1, x2, x3, weights, project_then_upsample)


def fuse_scale(
    full: Sequence[Tensor],
    coarse: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    fine: Sequence[Tensor],
    fine_weights: Sequence[Tensor],
    fine_biases: Sequence[Tensor],
    strides: Sequence[int],
    sets: int,
) -> Tensor:
    """Everything that is added at one scale, for several sets of maps that share the weights.

    Args:
        full, coarse, weights, biases: as of `project_upsample_add`; maps of one set after those of another.
        fine: (B, C_i, H_i, W_i) each, in the same order.
        fine_weights, fine_biases, strides: of the grouped convolution (C, C_i / groups, k, k) of each fine map of a
            set; rounded to the maps' dtype if they have another.
        sets: how many.
    Returns:
        (B, sets * C, H, W): the sets' results side by side.
    """
    results = []
    for first in range(sets):
        part = [
            list(maps[len(maps) // sets * first : len(maps) // sets * (first + 1)]) for maps in (full, coarse, fine)
        ]
        total = project_upsample_add(part[0], part[1], weights, biases)
        for maps, weight, bias, stride in zip(part[2], fine_weights, fine_biases, strides, strict=True):
            total = total + down(maps, Projection(weight.to(maps.dtype), bias.to(maps.dtype)), stride)
        results.append(total)
    return torch.cat(results, dim=1)


def project_upsample_add(
    full: Sequence[Tensor], coarse: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> Tensor:
    """Sum of maps, the coarse ones projected and upsampled to the size of the full ones.

    Args:
        full: one or more (B, C, H, W).
        coarse: (B, C_i, h_i, w_i) each, any sizes, same dtype.
        weights, biases: (C, C_i, 1, 1) and (C,) for each coarse map; rounded to the maps' dtype if they have another.
    Returns:
        (B, C, H, W).
    """
    total = sum(full[1:], start=full[0])
    for maps, weight, bias in zip(coarse, weights, biases, strict=True):
        projected = functional.conv2d(maps, weight.to(maps.dtype), bias.to(maps.dtype))
        total = total + functional.interpolate(projected, size=total.shape[2:], mode="bilinear", align_corners=True)
    return total


def project_upsample_add_backward(
    gradient: Tensor, coarse: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Gradients of `project_upsample_add`; that of every full map is `gradient` itself.

    With G the gradient and G' = U^T G at a coarse map's size: P^T G' for the map, sum G' x^T over images and pixels for
    the weight; every bias gets the sum of G, since the weights of bilinear upsampling sum to one. U^T is two matrix
    products, one along each side, so that the result is the same on every run (PyTorch's own sums in any order).

    Returns:
        Gradients of the coarse maps and of their weights, and the one that all biases have.
    """
    grad_coarse, grad_weights = [], []
    for maps, weight in zip(coarse, weights, strict=True):
        reduced = upsample_transposed(gradient, maps.shape[2], maps.shape[3])
        matrix = weight.to(maps.dtype).flatten(1)
        grad_coarse.append(functional.conv2d(reduced, matrix.T[:, :, None, None]))
        grad_weights.append(torch.einsum("bohw,bihw->oi", reduced, maps).reshape(weight.shape).to(weight.dtype))
    return grad_coarse, grad_weights, gradient.sum(dim=(0, 2, 3))


def upsample_transposed(gradient: Tensor, height: int, width: int) -> Tensor:
    """The transpose of bilinear upsampling with aligned corners: maps (B, C, H, W) to (B, C, height, width)."""
    down = interpolation_weights(gradient.shape[2], height, gradient.device).to(gradient)
    across = interpolation_weights(gradient.shape[3], width, gradient.device).to(gradient)
    # Seen as (B, H, W, C), so that channels-last maps need no copy.
    rows = torch.einsum("Hh,bHWc->bhWc", down, gradient.permute(0, 2, 3, 1))
    return torch.einsum("Ww,bhWc->bhwc", across, rows).permute(0, 3, 1, 2)


def interpolation_weights(full: int, coarse: int, device: torch.device | None = None) -> Tensor:
    """Weight of each coarse position at each full-size one along a side, corners aligned: (full, coarse) float64.

    They are made on the device: a copy from the host would make it wait at every training step.
    """
    positions = torch.arange(full, dtype=torch.float64, device=device) * ((coarse - 1) / max(full - 1, 1))
    neighbours = torch.arange(coarse, dtype=torch.float64, device=device)
    return (1 - (positions[:, None] - neighbours).abs()).clamp_min(0)
