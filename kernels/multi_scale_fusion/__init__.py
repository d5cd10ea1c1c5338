"""Each scale plus the resampled, projected maps of the two others.

Everything that is added at a target scale is one operation, `fuse_scale`: optimized PyTorch on the CPU, Triton on a
GPU. Training runs the part that is projected and upsampled on its own (`project_upsample_add`) and leaves the strided
convolutions to PyTorch; its backward is matrix products at the coarse sizes, in PyTorch on both.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from prn_fast.kernels.launch import has_kernels, memory_format_of
from prn_fast.kernels.multi_scale_fusion import optimized
from prn_fast.kernels.multi_scale_fusion.reference import FusionWeights, Maps, Maps3, Projection, down, set_by_set


def _optimized(
    full: Sequence[Tensor], coarse: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> Tensor:
    # Under autocasting a convolution returns another dtype than the map it is added to.
    output = optimized.project_upsample_add(full, coarse, weights, biases).to(full[0].dtype)
    return output.contiguous(memory_format=memory_format_of(full[0]))


@torch.library.custom_op("prn_fast::project_upsample_add", mutates_args=())
def project_upsample_add(
    full: Sequence[Tensor], coarse: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> Tensor:
    """What `optimized.project_upsample_add` defines, for one or more coarse maps; the first map's layout."""
    return _optimized(full, coarse, weights, biases)


@project_upsample_add.register_kernel("cuda")
def _(full: Sequence[Tensor], coarse: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    from prn_fast.kernels.multi_scale_fusion import fused

    formulation = fused.project_upsample_add if has_kernels(full[0].dtype) else _optimized
    return formulation(full, coarse, weights, biases)


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
    grad_coarse, grad_weights, grad_bias = optimized.project_upsample_add_backward(gradient, coarse, weights)
    return [gradient] * ctx.full, grad_coarse, grad_weights, [grad_bias.to(dtype) for dtype in ctx.bias_dtypes]


project_upsample_add.register_autograd(_backward, setup_context=_save)


@torch.library.custom_op("prn_fast::fuse_scale", mutates_args=())
def fuse_scale(
    full: Sequence[Tensor],
    coarse: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    fine: Sequence[Tensor],
    fine_weights: Sequence[Tensor],
    fine_biases: Sequence[Tensor],
    strides: Sequence[int],
    sets: int,
) -> Tensor:
    """What `optimized.fuse_scale` defines; the first map's layout. It has no backward."""
    out = optimized.fuse_scale(full, coarse, weights, biases, fine, fine_weights, fine_biases, strides, sets)
    return out.contiguous(memory_format=memory_format_of(full[0]))


@fuse_scale.register_kernel("cuda")
def _(
    full: Sequence[Tensor],
    coarse: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    fine: Sequence[Tensor],
    fine_weights: Sequence[Tensor],
    fine_biases: Sequence[Tensor],
    strides: Sequence[int],
    sets: int,
) -> Tensor:
    from prn_fast.kernels.multi_scale_fusion import fused

    formulation = fused.fuse_scale if has_kernels(full[0].dtype) else optimized.fuse_scale
    out = formulation(full, coarse, weights, biases, fine, fine_weights, fine_biases, strides, sets)
    return out.contiguous(memory_format=memory_format_of(full[0]))


@fuse_scale.register_fake
def _(
    full: Sequence[Tensor],
    coarse: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    fine: Sequence[Tensor],
    fine_weights: Sequence[Tensor],
    fine_biases: Sequence[Tensor],
    strides: Sequence[int],
    sets: int,
) -> Tensor:
    batch, channels, height, width = full[0].shape
    out = full[0].new_empty(batch, sets * channels, height, width)
    return out.contiguous(memory_format=memory_format_of(full[0]))


RaiseTo = Callable[..., Tensor]


def with_raise_to(x1: Maps, x2: Maps, x3: Maps, weights: FusionWeights, raise_to: RaiseTo) -> Maps3:
    """The function that `reference.multi_scale_fusion` defines around a formulation of `project_upsample_add`."""
    return set_by_set(_raised, x1, x2, x3, weights, raise_to)


def _raised(x1: Tensor, x2: Tensor, x3: Tensor, weights: FusionWeights, raise_to: RaiseTo) -> Maps3:
    to1, to2 = (weights.from2_to1, weights.from3_to1), weights.from3_to2
    out1 = raise_to([x1], [x2, x3], [one.weight for one in to1], [one.bias for one in to1])
    # Under autocasting a convolution returns another dtype than the map it is added to.
    down2 = down(x1, weights.from1_to2, 2).to(x2.dtype)
    out2 = raise_to([x2, down2], [x3], [to2.weight], [to2.bias])
    out3 = x3 + down(x1, weights.from1_to3, 4) + down(x2, weights.from2_to3, 2)
    return out1, out2, out3


def multi_scale_fusion(x1: Maps, x2: Maps, x3: Maps, weights: FusionWeights) -> Maps3:
    """The function that `reference.multi_scale_fusion` defines: one kernel for each scale, or, for a
    gradient, one for what is upsampled and PyTorch's strided convolutions."""
    maps = [[one] if isinstance(one, Tensor) else list(one) for one in (x1, x2, x3)]
    tensors = [one for group in (*maps, *weights) for one in group]
    if torch.is_grad_enabled() and any(one.requires_grad for one in tensors):
        return with_raise_to(x1, x2, x3, weights, project_upsample_add)

    sets = range(len(maps[0]))

    def scale(target: int, coarse: dict[int, Projection], fine: dict[int, Projection]) -> Tensor:
        return fuse_scale(
            maps[target],
            [maps[source][which] for which in sets for source in coarse],
            [one.weight for one in coarse.values()],
            [one.bias for one in coarse.values()],
            [maps[source][which] for which in sets for source in fine],
            [one.weight for one in fine.values()],
            [one.bias for one in fine.values()],
            [2 ** (target - source) for source in fine],
            len(sets),
        )

    return (
        scale(0, {1: weights.from2_to1, 2: weights.from3_to1}, {}),
        scale(1, {2: weights.from3_to2}, {0: weights.from1_to2}),
        scale(2, {}, {0: weights.from1_to3, 1: weights.from2_to3}),
    )
