"""Decoder: from the deepest feature map back to one logit for each pixel."""

import torch
from torch import Tensor, nn

from prn_fast.kernels import Ops
from prn_fast.kernels.multi_scale_fusion.reference import upsample
from prn_fast.model.blocks import activated


class UpsampleConv(nn.Module):
    """Bilinear upsampling, 3x3 convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, channels: int, factor: int, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        self.factor = factor
        self.conv = nn.Conv2d(inputs, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', factor h, factor w)."""
        return activated(self.ops, self.conv, self.norm, upsample(maps, self.factor))


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with batch norm and ReLU."""

    def __init__(self, inputs: int, channels: int, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        self.conv1 = nn.Conv2d(inputs, channels, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', h, w)."""
        out = activated(self.ops, self.conv1, self.norm1, maps)
        return activated(self.ops, self.conv2, self.norm2, out)


class Decoder(nn.Module):
    """Upsamples stride 32 to stride 4, taking in one fused map a step, then to the image's size."""

    def __init__(self, channels: tuple[int, int, int, int], ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        first, second, third, deepest = channels
        self.up4_to3 = UpsampleConv(deepest, third, 2, ops)
        self.block3 = DoubleConv(3 * third, third, ops)
        self.up3_to2 = UpsampleConv(third, second, 2, ops)
        self.block2 = DoubleConv(3 * second, second, ops)
        self.up2_to1 = UpsampleConv(second, first, 2, ops)
        self.block1 = DoubleConv(3 * first, first, ops)
        self.up1_to0 = UpsampleConv(first, first, 4, ops)
        self.out = nn.Conv2d(first, 1, 3, padding=1)

    def forward(self, fused1: Tensor, fused2: Tensor, fused3: Tensor, deepest: Tensor) -> Tensor:
        """Fused maps (B, 2 C_s, h_s, w_s) and F_4 (B, C_4, h_4, w_4) to logits (B, 1, H, W)."""
        maps = self.block3(torch.cat([fused3, self.up4_to3(deepest)], dim=1))
        maps = self.block2(torch.cat([fused2, self.up3_to2(maps)], dim=1))
        maps = self.block1(torch.cat([fused1, self.up2_to1(maps)], dim=1))
        last, out = self.up1_to0, self.out
        if isinstance(last.norm, nn.Identity):  # folded into the convolution
            assert last.conv.bias is not None
            assert out.bias is not None
            return self.ops.logit_head(maps, last.conv.weight, last.conv.bias, out.weight, out.bias, last.factor)
        return out(last(maps))
