"""Attention between the patches of one map, for several patch sizes at once.

`multi_size_attention` is the operation that a compiled or exported graph keeps: optimized PyTorch on the CPU, Triton on
a GPU. Its backward is an operation of its own, in the same way: only the inputs are kept for it, and logits and
attention are computed again. Grids and dtypes that the kernels do not take run optimized PyTorch on a GPU too.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prn_fast.kernels.launch import has_kernels, memory_format_of
from prn_fast.kernels.multi_size_attention import optimized
from prn_fast.kernels.multi_size_attention.geometry import supports


def _optimized(maps: Tensor, grids: Sequence[int], query_key: Sequence[Tensor], value: Sequence[Tensor]) -> Tensor:
    # Products of half-precision tokens are summed in float32, as the kernels do.
    wide = torch.promote_types(maps.dtype, torch.float32)
    output = optimized.multi_size_attention(maps.to(wide), grids, query_key, value)
    return output.to(maps.dtype).contiguous(memory_format=memory_format_of(maps))


@torch.library.custom_op("prn_fast::multi_size_attention", mutates_args=())
def multi_size_attention(
    maps: Tensor, grids: Sequence[int], query_key: Sequence[Tensor], value: Sequence[Tensor]
) -> Tensor:
    """The function that `optimized.multi_size_attention` defines; the result has the map's layout.

    Weights may have another dtype than the map.
    """
    return _optimized(maps, grids, query_key, value)


@multi_size_attention.register_kernel("cuda")
def _(maps: Tensor, grids: Sequence[int], query_key: Sequence[Tensor], value: Sequence[Tensor]) -> Tensor:
    from prn_fast.kernels.multi_size_attention import fused

    taken = supports(grids) and has_kernels(maps.dtype)
    return (fused.multi_size_attention if taken else _optimized)(maps, grids, query_key, value)


@multi_size_attention.register_fake
def _(maps: Tensor, grids: Sequence[int], query_key: Sequence[Tensor], value: Sequence[Tensor]) -> Tensor:
    batch, channels, height, width = maps.shape
    output = maps.new_empty(batch, len(grids) * channels, height, width)
    return output.contiguous(memory_format=memory_format_of(maps))


def _optimized_backward(
    gradient: Tensor, maps: Tensor, grids: Sequence[int], query_key: Sequence[Tensor], value: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    wide = torch.promote_types(maps.dtype, torch.float32)
    return optimized.multi_size_attention_backward(gradient.to(wide), maps.to(wide), grids, query_key, value)


def _like_inputs(
    gradients: tuple[Tensor, list[Tensor], list[Tensor]], maps: Tensor, weights: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Gradients in the dtype of what they are for, the map's in its layout; no two share memory, as PyTorch asks."""
    grad_maps, grad_query_key, grad_value = gradients
    dtypes = iter([one.dtype for one in weights])

    def copied(one: Tensor) -> Tensor:
        return torch.empty(one.shape, dtype=next(dtypes), device=one.device).copy_(one)

    return (
        grad_maps.to(maps.dtype).contiguous(memory_format=memory_format_of(maps)),
        [copied(one) for one in grad_query_key],
        [copied(one) for one in grad_value],
    )


@torch.library.custom_op("prn_fast::multi_size_attention_backward", mutates_args=())
def multi_size_attention_backward(
    gradient: Tensor, maps: Tensor, grids: Sequence[int], query_key: Sequence[Tensor], value: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Gradients of `multi_size_attention` for the map, `query_key` and `value`, each in the dtype of its input."""
    return _like_inputs(_optimized_backward(gradient, maps, grids, query_key, value), maps, [*query_key, *value])


@multi_size_attention_backward.register_kernel("cuda")
def _(
    gradient: Tensor, maps: Tensor, grids: Sequence[int], query_key: Sequence[Tensor], value: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    from prn_fast.kernels.multi_size_attention import gradient as fused_gradient

    taken = supports(grids) and has_kernels(maps.dtype)
    backward = fused_gradient.multi_size_attention_backward if taken else _optimized_backward
    return _like_inputs(backward(gradient, maps, grids, query_key, value), maps, [*query_key, *value])


@multi_size_attention_backward.register_fake
def _(
    gradient: Tensor, maps: Tensor, grids: Sequence[int], query_key: Sequence[Tensor], value: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    return (
        torch.empty_like(maps, memory_format=memory_format_of(maps)),
        [torch.empty_like(one, memory_format=torch.contiguous_format) for one in query_key],
        [torch.empty_like(one, memory_format=torch.contiguous_format) for one in value],
    )


def _save(ctx: Any, inputs: tuple[Tensor, list[int], list[Tensor], list[Tensor]], output: Tensor) -> None:
    maps, ctx.grids, query_key, value = inputs
    ctx.save_for_backward(maps, *query_key, *value)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, list[Tensor], list[Tensor]]:
    maps, *weights = ctx.saved_tensors
    count = len(weights) - len(ctx.grids)
    grad_maps, grad_query_key, grad_value = multi_size_attention_backward(
        gradient, maps, ctx.grids, weights[:count], weights[count:]
    )
    return grad_maps, None, grad_query_key, grad_value


multi_size_attention.register_autograd(_backward, setup_context=_save)
