"""Small real packages for tests: the lite0 network at 64 pixels, seeded."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from prn_fast.bench.engines import seeded
from prn_fast.engine.base import Detections
from prn_fast.kernels import OPTIMIZED
from prn_fast.model.config import PRNConfig
from prn_fast.model.engine_graph import screen_images
from prn_fast.model.memory import remember
from prn_fast.model.prn import PRN
from prn_fast.model.screen import Screen, mean_and_spread
from prn_fast.model.weights import load_backbone_weights, pretrained_state
from prn_fast.package import Package, ValidationSet
from prn_fast.training.calibration import calibrate
from prn_fast.training.early_exit import ScreenWeights
from tests.built_once import built_once

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
    model = PRN(config, OPTIMIZED)
    if config.backbone == "efficientnet_lite0":
        load_backbone_weights(model.backbone, pretrained_state(config.backbone), "published weights")
    images = textured_images(max(8, *config.prototypes), config.image_channels, seed, config.image_size)
    return seeded.settle(model, torch.from_numpy(images))


@torch.no_grad()
def small_screen(model: PRN, seed: int = 0) -> Screen:
    """A screen with random weights whose scores depend on the image and lie well inside 0..1.

    It reads the memory where the model has one.
    """
    torch.manual_seed(seed)
    screen = Screen(model.config, width=8)
    images = torch.from_numpy(textured_images(16, model.config.image_channels, seed + 3, model.config.image_size))
    inputs = screen.inputs(*model.frozen(images))
    screen.take_units([maps.std((0, 2, 3)).clamp_min(1e-3) for maps in inputs])
    for module in screen.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    logits = screen.train().logits_of_inputs(inputs)
    largest = logits.flatten(1).max(1).values
    screen.out.weight.div_(largest.std())
    screen.out.bias.sub_(largest.mean()).div_(largest.std())
    # Engines must carry it: no image gets less than -0.2, and some just that.
    logits = screen.eval().logits_of_inputs(inputs)
    mean, spread = (float(values.mean()) for values in mean_and_spread(logits))
    views = None
    if model.learned_map is not None and model.memory is not None:
        distances = model.learned_map.distances(model.backbone.scales(model.normalize(images)))
        slope = 0.5 * float(logits.std() / distances.std())
        views = np.array([0.5, slope, float(0.5 * logits.mean() - slope * distances.mean())], np.float32)
    screen.take_weights(np.array([-0.3, 0.5, 0.3 * mean - 0.5 * spread, -0.2], np.float32), views)
    return screen.eval().requires_grad_(False)


def weights_of(screen: Screen) -> ScreenWeights:
    """What `Screen.take_weights` has set."""
    views = screen.view_weights
    return ScreenWeights(screen.level_weights.numpy(), None if views is None else views.numpy())


def add_small_screen(package: Package, seed: int = 0) -> Screen:
    """Give a package a `small_screen` whose cut lets half of all images go; its figures are made up."""
    model = package.model(OPTIMIZED)
    screen = small_screen(model, seed)
    images = torch.from_numpy(textured_images(32, package.config.image_channels, seed + 4, package.config.image_size))
    with torch.no_grad():
        scores, _ = screen_images(model, screen, images)
    figures = {"exit_share": 0.5, "flagged": 12, "flagged_seen": 0, "lost": 0, "loss_bound": 0.221, "normals": 12}
    threshold = package.calibration("threshold")
    package.add_screen(screen, {"cut": float(scores.median()), "margin": 0.0, "threshold": threshold, **figures})
    return screen


def write_package(
    path: Path,
    channels: int = 1,
    seed: int = 0,
    training: Mapping[str, object] | None = None,
    *,
    screen: bool = False,
    learned: bool = False,
) -> Package:
    """A package of a small model; the validation images are those that it scores lowest (good) and highest (bad).

    Args:
        training: for the manifest, over what is there.
        screen: it brings one of `small_screen`, whose cut lets about half of `textured_images` go.
        learned: its map and its score are, see `learned_model`.
    """
    told = json.dumps([channels, seed, dict(training or {}), screen, learned], sort_keys=True)
    name = f"written/{hashlib.sha256(told.encode()).hexdigest()[:16]}.prn"
    made = built_once(name, lambda path: _write_package(path, channels, seed, training or {}, screen, learned))
    # A package may stand there, as when it is written anew.
    shutil.rmtree(path, ignore_errors=True)
    return Package.open(shutil.copytree(made, path))


@torch.no_grad()
def learned_model(channels: int = 1, seed: int = 0) -> PRN:
    """A small model whose map weighs a memory of other images and a screen, and whose score is learned, too."""
    made = small_model(small_config(channels, map="learned", score="learned", memory=40, screen_width=8), seed)
    assert made.learned_map is not None
    assert made.learned_map.memory is not None
    assert made.learned_map.screen is not None
    assert made.learned_score is not None
    images = made.normalize(torch.from_numpy(textured_images(6, channels, seed + 9)))
    made.learned_map.memory.patches.copy_(remember(made.backbone, [images], 6, 40))
    screen = small_screen(made, seed)
    screen.view_weights = None  # the map weighs the memory by itself
    made.learned_map.screen.load_state_dict(screen.state_dict())
    made.learned_map.set_weights(torch.tensor([0.4, 0.3, 0.5, -1.2]))
    made.learned_score.set_weights(torch.tensor([0.1, -0.2, 0.3, -0.2, 0.1, -0.6]))
    return made


def _write_package(
    path: Path, channels: int, seed: int, training: Mapping[str, object], screen: bool, learned: bool
) -> None:
    model = learned_model(channels, seed) if learned else small_model(small_config(channels), seed)
    images = textured_images(96, channels, seed + 1)
    with torch.no_grad():
        scores, maps = (values.numpy() for values in model.detect(torch.from_numpy(images)))
    order = np.argsort(scores)
    chosen = np.concatenate([order[:12], order[-12:]])
    labels = np.repeat(np.array([0, 1]), 12)
    masks = (maps[chosen] >= np.quantile(maps, 0.9)) & (labels[:, None, None] == 1)
    masks[labels == 1, :4, :4] = True
    validation = ValidationSet(images[chosen], labels, masks)
    package = Package.create(
        path,
        model,
        calibration_images=textured_images(32, channels, seed + 2),
        validation=validation,
        calibration=calibrate(Detections.of(scores[chosen], maps[chosen]), validation),
        training={
            "data": "",
            "seen": [],
            "preset": "lite0",
            "seed": seed,
            "validation": {"image_auroc": 1.0},
            **training,
        },
    )
    if screen:
        add_small_screen(package, seed)
