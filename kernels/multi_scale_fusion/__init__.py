"""Each scale plus the resampled, projected maps of the two others.

`multi_scale_fusion` leaves the convolutions to PyTorch, on the maps before they are upsampled, and all that follows at
the size of a target scale to one operation, `upsample_add`: lean PyTorch on the CPU, Triton on a GPU. Its backward is
PyTorch's own upsampling backward.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from prn_fast.kernels.launch import memory_format_of
from prn_fast.kernels.multi_scale_fusion import lean
from prn_fast.kernels.multi_scale_fusion.reference import FusionWeights, Projection, down


@torch.library.custom_op("prn_fast::upsample_add", mutates_args=())
def upsample_add(full: Sequence[Tensor], coarse: Sequence[Tensor]) -> Tensor:
    """The function that `lean.upsample_add` defines, for one or more coarse maps; the layout is the first map's."""
    output = lean.upsample_add(full, coarse)
    return output.contiguous(memory_format=memory_format_of(full[0]))


@upsample_add.register_kernel("cuda")
def _(full: Sequence[Tensor], coarse: Sequence[Tensor]) -> Tensor:
    from prn_fast.kernels.multi_scale_fusion import fused

    return fused.upsample_add(full, coarse)


@upsample_add.register_fake
def _(full: Sequence[Tensor], coarse: Sequence[Tensor]) -> Tensor:
    return torch.empty_like(full[0], memory_format=memory_format_of(full[0]))


def _save(ctx: Any, inputs: tuple[list[Tensor], list[Tensor]], output: Tensor) -> None:
    full, coarse = inputs
    ctx.full = len(full)
    ctx.save_for_backward(*coarse)


def _backward(ctx: Any, gradient: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    with torch.enable_grad():
        coarse = [one.detach().requires_grad_() for one in ctx.saved_tensors]
        upsampled = lean.upsample_add([torch.zeros_like(gradient)], coarse)
        return [gradient] * ctx.full, list(torch.autograd.grad(upsampled, coarse, gradient))


upsample_add.register_autograd(_backward, setup_context=_save)


def multi_scale_fusion(x1: Tensor, x2: Tensor, x3: Tensor, weights: FusionWeights) -> tuple[Tensor, Tensor, Tensor]:
    """The function that `reference.multi_scale_fusion` defines; same arguments and result."""

    def project(maps: Tensor, projection: Projection) -> Tensor:
        # Under autocasting a convolution returns another dtype than the map it is added to.
        return functional.conv2d(maps, projection.weight, projection.bias).to(maps.dtype)

    out1 = upsample_add([x1], [project(x2, weights.from2_to1), project(x3, weights.from3_to1)])
    down1 = down(x1, weights.from1_to2, 2).to(x2.dtype)
    out2 = upsample_add([x2, down1], [project(x3, weights.from3_to2)])
    out3 = x3 + down(x1, weights.from1_to3, 4) + down(x2, weights.from2_to3, 2)
    return out1, out2, out3
