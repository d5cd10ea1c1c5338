"""Multi-scale fusion with the 1x1 convolution before the upsampling.

Bilinear weights sum to one, so the two commute exactly, bias included: 4 to 16 times less arithmetic.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from prn_fast.kernels.multi_scale_fusion.reference import FusionWeights, Projection, fuse, upsample


def project_then_upsample(maps: Tensor, projection: Projection, factor: int) -> Tensor:
    """Project, then upsample."""
    return upsample(functional.conv2d(maps, projection.weight, projection.bias), factor)


def multi_scale_fusion(x1: Tensor, x2: Tensor, x3: Tensor, weights: FusionWeights) -> tuple[Tensor, Tensor, Tensor]:
    """The function that `reference.multi_scale_fusion` defines; same arguments and result."""
    return fuse(x1, x2, x3, weights, project_then_upsample)


def upsample_add(full: Sequence[Tensor], coarse: Sequence[Tensor]) -> Tensor:
    """Sum of maps, the coarse ones upsampled to the size of the full ones.

    Args:
        full: one or more (B, C, H, W).
        coarse: (B, C, h, w) each, any smaller sizes, same dtype.
    Returns:
        (B, C, H, W).
    """
    total = sum(full[1:], start=full[0])
    for maps in coarse:
        total = total + functional.interpolate(maps, size=full[0].shape[2:], mode="bilinear", align_corners=True)
    return total
