"""The screen: a light head that recognises plainly normal images from the frozen part of a PRN alone.

    x_s = [F_s, sqrt(R_s)]                  features and absolute residuals of the scales at strides 4, 8 and 16
    h = sum over s of conv1x1_s(x_s)        at stride 8: x_1 is pooled (F_1 by its mean, R_1 by its largest), x_3 raised
    t = conv1x1(blocks(h))                  depthwise 3x3 and 1x1 convolutions with a shortcut
    logits = v_1 t + v_2 d + v_3            d: distances to some patches of the network's memory, where it has one
    level = max(u_1 mean(logits) + u_2 spread(logits) + u_3, u_4)
    map = sigmoid(logits + level)           (N, S / 8, S / 8)
    score = mean of the largest pixels of the map

Where the network's map is a learned one, part of it is the distance to a memory of normal patches
(`prn_fast.model.learned_map`), and an image may be flagged for that alone: a screen that did not know the memory could
let hardly any image go. So it reads the same distances. The weights v are fitted when the cut is chosen
(`prn_fast.training.exit_views`); without them, the logits are t.

How high and how uneven the whole map is also tells good images from defective ones: on some products a high map is
usual and is subtracted, on others it speaks for a defect. The weights u are fitted when the cut is chosen
(`prn_fast.training.exit_level`); where they are zero, the level is, too.

An image whose score lies below a cut leaves here; the others go on to the whole network. The screen reads nothing that
training a PRN changes, so that it can be trained afterwards, and the network is the same with and without it.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from prn_fast.errors import ConfigError
from prn_fast.kernels.anomaly_score.reference import LOGIT_LIMIT, TOP_PIXELS
from prn_fast.model.config import SCREEN_STRIDE, PRNConfig

SCREEN_WIDTH = 40
SCREEN_BLOCKS = 2
# Patches of the network's memory that a screen compares with: the first ones, which cover it. As many images leave as
# with a thousand, and distances take a quarter of the time.
SCREEN_PATCHES = 250
# The pixels of an image score, counted in pixels of the screen's map.
SCREEN_TOP_PIXELS = round(TOP_PIXELS / SCREEN_STRIDE**2)


def screen_score(logits: Tensor, level_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Score images from the screen's logits; the one definition of the screen's score and map.

    Args:
        logits: (N, 1, h, w), floating point.
        level_weights: (4,), `Screen.level_weights`.
    Returns:
        scores (N,), the mean of the `SCREEN_TOP_PIXELS` largest pixels of each map; and maps (N, h, w). Both in 0..1,
        float32 at least. A NaN among an image's logits makes its score NaN, which lies below no cut.
    """
    values = logits[:, 0].to(torch.promote_types(logits.dtype, torch.float32))
    level = map_level(*mean_and_spread(values), level_weights)
    return score_of(largest_logits(values), level), torch.sigmoid(values + level[:, None, None])


def weigh_views(own: Tensor, distances: Tensor, weights: Tensor) -> Tensor:
    """Logits of t and d of the same shape, by `Screen.view_weights`, in the dtype of d."""
    weights = weights.to(distances.dtype)
    return own.to(distances.dtype) * weights[0] + distances * weights[1] + weights[2]


def largest_logits(logits: Tensor) -> Tensor:
    """The `SCREEN_TOP_PIXELS` largest of logits (N, ...): (N, k). NaN counts as the largest."""
    return torch.topk(logits.flatten(1), SCREEN_TOP_PIXELS, dim=1).values


def mean_and_spread(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (N,) of logits (N, ...), clamped to -10..10."""
    values = logits.flatten(1).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
    mean = values.mean(1)
    return mean, (values - mean[:, None]).square().mean(1).sqrt()


def map_level(mean: Tensor, spread: Tensor, weights: Tensor) -> Tensor:
    """The level (N,) of maps whose logits have this mean and spread (N,), by `Screen.level_weights`."""
    weights = weights.to(mean.dtype)
    return torch.maximum(mean * weights[0] + spread * weights[1] + weights[2], weights[3])


def score_of(largest: Tensor, level: Tensor) -> Tensor:
    """Scores (N,) of maps with these largest logits (N, k) and this level (N,)."""
    return torch.sigmoid(largest + level[:, None]).mean(dim=1)


class ScreenBlock(nn.Module):
    """A depthwise 3x3 and a 1x1 convolution with batch norm, beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, W, h, w) to the same shape."""
        return maps + torch.relu(self.norm(self.pointwise(self.depthwise(maps))))


class Screen(nn.Module):
    """Features and residuals of the strides 4, 8 and 16 to logits at stride 8; see the module.

    Args:
        config: of the network whose features and residuals it reads.
        width: W, channels inside.
        blocks: depthwise and 1x1 convolutions in a row.
    Attributes:
        level_weights: (4,), u_1 to u_4; zero until they are fitted.
        view_weights: (3,), v_1 to v_3; None where the screen reads no memory.
    """

    level_weights: Tensor
    view_weights: Tensor | None

    def __init__(self, config: PRNConfig, width: int = SCREEN_WIDTH, blocks: int = SCREEN_BLOCKS) -> None:
        super().__init__()
        if width < 1 or blocks < 0:
            raise ConfigError(f"a screen has at least 1 channel and no less than 0 blocks, not {width} and {blocks}")
        self.config, self.width = config, width
        self.project = nn.ModuleList(nn.Conv2d(2 * channels, width, 1) for channels in config.channels)
        self.blocks = nn.ModuleList(ScreenBlock(width) for _ in range(blocks))
        self.out = nn.Conv2d(width, 1, 1)
        self.register_buffer("level_weights", torch.zeros(4))
        self.register_buffer("view_weights", None)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # A screen of an earlier version has none.
        state_dict.setdefault(f"{prefix}level_weights", torch.zeros(4))
        # Only a screen that reads a memory has these.
        self.view_weights = self.level_weights.new_zeros(3) if f"{prefix}view_weights" in state_dict else None
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def inputs(self, features: Sequence[Tensor], residuals: Sequence[Tensor]) -> list[Tensor]:
        """What the screen's weights are applied to; without weights of its own, so that training can keep it.

        Args:
            features: maps at strides 4, 8 and 16, (N, C_s, h_s, h_s).
            residuals: as `PRN.residuals` gives them, of the same shapes.
        Returns:
            (N, 2 C_1, S / 8, S / 8), (N, 2 C_2, S / 8, S / 8) and (N, 2 C_3, S / 16, S / 16).
        """
        features = [functional.avg_pool2d(features[0], 2), *features[1:]]
        if self.config.residual == "square":
            # Before anything else: half precision holds a small residual, but not its square.
            residuals = [residual.sqrt() for residual in residuals]
        # A mean would wash out a residual of a few pixels.
        residuals = [functional.max_pool2d(residuals[0], 2), *residuals[1:]]
        return [torch.cat(pair, dim=1) for pair in zip(features, residuals, strict=True)]

    def logits_of_inputs(self, inputs: Sequence[Tensor]) -> Tensor:
        """t (N, 1, S / 8, S / 8) of what `inputs` returns."""
        fine, middle, coarse = (project(maps) for project, maps in zip(self.project, inputs, strict=True))
        # To raise after the 1x1 convolution is the same and less work.
        coarse = functional.interpolate(coarse, scale_factor=2, mode="nearest")
        maps = torch.relu(fine + middle + coarse)
        for block in self.blocks:
            maps = block(maps)
        return self.out(maps)

    def forward(self, features: Sequence[Tensor], residuals: Sequence[Tensor]) -> Tensor:
        """Features and residuals, as for `inputs`, to t (N, 1, S / 8, S / 8)."""
        return self.logits_of_inputs(self.inputs(features, residuals))

    @torch.no_grad()
    def take_units(self, deviations: Sequence[Tensor]) -> Self:
        """Make a screen that was trained on inputs divided by `deviations`, (2 C_s,) each, one of the plain inputs."""
        for project, deviation in zip(self.project.children(), deviations, strict=True):
            assert isinstance(project, nn.Conv2d)
            project.weight.div_(deviation[:, None, None])
        return self

    @torch.no_grad()
    def take_weights(self, level: NDArray[np.float32], views: NDArray[np.float32] | None = None) -> None:
        """Set `level_weights`, (4,), and `view_weights`, (3,) or None."""
        device = self.level_weights.device
        self.level_weights = torch.tensor(level, device=device)
        self.view_weights = None if views is None else torch.tensor(views, device=device)
