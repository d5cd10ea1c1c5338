"""Multi-scale fusion with the 1x1 convolution before the upsampling.

Bilinear weights sum to one, so the two commute exactly, bias included: 4 to 16 times less arithmetic.
"""

from torch import Tensor
from torch.nn import functional

from prn_fast.kernels.multi_scale_fusion.reference import FusionWeights, Projection, fuse, upsample


def project_then_upsample(maps: Tensor, projection: Projection, factor: int) -> Tensor:
    """Project, then upsample."""
    return upsample(functional.conv2d(maps, projection.weight, projection.bias), factor)


def multi_scale_fusion(x1: Tensor, x2: Tensor, x3: Tensor, weights: FusionWeights) -> tuple[Tensor, Tensor, Tensor]:
    """The function that `reference.multi_scale_fusion` defines; same arguments and result."""
    return fuse(x1, x2, x3, weights, project_then_upsample)
