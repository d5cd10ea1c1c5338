"""A convolution, what is added to its result, and ReLU.

    relu(convolution(x) + bias + residual)

A batch norm is folded into weight and bias by then (`prn_fast.model.engine_graph`).
"""

import torch
from torch import Tensor
from torch.nn import functional


def convolution_relu(
    maps: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, residual: Tensor | None = None
) -> Tensor:
    """Convolve maps, add and clamp.

    Args:
        maps: (B, C, H, W), floating point.
        weight, bias: (C', C, k, k) and (C',).
        stride, padding: of both sides.
        residual: of the result's shape.
    Returns:
        (B, C', H', W'), no value below zero; NaN stays NaN.
    """
    out = functional.conv2d(maps, weight, bias, stride, padding)
    return torch.relu(out if residual is None else out + residual)


def side_of_result(side: int, kernel: int, stride: int, padding: int) -> int:
    """Pixels along a side of the result."""
    return (side + 2 * padding - kernel) // stride + 1
