"""The Prototypical Residual Network (Zhang et al., CVPR 2023)."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from prn_fast.errors import ConfigError
from prn_fast.kernels import REFERENCE, Ops
from prn_fast.model.attention import MultiSizeAttentionLayer
from prn_fast.model.backbone import make_backbone
from prn_fast.model.config import PRNConfig
from prn_fast.model.decoder import Decoder
from prn_fast.model.fusion import MultiScaleFusion
from prn_fast.model.image_score import LearnedScore
from prn_fast.model.learned_map import LearnedMap
from prn_fast.model.memory import PatchMemory
from prn_fast.model.prototypes import Prototypes
from prn_fast.model.streams import one_by_one


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switches autocasting off, where it is on: a residual is a small difference of large values."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def lowered(maps: list[Tensor]) -> list[Tensor]:
    """Maps in the type that autocasting computes in, where it is on, so that all that follows moves half the bytes."""
    device = maps[0].device.type
    if not torch.is_autocast_enabled(device):
        return maps
    return [tensor.to(torch.get_autocast_dtype(device)) for tensor in maps]


class PRN(nn.Module):
    """Backbone, prototype residuals, fusion, attention, fusion, decoder, as published.

    Args:
        config: the structure.
        ops: the formulation of the operations; `REFERENCE`, the reference, by default. The weights do not depend on it.
    """

    def __init__(self, config: PRNConfig, ops: Ops = REFERENCE) -> None:
        super().__init__()
        self.config = config
        self.ops = ops
        # How the three scales, which need nothing of each other there, go through attention.
        self.run_scales = one_by_one
        # One value for each channel of what `normalize` returns: three, or one where an engine has folded grey images.
        self.mean: tuple[float, ...] = config.spec.mean
        self.std: tuple[float, ...] = config.spec.std
        doubled = (2 * config.channels[0], 2 * config.channels[1], 2 * config.channels[2])
        self.backbone = make_backbone(config.backbone, ops)
        self.prototypes = Prototypes(config)
        self.fusion1 = MultiScaleFusion(config.channels, ops)
        self.attention = nn.ModuleList(
            nn.Sequential(*(MultiSizeAttentionLayer(config, width, side, ops) for _ in range(config.attention_layers)))
            for width, side in zip(doubled, config.sides, strict=True)
        )
        self.fusion2 = MultiScaleFusion(doubled, ops)
        self.decoder = Decoder(config.spec.channels, ops)
        self.learned_map = LearnedMap(config) if config.map == "learned" else None
        self.learned_score = LearnedScore() if config.score == "learned" else None

    def logits(self, images: Tensor) -> Tensor:
        """Logit maps of normalised images.

        Args:
            images: (B, 3, S, S), floating point, normalised as the backbone was trained; S = config.image_size.
        Returns:
            (B, 1, S, S), same dtype. sigmoid gives the anomaly map.
        Raises:
            ConfigError: another shape.
        """
        side = self.config.image_size
        expected = (len(self.mean), side, side)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ConfigError(
                f"images have shape {tuple(images.shape)}; this model takes (B, {', '.join(map(str, expected))})"
            )
        return self.logits_of_features(self.features(images))

    def features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The backbone's maps at strides 4, 8, 16 and 32 of normalised images."""
        with full_precision(images.device):
            return self.backbone(images)

    def logits_of_features(self, maps: Sequence[Tensor]) -> Tensor:
        """Logit maps (B, 1, S, S) of what the backbone finds: its maps at strides 4, 8, 16 and 32."""
        *features, deepest = maps
        return self.logits_of_residuals(features, self.residuals(features), deepest)

    def residuals(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Residuals of the maps at strides 4, 8 and 16 to their nearest prototypes, each of its map's shape."""
        with full_precision(features[0].device):
            residuals = [
                self.ops.prototype_residual(feature, prototypes)
                for feature, prototypes in zip(features, self.prototypes(), strict=True)
            ]
            if self.config.residual == "absolute":
                # The root of the square, so that every formulation of the operation serves both. No gradient passes
                # here: backbone and prototypes are frozen.
                residuals = [residual.sqrt() for residual in residuals]
        return residuals

    def logits_of_residuals(self, features: Sequence[Tensor], residuals: Sequence[Tensor], deepest: Tensor) -> Tensor:
        """Logit maps (B, 1, S, S) of the three maps, their `residuals`, and the map at stride 32."""
        features, residuals = lowered(list(features)), lowered(list(residuals))
        fused = self.fusion1(*zip(features, residuals, strict=True))
        attended = self.run_scales([partial(layers, both) for layers, both in zip(self.attention, fused, strict=True)])
        return self.decoder(*self.fusion2(*attended), deepest)

    def forward(self, images: Tensor) -> Tensor:
        """Same as `logits`."""
        return self.logits(images)

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 images (N, S, S, C) to the normalised input of `logits`, in the dtype of the weights."""
        return self.ops.normalize_images(images, self.mean, self.std, dtype=self.decoder.out.weight.dtype)

    def detect(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Image scores (N,) and anomaly maps (N, S, S), in 0..1, of uint8 images (N, S, S, C); float32 at least."""
        return self.detect_normalized(self.normalize(images))

    def detect_normalized(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `detect`, of what `normalize` returns."""
        return self.scored(*self.examine(images))

    def examine(self, images: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Logit maps (N, 1, S, S), and features and residuals at strides 4, 8 and 16, of what `normalize` returns."""
        *features, deepest = self.features(images)
        residuals = self.residuals(features)
        return self.logits_of_residuals(features, residuals, deepest), features, residuals

    def frozen(self, images: Tensor) -> tuple[Sequence[Tensor], list[Tensor]]:
        """Features and residuals at strides 4, 8 and 16 of uint8 images: the part that training leaves as it is."""
        features = self.backbone.scales(self.normalize(images))
        return features, self.residuals(features)

    def scored(self, logits: Tensor, features: Sequence[Tensor], residuals: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Scores (N,) and maps (N, S, S), in 0..1, of logit maps, and features and residuals at strides 4, 8 and 16."""
        if self.learned_map is not None:
            logits = self.learned_map(logits, features, residuals)
        return self.scored_logits(logits)

    def scored_logits(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """As `scored`, of the logits (N, 1, S, S) of the anomaly map itself."""
        scores, maps = self.ops.anomaly_score(logits)
        return (scores if self.learned_score is None else self.learned_score(logits, self.ops)), maps

    @property
    def memory(self) -> PatchMemory | None:
        """The memory of normal patches that a learned map weighs; None where there is none."""
        return None if self.learned_map is None else self.learned_map.memory

    def set_prototypes(self, prototypes: list[Tensor]) -> Self:
        """Take over the prototypes of the three scales, each (K_s, C_s, h_s, h_s) as the configuration says."""
        for own, given in zip(self.prototypes(), prototypes, strict=True):
            if own.shape != given.shape:
                raise ConfigError(f"prototypes have shape {tuple(given.shape)}, this model needs {tuple(own.shape)}")
            own.copy_(given)
        return self
