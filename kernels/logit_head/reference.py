"""The end of the decoder: from its last map to one logit per pixel.

    logits = convolution_2(relu(convolution_1(upsample(x, factor)) + bias_1)) + bias_2

Both convolutions are 3x3 and pad with zeros; upsampling is bilinear with aligned corners. Source: Zhang et al.,
CVPR 2023. A batch norm is folded into the first convolution by then (`prn_fast.model.engine_graph`).
"""

import torch
from torch import Tensor
from torch.nn import functional

from prn_fast.kernels.multi_scale_fusion.reference import upsample

KERNEL = 3
TAPS = KERNEL * KERNEL


def logit_head(maps: Tensor, weight: Tensor, bias: Tensor, out_weight: Tensor, out_bias: Tensor, factor: int) -> Tensor:
    """Upsample maps, convolve, clamp, and convolve to logits.

    Args:
        maps: (B, C, h, w), floating point.
        weight, bias: (C', C, 3, 3) and (C',).
        out_weight, out_bias: (1, C', 3, 3) and (1,).
        factor: of the upsampling.
    Returns:
        (B, 1, factor h, factor w), same dtype.
    """
    hidden = torch.relu(functional.conv2d(upsample(maps, factor), weight, bias, padding=KERNEL // 2))
    return functional.conv2d(hidden, out_weight, out_bias, padding=KERNEL // 2)
