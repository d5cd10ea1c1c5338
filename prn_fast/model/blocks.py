"""The step that all blocks of the network repeat: convolution, batch norm, what is added, ReLU."""

import torch
from torch import Tensor, nn

from prn_fast.kernels import Ops


def activated(
    ops: Ops, convolution: nn.Conv2d, norm: nn.Module, maps: Tensor, residual: Tensor | None = None
) -> Tensor:
    """relu(norm(convolution(maps)) + residual); one operation where the norm is folded into the convolution."""
    if isinstance(norm, nn.Identity):
        stride, padding = convolution.stride[0], convolution.padding[0]
        assert isinstance(padding, int)
        return ops.convolution_relu(maps, convolution.weight, convolution.bias, stride, padding, residual)
    out = norm(convolution(maps))
    return torch.relu(out if residual is None else out + residual)
