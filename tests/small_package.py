"""Small real packages for tests: the lite0 network at 64 pixels, seeded, with prototypes of real feature maps."""

from pathlib import Path

import numpy as np
import torch

from prn_fast.engine.base import Detections
from prn_fast.kernels import LEAN
from prn_fast.model.config import PRNConfig
from prn_fast.model.prn import PRN
from prn_fast.package import Package, ValidationSet
from prn_fast.training.calibration import calibrate

SIDE = 64


def textured_images(count: int, channels: int, seed: int, side: int = SIDE) -> np.ndarray:
    """uint8 (N, S, S, C): coarse and fine noise, different in each image."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count, side // 8, side // 8, channels)).repeat(8, axis=1).repeat(8, axis=2)
    return np.clip(128 + 40 * coarse + 6 * rng.normal(size=(count, side, side, channels)), 0, 255).astype(np.uint8)


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
    """Random weights, batch-norm statistics that are not trivial, prototypes taken from images."""
    torch.manual_seed(seed)
    model = PRN(config, LEAN)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            value.normal_(std=0.2)
        elif ".query_key." in name or ".value." in name:
            value.add_(torch.randn_like(value) * 0.3)
    # Spread the logits, so that maps depend on the image visibly.
    model.decoder.out.weight.data.mul_(20.0)
    model.eval()
    images = torch.from_numpy(textured_images(max(config.prototypes), config.image_channels, seed, config.image_size))
    with torch.no_grad():
        features = model.backbone(model.normalize(images))[:3]
        model.set_prototypes([maps[:count] for maps, count in zip(features, config.prototypes, strict=True)])
    return model


def write_package(path: Path, channels: int = 1, seed: int = 0) -> Package:
    """A package of a small model, labelled so that its own scores separate the classes."""
    model = small_model(small_config(channels), seed)
    images = textured_images(24, channels, seed + 1)
    with torch.no_grad():
        scores, maps = model.detect(torch.from_numpy(images))
    order = torch.argsort(scores).numpy()
    images, maps = images[order], maps.numpy()[order]
    labels = np.repeat(np.array([0, 1]), 12)
    masks = (maps >= np.quantile(maps, 0.9)) & (labels[:, None, None] == 1)
    masks[labels == 1, :4, :4] = True
    validation = ValidationSet(images, labels, masks)
    detections = Detections(np.sort(scores.numpy()), maps)
    return Package.create(
        path,
        model,
        calibration_images=textured_images(16, channels, seed + 2),
        validation=validation,
        calibration=calibrate(detections, validation),
        training={"data": "", "seen": [], "preset": "lite0", "seed": seed, "validation": {"image_auroc": 1.0}},
    )
