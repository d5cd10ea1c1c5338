"""Attention between the patches of one map, for several patch sizes at once.

`multi_size_attention` is the operation that a compiled or exported graph keeps: lean PyTorch on the CPU, Triton on a
GPU. Grids that the kernels do not take (`fused.supports`) run lean PyTorch on a GPU too. The backward is lean PyTorch,
computed again from the inputs: nothing but the inputs is kept for it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prn_fast.kernels.launch import memory_format_of
from prn_fast.kernels.multi_size_attention import lean


def _lean(maps: Tensor, grids: Sequence[int], query_key: Sequence[Tensor], value: Sequence[Tensor]) -> Tensor:
    # Products of half-precision tokens are summed in float32, as the kernels do.
    wide = torch.promote_types(maps.dtype, torch.float32)
    output = lean.multi_size_attention(maps.to(wide), grids, query_key, value)
    return output.to(maps.dtype).contiguous(memory_format=memory_format_of(maps))


@torch.library.custom_op("prn_fast::multi_size_attention", mutates_args=())
def multi_size_attention(
    maps: Tensor, grids: Sequence[int], query_key: Sequence[Tensor], value: Sequence[Tensor]
) -> Tensor:
    """The function that `lean.multi_size_attention` defines; the result has the map's layout.

    Weights may have another dtype than the map.
    """
    return _lean(maps, grids, query_key, value)


@multi_size_attention.register_kernel("cuda")
def _(maps: Tensor, grids: Sequence[int], query_key: Sequence[Tensor], value: Sequence[Tensor]) -> Tensor:
    from prn_fast.kernels.multi_size_attention import fused

    if not fused.supports(grids):
        return _lean(maps, grids, query_key, value)
    return fused.multi_size_attention(maps, grids, query_key, value)


@multi_size_attention.register_fake
def _(maps: Tensor, grids: Sequence[int], query_key: Sequence[Tensor], value: Sequence[Tensor]) -> Tensor:
    batch, channels, height, width = maps.shape
    output = maps.new_empty(batch, len(grids) * channels, height, width)
    return output.contiguous(memory_format=memory_format_of(maps))


def _save(ctx: Any, inputs: tuple[Tensor, list[int], list[Tensor], list[Tensor]], output: Tensor) -> None:
    maps, ctx.grids, query_key, value = inputs
    ctx.save_for_backward(maps, *query_key, *value)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, list[Tensor], list[Tensor]]:
    with torch.enable_grad():
        maps, *weights = [one.detach().requires_grad_() for one in ctx.saved_tensors]
        count = len(weights) - len(ctx.grids)
        output = _lean(maps, ctx.grids, weights[:count], weights[count:])
        grad_maps, *grad_weights = torch.autograd.grad(output, [maps, *weights], gradient, materialize_grads=True)
    return grad_maps, None, grad_weights[:count], grad_weights[count:]


multi_size_attention.register_autograd(_backward, setup_context=_save)
