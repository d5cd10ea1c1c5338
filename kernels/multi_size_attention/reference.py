"""Multi-size attention, the published formulation.

A map X (B, C, H, W) is cut into a grid of g x g patches, each flattened channel-major to a token of
D = C (H/g) (W/g) values. Query, key and value are a scale and a bias for each of the D values, and

    A = softmax(q k^T / D)   over the g^2 tokens (1/D, not 1/sqrt(D))
    out_g = A v              folded back to a map

The maps of all grids are concatenated along the channels. Source: Zhang et al., CVPR 2023. The public implementation
writes the projection as a 1x1 convolution with D groups, and so does this file.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def patchify(maps: Tensor, grid: int) -> Tensor:
    """Cut maps (B, C, H, W) into tokens (B, grid^2, C * H/grid * W/grid), channel-major."""
    batch, channels, height, width = maps.shape
    patches = maps.reshape(batch, channels, grid, height // grid, grid, width // grid)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, grid * grid, -1)


def unpatchify(tokens: Tensor, grid: int, channels: int, height: int, width: int) -> Tensor:
    """Fold tokens (B, grid^2, D) back into maps (B, C, H, W): the inverse of `patchify`."""
    patches = tokens.reshape(-1, grid, grid, channels, height // grid, width // grid)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, height, width)


def project(tokens: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Scale and bias for each of the D values of a token, stated as a 1x1 convolution with D groups."""
    size = scale.numel()
    columns = tokens.permute(0, 2, 1).contiguous()
    projected = functional.conv1d(columns, scale.reshape(size, 1, 1), bias.reshape(size), groups=size)
    return projected.permute(0, 2, 1)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """softmax(query key^T * scale) value, for tokens (B, L, D)."""
    logits = torch.einsum("ble,bse->bls", query, key) * scale
    return torch.einsum("bls,bsd->bld", torch.softmax(logits, dim=-1), value)


def multi_size_attention(
    maps: Tensor, grids: Sequence[int], query_key: Sequence[Tensor], value: Sequence[Tensor]
) -> Tensor:
    """Attention between the patches of a map, for each grid; results concatenated.

    Args:
        maps: (B, C, H, W), floating point; every grid divides H and W.
        grids: patches along a side, one entry for each output, such as (1, 2, 4, 8).
        query_key: for each grid larger than one, in order: (4, C, H/g, W/g), the query's scale and bias, then
            the key's. A grid of one has a single token, which attends only to itself: no query and no key.
        value: for each grid: (2, C, H/g, W/g), scale and bias.
    Returns:
        (B, len(grids) * C, H, W), same dtype.
    """
    channels, height, width = maps.shape[1:]
    outputs = []
    remaining_query_key = iter(query_key)
    for grid, (value_scale, value_bias) in zip(grids, value, strict=True):
        tokens = patchify(maps, grid)
        values = project(tokens, value_scale, value_bias)
        if grid == 1:
            attended = values
        else:
            query_scale, query_bias, key_scale, key_bias = next(remaining_query_key)
            query = project(tokens, query_scale, query_bias)
            key = project(tokens, key_scale, key_bias)
            attended = attend(query, key, values, 1.0 / tokens.shape[2])
        outputs.append(unpatchify(attended, grid, channels, height, width))
    return torch.cat(outputs, dim=1)
