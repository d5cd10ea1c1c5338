"""Networks without training that behave like trained ones: for speed and rounding, not for finding defects."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prn_fast.kernels import OPTIMIZED
from prn_fast.model.config import PRNConfig
from prn_fast.model.prn import PRN

# Of attention's scales around one and biases around zero.
ATTENTION_SPREAD = 0.3
# Logits of a few units, so that maps use much of 0..1.
LOGIT_GAIN = 3.0


def textured_images(count: int, channels: int, seed: int, side: int) -> NDArray[np.uint8]:
    """uint8 (N, S, S, C): coarse and fine noise, different in each image."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count, side // 8, side // 8, channels)).repeat(8, axis=1).repeat(8, axis=2)
    return np.clip(128 + 40 * coarse + 6 * rng.normal(size=(count, side, side, channels)), 0, 255).astype(np.uint8)


@torch.no_grad()
def settle(model: PRN, images: Tensor) -> PRN:
    """Give a network with random weights what training would: its outputs then depend on the image.

    Attention leaves the identity, prototypes are features of the images, batch norms take their statistics.

    Args:
        model: changed in place, and put in eval mode.
        images: (N, S, S, C) uint8, at least as many as prototypes of a scale.
    """
    for name, value in model.state_dict().items():
        if ".query_key." in name or ".value." in name:
            value.add_(torch.randn_like(value) * ATTENTION_SPREAD)
    counts = model.config.prototypes
    features = model.backbone(model.normalize(images))[:3]
    model.set_prototypes([maps[:count] for maps, count in zip(features, counts, strict=True)])
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train().logits(model.normalize(images))
    model.decoder.out.weight.mul_(LOGIT_GAIN)
    return model.eval()


def seeded_model(config: PRNConfig, seed: int = 0) -> PRN:
    """A settled network with random weights, on the CPU, in float32; equal for equal seeds."""
    torch.manual_seed(seed)
    images = textured_images(max(8, *config.prototypes), config.image_channels, seed, config.image_size)
    return settle(PRN(config, OPTIMIZED), torch.from_numpy(images)).requires_grad_(False)
