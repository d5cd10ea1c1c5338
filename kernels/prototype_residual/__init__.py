"""Distance of a feature map to every prototype, and the squared residual to the nearest one.

`prototype_residual` is the operation that a compiled or exported graph keeps: optimized PyTorch on the CPU, Triton on a
GPU. Its backward is plain PyTorch on both, after choosing the nearest prototype as the forward does. Training never
runs it: the backbone is frozen.
"""

from typing import Any

import torch
from torch import Tensor

from prn_fast.kernels.launch import has_kernels, memory_format_of
from prn_fast.kernels.prototype_residual import optimized


def _optimized(features: Tensor, prototypes: Tensor) -> Tensor:
    # Distances of half-precision maps are summed in float32, as the kernels do.
    wide = torch.promote_types(features.dtype, torch.float32)
    residual = optimized.prototype_residual(features.to(wide), prototypes.to(wide))
    return residual.to(features.dtype).contiguous(memory_format=memory_format_of(features))


@torch.library.custom_op("prn_fast::prototype_residual", mutates_args=())
def prototype_residual(features: Tensor, prototypes: Tensor) -> Tensor:
    """The function that `reference.prototype_residual` defines; the result has the features' layout."""
    return _optimized(features, prototypes)


@prototype_residual.register_kernel("cuda")
def _(features: Tensor, prototypes: Tensor) -> Tensor:
    from prn_fast.kernels.prototype_residual import fused

    formulation = fused.prototype_residual if has_kernels(features.dtype) else _optimized
    return formulation(features, prototypes)


@prototype_residual.register_fake
def _(features: Tensor, prototypes: Tensor) -> Tensor:
    return torch.empty_like(features, memory_format=memory_format_of(features))


def _nearest(features: Tensor, prototypes: Tensor) -> Tensor:
    wide = torch.promote_types(features.dtype, torch.float32)
    return optimized.nearest_prototype(features.to(wide), prototypes.to(wide))


@torch.library.custom_op("prn_fast::nearest_prototype", mutates_args=())
def nearest_prototype(features: Tensor, prototypes: Tensor) -> Tensor:
    """(B,) int64: which prototype `prototype_residual` takes for each map."""
    return _nearest(features, prototypes)


@nearest_prototype.register_kernel("cuda")
def _(features: Tensor, prototypes: Tensor) -> Tensor:
    from prn_fast.kernels.prototype_residual import fused

    formulation = fused.nearest_prototype if has_kernels(features.dtype) else _nearest
    return formulation(features, prototypes)


@nearest_prototype.register_fake
def _(features: Tensor, prototypes: Tensor) -> Tensor:
    return features.new_empty(features.shape[0], dtype=torch.int64)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    """Prototypes are data and get no gradient."""
    features, prototypes = ctx.saved_tensors
    wide = torch.promote_types(features.dtype, torch.float32)
    nearest = prototypes[nearest_prototype(features, prototypes)].to(wide)
    return (2 * (features.to(wide) - nearest) * gradient).to(features.dtype), None


prototype_residual.register_autograd(_backward, setup_context=_save)
