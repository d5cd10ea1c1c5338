"""Multi-size attention with no more arithmetic than the function needs.

With q = s_q x + b_q and k = s_k x + b_k, the product q_i . k_j is, up to terms that do not depend on j and so cancel
in the softmax over j,

    q_i . k_j  ~  sum_d (w_d x_id + u_d) x_jd      with w = s_q s_k, u = b_q s_k

so that one projection is left (`fold_query_key`), and the key is the token itself. The rows of A sum to one, so
A (s_v x + b_v) = s_v (A x) + b_v: the value's scale and bias are applied to the folded map.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from prn_fast.kernels.multi_size_attention.reference import patchify, unpatchify


def fold_query_key(query_key: Tensor) -> Tensor:
    """The projection (2, C, h, w), w and u, that a query and a key (4, C, h, w) come to; a folded one is returned."""
    return query_key if len(query_key) == 2 else query_key[:2] * query_key[2]


def multi_size_attention(
    maps: Tensor, grids: Sequence[int], query_key: Sequence[Tensor], value: Sequence[Tensor]
) -> Tensor:
    """The function that `reference.multi_size_attention` defines; `query_key` may be folded already."""
    channels, height, width = maps.shape[1:]
    # Parameters stay in float32 under autocasting; mixed with them, a half-precision map would become float32 again.
    query_key = [parameters.to(maps.dtype) for parameters in query_key]
    value = [parameters.to(maps.dtype) for parameters in value]
    outputs = []
    remaining_query_key = iter(query_key)
    for grid, (value_scale, value_bias) in zip(grids, value, strict=True):
        mixed = maps
        if grid > 1:
            scale, bias = fold_query_key(next(remaining_query_key))
            tokens = patchify(maps, grid)
            size = tokens.shape[2]
            query = tokens * (scale / size).reshape(size) + (bias / size).reshape(size)
            attention = torch.softmax(query @ tokens.transpose(1, 2), dim=-1)
            mixed = unpatchify(attention @ tokens, grid, channels, height, width)
        outputs.append(mixed * value_scale.repeat(1, grid, grid) + value_bias.repeat(1, grid, grid))
    return torch.cat(outputs, dim=1)


def multi_size_attention_backward(
    gradient: Tensor, maps: Tensor, grids: Sequence[int], query_key: Sequence[Tensor], value: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Gradients of `multi_size_attention`, by the formulas of `gradient.py`.

    Args:
        gradient: of its result, (B, len(grids) * C, H, W), in the map's dtype.
        maps, grids, query_key, value: as there.
    Returns:
        Gradients of the map, of `query_key` and of `value`, in the map's dtype.
    """
    channels, height, width = maps.shape[1:]
    query_key = [parameters.to(maps.dtype) for parameters in query_key]
    value = [parameters.to(maps.dtype) for parameters in value]
    grad_maps = torch.zeros_like(maps)
    grad_query_key, grad_value = [], []
    remaining_query_key = iter(query_key)
    for grid, (value_scale, _), upstream in zip(grids, value, gradient.split(channels, dim=1), strict=True):
        tokens, upstream_tokens = patchify(maps, grid), patchify(upstream, grid)
        size = tokens.shape[2]
        scaled = upstream_tokens * value_scale.reshape(size)
        if grid == 1:
            mixed, grad_tokens = tokens, scaled
        else:
            parameters = next(remaining_query_key)
            scale, bias = (one.reshape(size) for one in fold_query_key(parameters))
            query = tokens * (scale / size) + bias / size
            attention = torch.softmax(query @ tokens.transpose(1, 2), dim=-1)
            mixed = attention @ tokens
            grad_attention = scaled @ tokens.transpose(1, 2)
            grad_logits = attention * (grad_attention - (attention * grad_attention).sum(-1, keepdim=True)) / size
            columns = grad_logits.sum(1).unsqueeze(2)
            crossed = (grad_logits + grad_logits.transpose(1, 2)) @ tokens
            grad_tokens = attention.transpose(1, 2) @ scaled + scale * crossed + bias * columns
            grad_fold = torch.stack([(tokens * crossed).sum((0, 1)) / 2, (columns * tokens).sum((0, 1))])
            grad_query_key.append(fold_query_key_backward(grad_fold.reshape(2, *parameters.shape[1:]), parameters))
        grad_maps += unpatchify(grad_tokens, grid, channels, height, width)
        grad_scale = (upstream_tokens * mixed).sum((0, 1))
        grad_value.append(torch.stack([grad_scale, upstream_tokens.sum((0, 1))]).reshape(2, *value_scale.shape))
    return grad_maps, grad_query_key, grad_value


def fold_query_key_backward(gradient: Tensor, query_key: Tensor) -> Tensor:
    """Gradient of the argument of `fold_query_key`; the key's bias has none."""
    if len(query_key) == 2:
        return gradient
    query, key_scale = query_key[:2], query_key[2]
    grad_key_scale = (gradient * query).sum(0)
    return torch.cat([gradient * key_scale, grad_key_scale[None], torch.zeros_like(grad_key_scale)[None]])
