"""The yardstick of every study: a memory of normal patches, which needs no training.

The memory is the one that a learned map may have (`prn_fast.model.memory`), here a larger one and on its own.
An image's score is the largest value of its map or the mean, whichever separates the validation split better. Backbone,
image size, split and test images are those of a PRN.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from prn_fast.arguments import whole
from prn_fast.data.layouts import load_inspection_set
from prn_fast.data.samples import choose_channels
from prn_fast.engine.base import Detections, Engine
from prn_fast.environment import commit, cpu_name
from prn_fast.errors import DataError, PRNError
from prn_fast.kernels.tile_normalize.reference import normalize_images
from prn_fast.model.backbone import make_backbone
from prn_fast.model.config import PRNConfig, preset
from prn_fast.model.engine_graph import fold_batch_norm
from prn_fast.model.memory import PatchMemory, memory_size, remember, squared_distances
from prn_fast.model.weights import load_backbone_weights, pretrained_state
from prn_fast.training.calibration import calibrate, validation_metrics
from prn_fast.training.evaluation import Evaluation, evaluate
from prn_fast.training.image_size import parse_size
from prn_fast.training.metrics import image_metrics
from prn_fast.training.recipe import recipe_of
from prn_fast.training.settings import TrainingSettings
from prn_fast.training.settle import settle
from prn_fast.training.split import prepare_split
from prn_fast.training.unseen import TestImages, part_test_images

# Image scores of maps (N, S, S), by name.
SCORES: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "largest": lambda maps: maps.max(axis=(1, 2)),
    "mean": lambda maps: maps.mean(axis=(1, 2)),
}
MEMORY = 5000
BATCH = 8
SMOOTHING = 4.0  # standard deviation of the map's Gaussian, pixels, as PatchCore has it


class NearestPatch(Engine):
    """Distances to the nearest patch of normal images, as an engine.

    A distance d becomes d / (d + u), in 0..1, where u is the mean distance between neighbours in the memory.

    Args:
        backbone: of a network with this configuration.
        config: says how images are normalised.
        normals: uint8 (N, S, S, C), whose patches are remembered.
        seed: of the draw of candidates.
        memory: most patches to keep.

    Attributes:
        score: key of `SCORES`.
        memory: of patches.
    """

    def __init__(
        self,
        backbone: nn.Module,
        config: PRNConfig,
        normals: NDArray[np.uint8],
        seed: int = 0,
        memory: int = MEMORY,
    ) -> None:
        super().__init__("nearest patch", normals.shape[1], normals.shape[3], BATCH)
        self.score = "largest"
        self._backbone, self._spec = fold_batch_norm(backbone), config.spec
        count = memory_size(memory, len(normals), config)
        self.memory = PatchMemory(count, config)
        batches = map(self._normalize, parts(normals))
        self.memory.patches = remember(self._backbone, batches, len(normals), count, seed)
        between = squared_distances(self.memory.patches, self.memory.patches).fill_diagonal_(torch.inf).amin(1)
        self._unit = max(float(between.sqrt().mean()), torch.finfo(torch.float32).tiny)

    @torch.inference_mode()
    def distances(self, images: NDArray[np.uint8]) -> Tensor:
        """(n, S / 8, S / 8) distances of images to the memory."""
        _, fine, coarse, _ = self._backbone(self._normalize(images))
        return self.memory(fine, coarse)

    def _normalize(self, images: NDArray[np.uint8]) -> Tensor:
        return normalize_images(torch.from_numpy(images), self._spec.mean, self._spec.std)

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        from scipy.ndimage import gaussian_filter

        distances = self.distances(images)[:, None]
        size = (self.image_size, self.image_size)
        maps = functional.interpolate(distances, size, mode="bilinear", align_corners=False)[:, 0].numpy()
        maps = gaussian_filter(maps, (0, SMOOTHING, SMOOTHING))
        maps = (maps / (maps + self._unit)).astype(np.float32)
        return SCORES[self.score](maps), maps


def parts(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Consecutive batches of images."""
    for start in range(0, len(images), BATCH):
        yield images[start : start + BATCH]


def measure(settings: TrainingSettings) -> dict[str, Any]:
    """What the yardstick finds, in the form of prn-eval.

    `training` and `validation` say what prn-train's manifest says, `scores` what either image score would give.

    Args:
        settings: of the training that it is compared with: data, seen anomalies, seed, image size.
    Raises:
        PRNError: bad data or weights.
    """
    start = time.monotonic()
    inspection = load_inspection_set(settings.data, settings.layout)
    settings, _ = settle(settings, inspection)
    assert settings.image_size is not None
    channels, _ = choose_channels(inspection)
    config = dataclasses.replace(preset(settings.preset), image_size=settings.image_size, image_channels=channels)
    split = prepare_split(settings, recipe_of(settings.preset), inspection, config)
    backbone = make_backbone(config.backbone)
    source = str(settings.backbone_weights or "published weights")
    load_backbone_weights(backbone, pretrained_state(config.backbone, settings.backbone_weights), source)
    engine = NearestPatch(backbone, config, split.normals, settings.seed)
    found = engine.infer(split.validation.images)
    engine.score = max(SCORES, key=lambda name: _image_auroc(SCORES[name](found.maps), split.validation.labels))
    detections = Detections.of(SCORES[engine.score](found.maps), found.maps)
    calibration = calibrate(detections, split.validation, settings.false_alarm_rate)
    minutes = (time.monotonic() - start) / 60
    fingerprints = [fingerprint.to_dict() for fingerprint in split.fingerprints]
    images = part_test_images(inspection, {"seen": split.seen, "seen_fingerprints": fingerprints}, None)
    if len({sample.label for sample in images.scored}) < 2:
        raise DataError(f"{settings.data}: figures need both good and defective test images that are not seen")
    evaluation = evaluate(
        engine, images.scored, threshold=calibration["threshold"], pixel_threshold=calibration["pixel_threshold"]
    )
    labels = np.array([image.label for image in evaluation.images])
    return {
        "commit": commit(),
        "training": {
            "preset": settings.preset,
            "device": cpu_name(),
            "minutes": round(minutes, 2),
            "steps": 0,
            "epochs": 0,
            "selected_epoch": 0,
            "recipe": {},
            "normals": split.images,
            "memory": len(engine.memory.patches),
            "score": engine.score,
            "torch": torch.__version__,
            "commit": commit(),
        },
        "validation": validation_metrics(detections, split.validation),
        "seen": {"listed": len(split.seen), "left_out": len(images.seen), "near_duplicates": len(images.same_part)},
        "unseen_parts": _unseen_parts(evaluation, images),
        "scores": {name: _image_auroc(score(evaluation.maps), labels) for name, score in SCORES.items()},
        **evaluation.to_dict(inspection.root),
    }


def _image_auroc(scores: NDArray[np.float32], labels: NDArray[np.integer]) -> float:
    return image_metrics(scores, labels).auroc


def _unseen_parts(evaluation: Evaluation, images: TestImages) -> dict[str, Any]:
    """As prn-eval has it: image AUROC with those good images alone whose part no training image shows."""
    if images.unseen_parts is None:
        return {"good": None, "image_auroc": None}
    paths = {sample.path for sample in images.unseen_parts}
    chosen = [image for image in evaluation.images if image.label or image.path in paths]
    scores, labels = np.array([image.score for image in chosen]), np.array([image.label for image in chosen])
    return {"good": len(paths), "image_auroc": _image_auroc(scores, labels) if paths else None}


def make_parser() -> argparse.ArgumentParser:
    """Arguments of the command; those that prn-train has mean the same."""
    parser = argparse.ArgumentParser(prog="python -m prn_fast.bench.accuracy nearest-patch")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="images of one product")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for evaluation.json")
    parser.add_argument(
        "--preset", default=TrainingSettings.preset, help="whose backbone is taken (default: %(default)s)"
    )
    parser.add_argument("--seen", type=whole(0), help="default: as prn-train")
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=TrainingSettings.seed, help="default: %(default)s")
    parser.add_argument(
        "--image-size", type=parse_size, metavar="N", help='side, pixels, or "auto", the default, as prn-train has it'
    )
    parser.add_argument("--backbone-weights", type=Path, metavar="FILE")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure and write OUTPUT/evaluation.json; 2 on an error."""
    settings = TrainingSettings(**vars(make_parser().parse_args(argv)))
    try:
        result = measure(settings)
    except PRNError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    settings.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    (settings.output / "evaluation.json").write_text(text, encoding="utf-8")
    return 0
