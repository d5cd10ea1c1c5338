"""The screen: a light head that recognises plainly normal images from the frozen part of a PRN alone.

    x_s = [F_s, sqrt(R_s)]                  features and absolute residuals of the scales at strides 4, 8 and 16
    h = sum over s of conv1x1_s(x_s)        at stride 8: x_1 is pooled (F_1 by its mean, R_1 by its largest), x_3 raised
    logits = conv1x1(blocks(h))             depthwise 3x3 and 1x1 convolutions with a shortcut
    map = sigmoid(logits)                   (N, S / 8, S / 8)
    level = u_1 mean(logits) + u_2 spread(logits) + u_3
    score = mean of the largest pixels of sigmoid(logits + level)

The level of the whole map differs from one good image to the next, and hides what stands out of it. The three weights u
are fitted when the cut is chosen (`prn_fast.training.exit_level`); where they are zero, the score is that of the map.

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
# The pixels of an image score, counted in pixels of the screen's map.
SCREEN_TOP_PIXELS = round(TOP_PIXELS / SCREEN_STRIDE**2)


def screen_score(logits: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Score images from the screen's logits; the one definition of the screen's score and map.

    Args:
        logits: (N, 1, h, w), floating point.
        level: (3,), `Screen.level`.
    Returns:
        scores (N,): see `score_of`; and maps (N, h, w). Both in 0..1, float32 at least. A NaN among an image's logits
        makes its score NaN, which lies below no cut.
    """
    values = logits[:, 0].to(torch.promote_types(logits.dtype, torch.float32))
    return score_of(*largest_and_moments(values), level), torch.sigmoid(values)


def largest_and_moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    """What a score is made of: the `SCREEN_TOP_PIXELS` largest of logits (N, ...), (N, k), and moments (N, 2).

    The moments are the mean and the spread (standard deviation) of the logits, clamped to -10..10.
    """
    values = logits.flatten(1)
    largest = torch.topk(values, SCREEN_TOP_PIXELS, dim=1).values
    values = values.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
    mean = values.mean(1)
    return largest, torch.stack([mean, (values - mean[:, None]).square().mean(1).sqrt()], dim=1)


def score_of(largest: Tensor, moments: Tensor, level: Tensor) -> Tensor:
    """Scores (N,) in 0..1 of what `largest_and_moments` returns: mean of sigmoid(largest + level), see the module."""
    weights = level.to(moments.dtype)
    moved = largest + ((moments * weights[:2]).sum(1) + weights[2])[:, None]
    return torch.sigmoid(moved).mean(dim=1)


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
        level: (3,), u_1 to u_3 of the score; zero until they are fitted.
    """

    level: Tensor

    def __init__(self, config: PRNConfig, width: int = SCREEN_WIDTH, blocks: int = SCREEN_BLOCKS) -> None:
        super().__init__()
        if width < 1 or blocks < 0:
            raise ConfigError(f"a screen has at least 1 channel and no less than 0 blocks, not {width} and {blocks}")
        self.config, self.width = config, width
        self.project = nn.ModuleList(nn.Conv2d(2 * channels, width, 1) for channels in config.channels)
        self.blocks = nn.ModuleList(ScreenBlock(width) for _ in range(blocks))
        self.out = nn.Conv2d(width, 1, 1)
        self.register_buffer("level", torch.zeros(3))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # A screen of an earlier version has none.
        state_dict.setdefault(f"{prefix}level", torch.zeros(3))
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
        """Logits (N, 1, S / 8, S / 8) of what `inputs` returns."""
        fine, middle, coarse = (project(maps) for project, maps in zip(self.project, inputs, strict=True))
        # To raise after the 1x1 convolution is the same and less work.
        coarse = functional.interpolate(coarse, scale_factor=2, mode="nearest")
        maps = torch.relu(fine + middle + coarse)
        for block in self.blocks:
            maps = block(maps)
        return self.out(maps)

    def forward(self, features: Sequence[Tensor], residuals: Sequence[Tensor]) -> Tensor:
        """Features and residuals, as for `inputs`, to logits (N, 1, S / 8, S / 8)."""
        return self.logits_of_inputs(self.inputs(features, residuals))

    @torch.no_grad()
    def take_units(self, deviations: Sequence[Tensor]) -> Self:
        """Make a screen that was trained on inputs divided by `deviations`, (2 C_s,) each, one of the plain inputs."""
        for project, deviation in zip(self.project.children(), deviations, strict=True):
            assert isinstance(project, nn.Conv2d)
            project.weight.div_(deviation[:, None, None])
        return self

    @torch.no_grad()
    def take_level(self, level: NDArray[np.float32]) -> None:
        """Set the level of the score, (3,)."""
        self.level.copy_(torch.from_numpy(level))
