"""A trained PRN as engines run it: bytes in, scores and maps out, with nothing unnecessary in it.

Compared with the published formulation, batch norm is folded into the convolution before it, query and key into one
projection, grey images go in as one channel, and the operations do no unnecessary work. Each of these is exact; only
rounding differs.

With a screen, the same network runs in two stages (`two_stages`): the first scores images by the frozen part alone, the
second computes the rest for those that stay.
"""

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from prn_fast.errors import ConfigError
from prn_fast.kernels import FUSED, OPTIMIZED, Ops
from prn_fast.kernels.multi_size_attention.optimized import fold_query_key
from prn_fast.model.attention import ElementwiseAttention, ResidualBlock
from prn_fast.model.backbone import BasicBlock, WideBottleneck
from prn_fast.model.prn import PRN
from prn_fast.model.screen import SCREEN_PATCHES, Screen, screen_score, weigh_views
from prn_fast.model.streams import beside_each_other

Network = TypeVar("Network", bound=nn.Module)


class EngineGraph(nn.Module):
    """uint8 images (N, S, S, C) to scores (N,) and maps (N, S, S); normalising and scoring are inside.

    Args:
        model: trained; it is copied and left as it is.
        ops: the formulation of the operations.
        dtype: of weights and arithmetic; None keeps the model's. Weights are folded before they are rounded to it.
        memory_format: of weights and maps.

    Scores and maps are float32 where `dtype` is shorter, otherwise of `dtype`.
    """

    def __init__(
        self,
        model: PRN,
        ops: Ops = OPTIMIZED,
        dtype: torch.dtype | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        super().__init__()
        self.model: PRN = fold_attention(fold_batch_norm(with_ops(model, ops))).requires_grad_(False)
        if ops is OPTIMIZED:
            fold_grey(self.model)
        else:
            fold_shortcut_bias(self.model)
        if ops is FUSED:
            self.model.run_scales = beside_each_other
        self.memory_format = memory_format
        # As they are: a handful of weights, and distances, which are small differences of large values.
        learned = self.model.learned_map, self.model.learned_score
        self.model.learned_map = self.model.learned_score = None
        self.to(dtype=dtype, memory_format=memory_format)  # type: ignore[call-overload]
        self.model.learned_map, self.model.learned_score = learned

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        return self.model.detect(images)


class ScreenStage(nn.Module):
    """uint8 images (N, S, S, C) to screen scores (N,), screen maps (N, S / 8, S / 8), and what `RestStage` takes.

    That are six tensors: the features at strides 4, 8 and 16, (N, C_s, h_s, h_s), and their residuals, of the same
    shapes, in the dtype of the weights. Scores and maps are float32 where that is shorter.

    Args:
        graph: the whole network; its weights are shared.
        screen: trained; it is copied, its batch norm folded, and brought to the dtype and layout of the graph.
    """

    def __init__(self, graph: EngineGraph, screen: Screen) -> None:
        super().__init__()
        self.model = graph.model
        weight = graph.model.decoder.out.weight
        folded = fold_batch_norm(screen).requires_grad_(False)
        self.screen: Screen = folded.to(device=weight.device, dtype=weight.dtype, memory_format=graph.memory_format)  # type: ignore[call-overload]
        # As they are: in half precision, a level would be rounded by a share of the cut's margin.
        self.screen.level_weights = screen.level_weights.to(weight.device)
        self.screen.view_weights = None if screen.view_weights is None else screen.view_weights.to(weight.device)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        features, residuals = self.model.frozen(images)
        return (*screen_frozen(self.model, self.screen, features, residuals), *features, *residuals)


class ScreenGraph(ScreenStage):
    """The screen by itself: uint8 images (N, S, S, C) to its scores (N,) and maps (N, S / 8, S / 8)."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        return screen_images(self.model, self.screen, images)


def screen_images(model: PRN, screen: Screen, images: Tensor) -> tuple[Tensor, Tensor]:
    """The screen's scores (N,) and maps (N, S / 8, S / 8) of uint8 images (N, S, S, C)."""
    return screen_frozen(model, screen, *model.frozen(images))


def screen_frozen(
    model: PRN, screen: Screen, features: Sequence[Tensor], residuals: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """The screen's scores and maps of features and residuals at strides 4, 8 and 16.

    Raises:
        ConfigError: the screen reads a memory that the network does not have.
    """
    logits = screen(features, residuals)
    if screen.view_weights is not None:
        distances = screen_distances(model, features)
        if distances is None:
            raise ConfigError("the screen reads a memory of normal patches, and the network has none")
        logits = weigh_views(logits, distances, screen.view_weights)
    return screen_score(logits, screen.level_weights)


def screen_distances(model: PRN, features: Sequence[Tensor]) -> Tensor | None:
    """What a screen reads of the network's memory, (N, 1, S / 8, S / 8); None where the network has none."""
    if model.learned_map is None or model.memory is None:
        return None
    return model.learned_map.distances(features, SCREEN_PATCHES)


class RestStage(nn.Module):
    """The six tensors of `ScreenStage`, of any images of its, to scores (N,) and maps (N, S, S), as `EngineGraph`.

    Args:
        graph: the whole network; its weights are shared.
    """

    def __init__(self, graph: EngineGraph) -> None:
        super().__init__()
        self.model = graph.model

    def forward(
        self,
        feature1: Tensor,
        feature2: Tensor,
        feature3: Tensor,
        residual1: Tensor,
        residual2: Tensor,
        residual3: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """See the class."""
        deepest = self.model.backbone.deepest(feature3)
        features, residuals = (feature1, feature2, feature3), (residual1, residual2, residual3)
        logits = self.model.logits_of_residuals(features, residuals, deepest)
        return self.model.scored(logits, features, residuals)


def two_stages(graph: EngineGraph, screen: Screen) -> tuple[ScreenStage, RestStage]:
    """The network of an engine graph in two stages, which share its weights: one after the other, they are the graph.

    Of the first stage's outputs, all but the first two are the second stage's inputs, in this order.
    """
    return ScreenStage(graph, screen), RestStage(graph)


def with_ops(model: PRN, ops: Ops) -> PRN:
    """The same network in eval mode, sharing the weights, built from another formulation of the operations."""
    with torch.device("meta"):
        other = PRN(model.config, ops)
    other.load_state_dict(model.state_dict(), assign=True)
    return other.eval().requires_grad_(False)


def fold_batch_norm(model: Network) -> Network:
    """Fold every batch norm into the convolution that feeds it, in a copy; for eval mode.

    A batch norm follows the convolution registered just before it in the same module, as all blocks here are written.
    """
    model = copy.deepcopy(model).eval()
    for parent in model.modules():
        convolution: tuple[str, nn.Conv2d] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                convolution = name, child
            elif isinstance(child, nn.BatchNorm2d):
                if convolution is None:
                    raise TypeError(f"{type(parent).__name__}.{name} follows no convolution")
                setattr(parent, convolution[0], fuse_conv_bn_eval(convolution[1], child))
                setattr(parent, name, nn.Identity())
                convolution = None
    return model


def fold_attention(model: PRN) -> PRN:
    """Put one projection in the place of every query and key (see `fold_query_key`), in the model itself."""
    for module in model.modules():
        if isinstance(module, ElementwiseAttention):
            module.query_key = nn.ParameterList(
                nn.Parameter(fold_query_key(one), requires_grad=False) for one in module.query_key
            )
    return model


def fold_grey(model: PRN) -> PRN:
    """Add up the first convolution's weights over its inputs, where these are equal, in the model itself.

    They are where images are grey and all channels are normalised alike, as EfficientNet-Lite's are. ResNet's are not:
    the edge's zeros stand for another grey in each of its channels.
    """
    if model.config.image_channels == 1 and len(set(zip(model.mean, model.std, strict=True))) == 1:
        first = model.backbone.first
        first.weight = nn.Parameter(first.weight.sum(1, keepdim=True), requires_grad=False)
        first.in_channels = 1
        model.mean, model.std = model.mean[:1], model.std[:1]
    return model


def fold_shortcut_bias(model: PRN) -> PRN:
    """Add the bias of every shortcut to that of the convolution that it is added to, in the model itself."""
    for module in model.modules():
        if isinstance(module, ResidualBlock):
            shortcut, last = module.shortcut, module.conv2
        elif isinstance(module, BasicBlock | WideBottleneck) and module.downsample is not None:
            first = module.downsample[0]
            assert isinstance(first, nn.Conv2d)
            shortcut, last = first, module.conv3 if isinstance(module, WideBottleneck) else module.conv2
        else:
            continue
        # Norms are folded by now, so that both have one.
        assert shortcut.bias is not None
        assert last.bias is not None
        last.bias = nn.Parameter(last.bias + shortcut.bias, requires_grad=False)
        shortcut.bias = None
    return model
