"""Frozen feature extractors: maps at strides 4, 8, 16 and 32 of an ImageNet-trained network.

Module names follow the published checkpoints (torchvision's for ResNet; EfficientNet-Lite's without the leading
underscores), so that their weights load by name.
"""

import math
from typing import Self

from torch import Tensor, nn
from torch.nn import functional

from prn_fast.kernels import REFERENCE, Ops
from prn_fast.model.blocks import activated
from prn_fast.model.config import BackboneName


class EvalOnly(nn.Module):
    """A module that stays in eval mode, whatever `.train()` is called on."""

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode; `mode` is ignored."""
        return super().train(False)


class FrozenBatchNorm2d(EvalOnly, nn.BatchNorm2d):
    """Batch norm that always uses its stored statistics and never changes them."""

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return functional.batch_norm(
            maps, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class FrozenSequential(EvalOnly, nn.Sequential):
    """Modules in a row, in eval mode."""


class BasicBlock(EvalOnly):
    """Two 3x3 convolutions and a shortcut (ResNet-18)."""

    def __init__(self, inputs: int, channels: int, stride: int, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = FrozenBatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = FrozenBatchNorm2d(channels)
        self.downsample = shortcut(inputs, channels, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / stride, W / stride)."""
        out = activated(self.ops, self.conv1, self.bn1, maps)
        residual = maps if self.downsample is None else self.downsample(maps)
        return activated(self.ops, self.conv2, self.bn2, out, residual)


class WideBottleneck(EvalOnly):
    """1x1, 3x3 and 1x1 convolutions of doubled width and a shortcut (Wide ResNet-50-2)."""

    def __init__(self, inputs: int, channels: int, stride: int, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        width = channels // 2
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = FrozenBatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = FrozenBatchNorm2d(channels)
        self.downsample = shortcut(inputs, channels, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / stride, W / stride)."""
        out = activated(self.ops, self.conv1, self.bn1, maps)
        out = activated(self.ops, self.conv2, self.bn2, out)
        residual = maps if self.downsample is None else self.downsample(maps)
        return activated(self.ops, self.conv3, self.bn3, out, residual)


def shortcut(inputs: int, channels: int, stride: int) -> FrozenSequential | None:
    """The projection beside a residual block, where the shape changes."""
    if stride == 1 and inputs == channels:
        return None
    return FrozenSequential(nn.Conv2d(inputs, channels, 1, stride, bias=False), FrozenBatchNorm2d(channels))


def stage(
    block: type[BasicBlock | WideBottleneck], inputs: int, channels: int, depth: int, stride: int, ops: Ops
) -> FrozenSequential:
    """Blocks of one width, the first of which may shrink the map."""
    rest = (block(channels, channels, 1, ops) for _ in range(depth - 1))
    return FrozenSequential(block(inputs, channels, stride, ops), *rest)


class Backbone(EvalOnly):
    """A network without its classifier, cut at stride 16: what lies behind is needed by the decoder alone."""

    @property
    def first(self) -> nn.Conv2d:
        """The convolution that takes the images."""
        raise NotImplementedError

    def scales(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised (B, 3, H, W) to the last maps at strides 4, 8 and 16."""
        raise NotImplementedError

    def deepest(self, scale3: Tensor) -> Tensor:
        """The map at stride 16 to the last one at stride 32."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normalised (B, 3, H, W) to maps at strides 4, 8, 16, 32."""
        scale1, scale2, scale3 = self.scales(images)
        return scale1, scale2, scale3, self.deepest(scale3)


class ResNet(Backbone):
    """ResNet without its classifier (He et al., 2016; torchvision's variant)."""

    def __init__(
        self,
        block: type[BasicBlock | WideBottleneck],
        depths: tuple[int, ...],
        channels: tuple[int, ...],
        ops: Ops,
    ) -> None:
        super().__init__()
        self.ops = ops
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = FrozenBatchNorm2d(64)
        first, second, third, fourth = channels
        self.layer1 = stage(block, 64, first, depths[0], stride=1, ops=ops)
        self.layer2 = stage(block, first, second, depths[1], stride=2, ops=ops)
        self.layer3 = stage(block, second, third, depths[2], stride=2, ops=ops)
        self.layer4 = stage(block, third, fourth, depths[3], stride=2, ops=ops)
        self.eval()

    @property
    def first(self) -> nn.Conv2d:
        """See `Backbone`."""
        return self.conv1

    def scales(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Backbone`."""
        maps = activated(self.ops, self.conv1, self.bn1, images)
        maps = functional.max_pool2d(maps, 3, 2, 1)
        scale1 = self.layer1(maps)
        scale2 = self.layer2(scale1)
        return scale1, scale2, self.layer3(scale2)

    def deepest(self, scale3: Tensor) -> Tensor:
        """See `Backbone`."""
        return self.layer4(scale3)


class SamePadConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding, of which the odd pixel goes to the right and the bottom.

    Holds for inputs whose sides the stride divides, which is so at every stage of images of a multiple of 64.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / stride, W / stride)."""
        padding = self.kernel_size[0] - self.stride[0]
        before, after = padding // 2, padding - padding // 2
        if before == after:
            return functional.conv2d(maps, self.weight, self.bias, self.stride, before, self.dilation, self.groups)
        padded = functional.pad(maps, (before, after, before, after))
        return functional.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


# Published checkpoints of the Lite networks were trained with this epsilon.
_LITE_EPSILON = 1e-3


class InvertedBottleneck(EvalOnly):
    """Expand (1x1), depthwise, project (1x1), with a shortcut where the shape is kept (EfficientNet-Lite)."""

    def __init__(self, inputs: int, channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.has_shortcut = stride == 1 and inputs == channels
        self.expand_conv = None
        if expansion != 1:
            self.expand_conv = nn.Conv2d(inputs, width, 1, bias=False)
            self.bn0 = FrozenBatchNorm2d(width, eps=_LITE_EPSILON)
        self.depthwise_conv = SamePadConv2d(width, width, kernel, stride, groups=width, bias=False)
        self.bn1 = FrozenBatchNorm2d(width, eps=_LITE_EPSILON)
        self.project_conv = nn.Conv2d(width, channels, 1, bias=False)
        self.bn2 = FrozenBatchNorm2d(channels, eps=_LITE_EPSILON)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / stride, W / stride)."""
        out = maps
        if self.expand_conv is not None:
            out = functional.relu6(self.bn0(self.expand_conv(out)), inplace=True)
        out = functional.relu6(self.bn1(self.depthwise_conv(out)), inplace=True)
        out = self.bn2(self.project_conv(out))
        return out + maps if self.has_shortcut else out


# (repeats, kernel, stride, expansion, channels) of each stage of EfficientNet-Lite0.
_LITE_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# The stages whose output is the last one at strides 4, 8, 16 and 32.
_LITE_ENDS = (1, 2, 4, 6)


def _widened(channels: int, width: float) -> int:
    """Channels times a factor, to the nearest multiple of 8 that is not more than a tenth less."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


class EfficientNetLite(Backbone):
    """EfficientNet-Lite without its head and classifier: no squeeze-and-excitation, ReLU6.

    Args:
        depth: factor of the blocks of all stages but the first and the last (Tan and Le, "EfficientNet", 2019).
        width: factor of the channels of all stages.
    """

    def __init__(self, depth: float = 1.0, width: float = 1.0) -> None:
        super().__init__()
        self.conv_stem = SamePadConv2d(3, 32, 3, 2, bias=False)
        self.bn0 = FrozenBatchNorm2d(32, eps=_LITE_EPSILON)
        blocks: list[nn.Module] = []
        ends: list[int] = []
        inputs, last = 32, len(_LITE_STAGES) - 1
        for number, (repeats, kernel, stride, expansion, channels) in enumerate(_LITE_STAGES):
            outputs = _widened(channels, width)
            for index in range(repeats if number in (0, last) else math.ceil(depth * repeats)):
                step = stride if index == 0 else 1
                blocks.append(InvertedBottleneck(inputs, outputs, kernel, step, expansion))
                inputs = outputs
            ends.append(len(blocks) - 1)
        self.blocks = FrozenSequential(*blocks)
        self._taps = [ends[number] for number in _LITE_ENDS]
        self.eval()

    @property
    def first(self) -> nn.Conv2d:
        """See `Backbone`."""
        return self.conv_stem

    def scales(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Backbone`."""
        maps = functional.relu6(self.bn0(self.conv_stem(images)), inplace=True)
        taps = []
        for index in range(self._taps[2] + 1):
            maps = self.blocks[index](maps)
            if index in self._taps:
                taps.append(maps)
        return taps[0], taps[1], taps[2]

    def deepest(self, scale3: Tensor) -> Tensor:
        """See `Backbone`."""
        for index in range(self._taps[2] + 1, len(self.blocks)):
            scale3 = self.blocks[index](scale3)
        return scale3


_LITE_FACTORS: dict[str, dict[str, float]] = {
    "efficientnet_lite0": {},
    "efficientnet_lite1": {"depth": 1.1},
    "efficientnet_lite2": {"depth": 1.2, "width": 1.1},
}


def make_backbone(name: BackboneName, ops: Ops = REFERENCE) -> Backbone:
    """The named network with random weights, frozen and in eval mode, in a formulation of the operations."""
    backbone: Backbone
    if name == "resnet18":
        backbone = ResNet(BasicBlock, (2, 2, 2, 2), (64, 128, 256, 512), ops)
    elif name == "wide_resnet50_2":
        backbone = ResNet(WideBottleneck, (3, 4, 6, 3), (256, 512, 1024, 2048), ops)
    else:
        backbone = EfficientNetLite(**_LITE_FACTORS[name])
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return backbone.requires_grad_(False)
