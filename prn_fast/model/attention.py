"""Multi-size self-attention layers."""

import math

import torch
from torch import Tensor, nn

from prn_fast.kernels import Ops
from prn_fast.kernels.multi_size_attention.reference import attend, patchify, unpatchify
from prn_fast.model.blocks import activated
from prn_fast.model.config import PRNConfig


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside a 1x1 shortcut."""

    def __init__(self, inputs: int, channels: int, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        self.conv1 = nn.Conv2d(inputs, channels, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Conv2d(inputs, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H, W)."""
        out = activated(self.ops, self.conv1, self.norm1, maps)
        return activated(self.ops, self.conv2, self.norm2, out, self.shortcut(maps))


class ElementwiseAttention(nn.Module):
    """Attention whose query, key and value are a scale and a bias for each value of a token, as published.

    Starts as the identity: scale one, bias zero. (The public implementation starts each scale anywhere in -1..1,
    which scrambles the map until training has undone it.)
    """

    def __init__(self, channels: int, side: int, grids: tuple[int, ...], ops: Ops) -> None:
        super().__init__()
        self.grids = grids
        self.ops = ops
        self.query_key = nn.ParameterList(identity_projection(2, channels, side // grid) for grid in grids if grid > 1)
        self.value = nn.ParameterList(identity_projection(1, channels, side // grid) for grid in grids)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to (B, grids * C, H, W)."""
        return self.ops.multi_size_attention(maps, self.grids, list(self.query_key), list(self.value))


def identity_projection(count: int, channels: int, patch: int) -> nn.Parameter:
    """`count` pairs of scale one and bias zero, (2 count, C, r, r)."""
    pair = torch.stack([torch.ones(channels, patch, patch), torch.zeros(channels, patch, patch)])
    return nn.Parameter(pair.repeat(count, 1, 1, 1))


class PointwiseAttention(nn.Module):
    """Attention whose query, key and value are 1x1 convolutions shared by all patch sizes, scores over sqrt(D)."""

    def __init__(self, channels: int, grids: tuple[int, ...]) -> None:
        super().__init__()
        self.grids = grids
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to (B, grids * C, H, W)."""
        channels, height, width = maps.shape[1:]
        query, key, value = self.query(maps), self.key(maps), self.value(maps)
        outputs = []
        for grid in self.grids:
            if grid == 1:
                outputs.append(value)
                continue
            tokens = patchify(query, grid)
            scale = 1.0 / math.sqrt(tokens.shape[2])
            # Scaled before the product, which would pass half precision's largest number.
            attended = attend(tokens * scale, patchify(key, grid), patchify(value, grid), 1.0)
            outputs.append(unpatchify(attended, grid, channels, height, width))
        return torch.cat(outputs, dim=1)


class MultiSizeAttentionLayer(nn.Module):
    """Attention between patches of several sizes, then a residual block back to C' channels."""

    def __init__(self, config: PRNConfig, channels: int, side: int, ops: Ops) -> None:
        super().__init__()
        grids = config.attention_grids(side)
        self.attention: nn.Module
        if config.projection == "elementwise":
            self.attention = ElementwiseAttention(channels, side, grids, ops)
        else:
            self.attention = PointwiseAttention(channels, grids)
        self.block = ResidualBlock(len(grids) * channels, channels, ops)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C', h, w) to the same shape."""
        return self.block(self.attention(maps))
