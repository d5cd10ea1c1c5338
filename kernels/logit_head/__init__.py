"""The end of the decoder as an engine runs it: at full size it writes only the logits and their nine parts.

`logit_head` is the operation that a compiled or exported graph keeps: plain PyTorch on the CPU, Triton on a GPU. It has
no backward: training needs the batch norm that is folded here.
"""

import torch
from torch import Tensor

from prn_fast.kernels.launch import has_kernels
from prn_fast.kernels.logit_head import reference


@torch.library.custom_op("prn_fast::logit_head", mutates_args=())
def logit_head(maps: Tensor, weight: Tensor, bias: Tensor, out_weight: Tensor, out_bias: Tensor, factor: int) -> Tensor:
    """The function that `reference.logit_head` defines; the result is contiguous."""
    return reference.logit_head(maps, weight, bias, out_weight, out_bias, factor).contiguous()


@logit_head.register_kernel("cuda")
def _(maps: Tensor, weight: Tensor, bias: Tensor, out_weight: Tensor, out_bias: Tensor, factor: int) -> Tensor:
    from prn_fast.kernels.logit_head import fused

    formulation = (fused if has_kernels(maps.dtype) else reference).logit_head
    return formulation(maps, weight, bias, out_weight, out_bias, factor).contiguous()


@logit_head.register_fake
def _(maps: Tensor, weight: Tensor, bias: Tensor, out_weight: Tensor, out_bias: Tensor, factor: int) -> Tensor:
    batch, _, height, width = maps.shape
    return maps.new_empty((batch, 1, factor * height, factor * width))
