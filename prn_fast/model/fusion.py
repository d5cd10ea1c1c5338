"""Multi-scale fusion as a module: the weights of the operation in `prn_fast.kernels.multi_scale_fusion`."""

import math

from torch import Tensor, nn

from prn_fast.kernels import Ops
from prn_fast.kernels.multi_scale_fusion.reference import FusionWeights, Maps, Projection


def down_convolution(source: int, target: int, stride: int) -> nn.Conv2d:
    """Grouped convolution, 3x3 at stride 2 or 5x5 at stride 4.

    One group a source channel where that divides the target's channels, as in the paper's backbones; otherwise as
    many groups as both allow.
    """
    kernel = 2 * (stride // 2) + 1
    return nn.Conv2d(source, target, kernel, stride, kernel // 2, groups=math.gcd(source, target))


class MultiScaleFusion(nn.Module):
    """Each scale plus the two others, resampled and projected."""

    def __init__(self, channels: tuple[int, int, int], ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        first, second, third = channels
        self.from2_to1 = nn.Conv2d(second, first, 1)
        self.from3_to1 = nn.Conv2d(third, first, 1)
        self.from1_to2 = down_convolution(first, second, 2)
        self.from3_to2 = nn.Conv2d(third, second, 1)
        self.from1_to3 = down_convolution(first, third, 4)
        self.from2_to3 = down_convolution(second, third, 2)

    def forward(self, x1: Maps, x2: Maps, x3: Maps) -> tuple[Tensor, Tensor, Tensor]:
        """Three maps (B, C_s, h_s, w_s) to three maps of the same shapes; several of each side by side in channels."""
        convolutions = [getattr(self, name) for name in FusionWeights._fields]
        weights = FusionWeights(*(Projection(conv.weight, conv.bias) for conv in convolutions))
        return self.ops.multi_scale_fusion(x1, x2, x3, weights)
