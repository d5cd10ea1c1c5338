"""Multi-scale fusion, the published formulation.

    out_1 = x_1 + up2(x_2) + up4(x_3)
    out_2 = x_2 + down2(x_1) + up2(x_3)
    out_3 = x_3 + down4(x_1) + down2(x_2)

up = bilinear (align_corners) then 1x1 convolution; down = convolution with one group for each source channel, 3x3
stride 2 or 5x5 stride 4. Source: Zhang et al., CVPR 2023.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Maps = Tensor | Sequence[Tensor]
Maps3 = tuple[Tensor, Tensor, Tensor]


class Projection(NamedTuple):
    """Weight and bias of one convolution."""

    weight: Tensor
    bias: Tensor


class FusionWeights(NamedTuple):
    """The six convolutions; `from2_to1` takes scale 2 to scale 1. C_s: channels of scale s."""

    from2_to1: Projection  # (C1, C2, 1, 1)
    from3_to1: Projection  # (C1, C3, 1, 1)
    from1_to2: Projection  # (C2, C2 / groups, 3, 3)
    from3_to2: Projection  # (C2, C3, 1, 1)
    from1_to3: Projection  # (C3, C3 / groups, 5, 5)
    from2_to3: Projection  # (C3, C3 / groups, 3, 3)


def upsample(maps: Tensor, factor: int) -> Tensor:
    """Bilinear upsampling with aligned corners, as everywhere in PRN."""
    return functional.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=True)


def upsample_then_project(maps: Tensor, projection: Projection, factor: int) -> Tensor:
    """Upsample, then project."""
    return functional.conv2d(upsample(maps, factor), projection.weight, projection.bias)


def down(maps: Tensor, projection: Projection, stride: int) -> Tensor:
    """Strided grouped convolution; the number of groups follows from the weight's shape."""
    groups = maps.shape[1] // projection.weight.shape[1]
    padding = projection.weight.shape[2] // 2
    return functional.conv2d(maps, projection.weight, projection.bias, stride=stride, padding=padding, groups=groups)


def fuse(
    x1: Tensor, x2: Tensor, x3: Tensor, weights: FusionWeights, up: Callable[[Tensor, Projection, int], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The three sums, with a given way of projecting and upsampling."""
    out1 = x1 + up(x2, weights.from2_to1, 2) + up(x3, weights.from3_to1, 4)
    out2 = x2 + down(x1, weights.from1_to2, 2) + up(x3, weights.from3_to2, 2)
    out3 = x3 + down(x1, weights.from1_to3, 4) + down(x2, weights.from2_to3, 2)
    return out1, out2, out3


def set_by_set(fusion: Callable[..., Maps3], x1: Maps, x2: Maps, x3: Maps, *rest: object) -> Maps3:
    """A fusion of one set of maps, for several: their results side by side in the channels."""
    if isinstance(x1, Tensor):
        return fusion(x1, x2, x3, *rest)
    each = [fusion(*maps, *rest) for maps in zip(x1, x2, x3, strict=True)]
    out1, out2, out3 = (torch.cat(results, dim=1) for results in zip(*each, strict=True))
    return out1, out2, out3


def multi_scale_fusion(x1: Maps, x2: Maps, x3: Maps, weights: FusionWeights) -> Maps3:
    """Fuse three maps, or several sets of three with the same weights.

    Args:
        x1: (B, C1, h, w); x2: (B, C2, h/2, w/2); x3: (B, C3, h/4, w/4), floating point; or of each as many as there are
            sets.
        weights: the six convolutions.
    Returns:
        Three maps of the shapes of x1, x2 and x3; of several sets, the results side by side in the channels.
    """
    return set_by_set(fuse, x1, x2, x3, weights, upsample_then_project)
