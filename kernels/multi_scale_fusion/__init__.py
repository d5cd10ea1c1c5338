"""Each scale plus the resampled, projected maps of the two others.

`multi_scale_fusion` leaves the strided convolutions to PyTorch. All that goes up to a target scale, projections
included, is one operation, `project_upsample_add`: lean PyTorch on the CPU, Triton on a GPU. Its backward is matrix
products at the coarse sizes, in PyTorch on both.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from prn_fast.kernels.launch import memory_format_of
from prn_fast.kernels.multi_scale_fusion import lean
from prn_fast.kernels.multi_scale_fusion.reference import FusionWeights, down


@torch.library.custom_op("prn_fast::project_upsample_add", mutates_args=())
def project_upsample_add(
    full: Sequence[Tensor], coarse: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> Tensor:
    """The function that `lean.project_upsample_add` defines, for one or more coarse maps; layout of the first map."""
    # Under autocasting a convolution returns another dtype than the map it is added to.
    output = lean.project_upsample_add(full, coarse, weights, biases).to(full[0].dtype)
    return output.contiguous(memory_format=memory_format_of(full[0]))


@project_upsample_add.register_kernel("cuda")
def _(full: Sequence[Tensor], coarse: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    from prn_fast.kernels.multi_scale_fusion import fused

    return fused.project_upsample_add(full, coarse, weights, biases)


@project_upsample_add.register_fake
def _(full: Sequence[Tensor], coarse: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    return torch.empty_like(full[0], memory_format=memory_format_of(full[0]))


def _save(ctx: Any, inputs: tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]], output: Tensor) -> None:
    full, coarse, weights, biases = inputs
    ctx.full = len(full)
    ctx.bias_dtypes = [bias.dtype for bias in biases]
    ctx.save_for_backward(*coarse, *weights)


def _backward(ctx: Any, gradient: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    count = len(ctx.bias_dtypes)
    coarse, weights = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
    grad_coarse, grad_weights, grad_bias = lean.project_upsample_add_backward(gradient, coarse, weights)
    return [gradient] * ctx.full, grad_coarse, grad_weights, [grad_bias.to(dtype) for dtype in ctx.bias_dtypes]


project_upsample_add.register_autograd(_backward, setup_context=_save)


def multi_scale_fusion(
    x1: Tensor,
    x2: Tensor,
    x3: Tensor,
    weights: FusionWeights,
    raise_to: Callable[..., Tensor] = project_upsample_add,
) -> tuple[Tensor, Tensor, Tensor]:
    """The function that `reference.multi_scale_fusion` defines; `raise_to` is a formulation of its one operation."""
    to1, to2 = (weights.from2_to1, weights.from3_to1), weights.from3_to2
    out1 = raise_to([x1], [x2, x3], [one.weight for one in to1], [one.bias for one in to1])
    # Under autocasting a convolution returns another dtype than the map it is added to.
    down2 = down(x1, weights.from1_to2, 2).to(x2.dtype)
    out2 = raise_to([x2, down2], [x3], [to2.weight], [to2.bias])
    out3 = x3 + down(x1, weights.from1_to3, 4) + down(x2, weights.from2_to3, 2)
    return out1, out2, out3
