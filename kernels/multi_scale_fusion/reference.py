"""Multi-scale fusion, the published formulation.

    out_1 = x_1 + up2(x_2) + up4(x_3)
    out_2 = x_2 + down2(x_1) + up2(x_3)
    out_3 = x_3 + down4(x_1) + down2(x_2)

up = bilinear (align_corners) then 1x1 convolution; down = convolution with one group a source channel, 3x3 stride 2
or 5x5 stride 4. Source: PRN.md, step 3.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional


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


def multi_scale_fusion(x1: Tensor, x2: Tensor, x3: Tensor, weights: FusionWeights) -> tuple[Tensor, Tensor, Tensor]:
    """Fuse three maps.

    Args:
        x1: (B, C1, h, w); x2: (B, C2, h/2, w/2); x3: (B, C3, h/4, w/4), floating point.
        weights: the six convolutions.
    Returns:
        Three maps of the shapes of x1, x2 and x3.
    """
    return fuse(x1, x2, x3, weights, upsample_then_project)
