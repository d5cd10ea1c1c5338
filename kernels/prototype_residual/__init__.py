"""Distance of a feature map to every prototype, and the squared residual to the nearest one.

`prototype_residual` is the operation that a compiled or exported graph keeps: lean PyTorch on the CPU, Triton on a GPU.
Its backward is lean PyTorch on both: the backbone is frozen, so that training never asks for it.
"""

from typing import Any

import torch
from torch import Tensor

from prn_fast.kernels.launch import memory_format_of
from prn_fast.kernels.prototype_residual import lean


@torch.library.custom_op("prn_fast::prototype_residual", mutates_args=())
def prototype_residual(features: Tensor, prototypes: Tensor) -> Tensor:
    """The function that `reference.prototype_residual` defines; the result has the features' layout."""
    # Distances of half-precision maps are summed in float32, as the kernels do.
    wide = torch.promote_types(features.dtype, torch.float32)
    residual = lean.prototype_residual(features.to(wide), prototypes.to(wide))
    return residual.to(features.dtype).contiguous(memory_format=memory_format_of(features))


@prototype_residual.register_kernel("cuda")
def _(features: Tensor, prototypes: Tensor) -> Tensor:
    from prn_fast.kernels.prototype_residual import fused

    return fused.prototype_residual(features, prototypes)


@prototype_residual.register_fake
def _(features: Tensor, prototypes: Tensor) -> Tensor:
    return torch.empty_like(features, memory_format=memory_format_of(features))


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    """Prototypes are data and get no gradient."""
    features, prototypes = ctx.saved_tensors
    with torch.enable_grad():
        leaf = features.detach().requires_grad_()
        residual = lean.prototype_residual(leaf, prototypes)
        return torch.autograd.grad(residual, leaf, gradient)[0], None


prototype_residual.register_autograd(_backward, setup_context=_save)
