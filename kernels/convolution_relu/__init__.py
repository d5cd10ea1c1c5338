"""A convolution with bias, residual and ReLU, as an engine runs it: without a separate pass over the map for each.

`convolution_relu` is the operation that a compiled or exported graph keeps: plain PyTorch on the CPU; on a GPU one
kernel, of cuDNN or Triton, or a convolution and one kernel after it (see `choice`). It has no backward: training needs
the batch norm that is folded here.
"""

import torch
from torch import Tensor

from prn_fast.kernels.convolution_relu import choice, reference
from prn_fast.kernels.launch import has_kernels, memory_format_of


def _plain(
    maps: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, residual: Tensor | None
) -> Tensor:
    out = reference.convolution_relu(maps, weight, bias, stride, padding, residual)
    return out.contiguous(memory_format=memory_format_of(maps))


@torch.library.custom_op("prn_fast::convolution_relu", mutates_args=())
def convolution_relu(
    maps: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, residual: Tensor | None = None
) -> Tensor:
    """The function that `reference.convolution_relu` defines; the result has the map's layout."""
    return _plain(maps, weight, bias, stride, padding, residual)


@convolution_relu.register_kernel("cuda")
def _(
    maps: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, residual: Tensor | None = None
) -> Tensor:
    compute = choice.convolution_relu if has_kernels(maps.dtype) else _plain
    return compute(maps, weight, bias, stride, padding, residual)


@convolution_relu.register_fake
def _(
    maps: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, residual: Tensor | None = None
) -> Tensor:
    height, width = (reference.side_of_result(side, weight.shape[2], stride, padding) for side in maps.shape[2:])
    out = maps.new_empty(maps.shape[0], weight.shape[0], height, width)
    return out.contiguous(memory_format=memory_format_of(maps))
