"""Small real packages for tests: the lite0 network at 64 pixels, seeded."""

from pathlib import Path

import numpy as np
import torch

from prn_fast.bench import seeded
from prn_fast.engine.base import Detections
from prn_fast.kernels import LEAN
from prn_fast.model.config import PRNConfig
from prn_fast.model.prn import PRN
from prn_fast.model.weights import load_backbone_weights, pretrained_state
from prn_fast.package import Package, ValidationSet
from prn_fast.training.calibration import calibrate

SIDE = 64


def textured_images(count: int, channels: int, seed: int, side: int = SIDE) -> np.ndarray:
    """As `seeded.textured_images`, small by default."""
    return seeded.textured_images(count, channels, seed, side)


def small_config(channels: int = 1, **changes: object) -> PRNConfig:
    """lite0 at 64 pixels with three prototypes."""
    values = {
        "backbone": "efficientnet_lite0",
        "image_size": SIDE,
        "image_channels": channels,
        "prototypes": (3, 3, 3),
        "attention_layers": 1,
    }
    return PRNConfig(**(values | changes))


def small_model(config: PRNConfig, seed: int = 0) -> PRN:
    """Published backbone weights where a package brings them, random ones elsewhere; prototypes of real features.

    Batch norms take their statistics from images, so that the output depends on the image as a trained network's does.
    """
    torch.manual_seed(seed)
    model = PRN(config, LEAN)
    if config.backbone == "efficientnet_lite0":
        load_backbone_weights(model.backbone, pretrained_state(config.backbone), "published weights")
    images = textured_images(max(8, *config.prototypes), config.image_channels, seed, config.image_size)
    return seeded.settle(model, torch.from_numpy(images))


def write_package(path: Path, channels: int = 1, seed: int = 0) -> Package:
    """A package of a small model; the validation images are those that it scores lowest (good) and highest (bad)."""
    model = small_model(small_config(channels), seed)
    images = textured_images(96, channels, seed + 1)
    with torch.no_grad():
        scores, maps = (values.numpy() for values in model.detect(torch.from_numpy(images)))
    order = np.argsort(scores)
    chosen = np.concatenate([order[:12], order[-12:]])
    labels = np.repeat(np.array([0, 1]), 12)
    masks = (maps[chosen] >= np.quantile(maps, 0.9)) & (labels[:, None, None] == 1)
    masks[labels == 1, :4, :4] = True
    validation = ValidationSet(images[chosen], labels, masks)
    return Package.create(
        path,
        model,
        calibration_images=textured_images(32, channels, seed + 2),
        validation=validation,
        calibration=calibrate(Detections(scores[chosen], maps[chosen]), validation),
        training={"data": "", "seen": [], "preset": "lite0", "seed": seed, "validation": {"image_auroc": 1.0}},
    )
