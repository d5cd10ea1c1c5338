"""Learning new normal parts without training: they join the prototypes and the memory, and thresholds are set again."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from prn_fast.data.anomalies import AnomalyGenerator
from prn_fast.data.duplicates import group_parts
from prn_fast.data.image_tiles import load_tiles
from prn_fast.data.samples import GOOD, Sample, load_samples, split_validation
from prn_fast.data.textures import load_textures
from prn_fast.engine.base import Detections, Engine
from prn_fast.errors import DataError, PackageError
from prn_fast.files import place_folder, reporting, settle, staging_folder
from prn_fast.kernels import OPTIMIZED
from prn_fast.model.memory import remember_more
from prn_fast.model.prn import PRN
from prn_fast.model.prototypes import extend_prototypes
from prn_fast.package import MAX_CALIBRATION_IMAGES, Package, ValidationSet, check_writable, now
from prn_fast.training.calibration import Scored, calibrate, calibration_entry, validation_metrics
from prn_fast.training.early_exit import TwoStages, calibrate_exit
from prn_fast.training.line_calibration import choose_images, require_supported, require_unseen, score_images
from prn_fast.training.metrics import image_metrics
from prn_fast.training.settings import WANTED_LOSS

# Half of the new images join the prototypes; the others show how the network scores images that it does not know.
HELD_OUT_SHARE = 0.5
# How far a validation figure may fall: the noise of a few dozen images.
TOLERATED_FALL = 0.005
# The feature maps of more would take gigabytes.
MAX_NEW_IMAGES = 1024
_BATCH = 8
_AGAINST_NEW = "new_image_auroc"


@dataclass(frozen=True)
class Update:
    """What an update did.

    Attributes:
        package: the updated one, at the path that was asked for.
        joined, held_out: new images that joined the prototypes, and that calibrated.
        before, after: figures of the validation; "new_image_auroc" is that of its anomalies against the new images.
    """

    package: Package
    joined: int
    held_out: int
    before: dict[str, float]
    after: dict[str, float]


def update_package(
    package: Package,
    good: Sequence[Path],
    source: str,
    *,
    false_alarm_rate: float | None = None,
    output: Path | None = None,
    seed: int = 0,
    rebuild: Callable[[Package], None] = lambda made: None,
    progress: Callable[[str], None] = lambda line: None,
) -> Update:
    """Add new normal images to a package's prototypes and memory, and calibrate its thresholds with others of them.

    A learned map and score keep their weights. So does a screen, which gets a new cut.

    Args:
        package: trained.
        good: files of good images that training has not seen; half of them are held out.
        source: where they come from, for the manifest.
        false_alarm_rate: of good images; None takes `default_rate`.
        output: path of the updated package; None replaces `package`, at once and only if all went well.
        seed: of the split and of the clustering.
        rebuild: builds the engines in the new package before it takes its place.
        progress: called with a line before each slow step.
    Raises:
        PackageError: figures of the validation would fall; names them.
        ConfigError, DataError, EngineError: as `calibrate_on_line`, and as `rebuild`.
        StorageError: the package cannot be written. In all cases, it is as it was.
    """
    target = package.path if output is None else output
    check_writable(target)
    samples = [Sample(path, 0, GOOD) for path in choose_images(package, good, ()).good]
    if len(samples) < 2:
        raise DataError(
            f"{len(samples)} good images are too few: at least one must join the prototypes, and one calibrate"
        )
    groups = group_parts(samples, HELD_OUT_SHARE / 2)
    joining, held_out = split_validation(samples, HELD_OUT_SHARE, seed, None if groups is None else groups.tolist())
    require_supported(len(held_out), false_alarm_rate)
    pixels = _pixels(package, joining[:MAX_NEW_IMAGES], seed)
    paths, validation = [sample.path for sample in held_out], package.validation()
    model = package.model(OPTIMIZED)
    progress(f"scoring {len(paths)} of {len(samples)} new images and the validation split as the package is")
    scored, _, before = _figures(package, model, validation, paths)
    require_unseen(package, paths, scored.images)

    training = package.manifest["training"]
    behind = int(training.get("normals") or len(package.calibration_images()))
    old = [one.clone() for one in model.prototypes()]
    model.set_prototypes(extend_prototypes(model.backbone, old, behind, _normalized(model, pixels), seed, progress))
    if model.memory is not None:
        patches = model.memory.patches
        patches.copy_(remember_more(patches, model.backbone, _normalized(model, pixels), len(pixels), seed))
    progress("scoring the same images with the new prototypes")
    scored, detections, after = _figures(package, model, validation, paths)
    _require_no_fall(package, before, after)
    anomalies = detections.raw_scores[validation.labels == 1]
    calibration = {
        **calibrate(detections, validation, false_alarm_rate),
        **calibration_entry(scored, anomalies, false_alarm_rate, source=source, defects="generated"),
        **({"per_image": True} if training.get("tiles") else {}),
    }
    update = {"date": now(), "source": source, "joined": len(joining), "held_out": len(held_out), "seed": seed}
    parent = Path(os.path.realpath(target)).parent
    with reporting(target):
        parent.mkdir(parents=True, exist_ok=True)
    with staging_folder(parent) as room:
        made = Package.create(
            room / target.name,
            model,
            calibration_images=_mixed(package.calibration_images(), pixels, seed),
            validation=validation,
            calibration=calibration,
            training={
                **training,
                "normals": behind + len(joining),
                "validation": {name: value for name, value in after.items() if name != _AGAINST_NEW},
                "updates": [*training.get("updates", []), update],
            },
        )
        if package.has_screen:
            progress("setting the screen's cut anew")
            _keep_screen(package, made, model, _pixels(package, held_out, seed), seed)
        rebuild(made)
        if output is None:
            package.give_way(made.path)
        else:
            with reporting(target):
                settle(made.path)
                place_folder(made.path, Path(os.path.realpath(target)))
    return Update(Package.open(target, check_signature=False), len(joining), len(held_out), before, after)


def _normalized(model: PRN, pixels: NDArray[np.uint8]) -> Iterator[torch.Tensor]:
    for start in range(0, len(pixels), _BATCH):
        yield model.normalize(torch.from_numpy(pixels[start : start + _BATCH]))


class ModelEngine(Engine):
    """A network in memory, on the CPU, before it is in a package."""

    def __init__(self, model: PRN) -> None:
        super().__init__("network", model.config.image_size, model.config.image_channels, _BATCH)
        self._model = model

    @torch.inference_mode()
    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        scores, maps = self._model.detect(torch.from_numpy(images))
        return scores.numpy(), maps.numpy()


def _figures(
    package: Package, model: PRN, validation: ValidationSet, paths: Sequence[Path]
) -> tuple[Scored, Detections, dict[str, float]]:
    """Scored new images, detections of the validation images, and the figures of both."""
    with ModelEngine(model) as engine:
        detections = engine.infer(validation.images)
        scored = score_images(package, engine, paths)
    anomalies = detections.raw_scores[validation.labels == 1]
    labels = np.repeat([0, 1], [len(scored.raw_scores), len(anomalies)])
    against_new = image_metrics(np.concatenate([scored.raw_scores, anomalies]), labels).auroc
    return scored, detections, {**validation_metrics(detections, validation), _AGAINST_NEW: against_new}


def _require_no_fall(package: Package, before: Mapping[str, float], after: Mapping[str, float]) -> None:
    """A PackageError that names the figures that fall, if any does."""
    words = {
        "image_auroc": "image AUROC of the validation",
        "pixel_average_precision": "pixel AP of the validation",
        _AGAINST_NEW: "image AUROC of its anomalies against the new images",
    }
    fallen = [
        f"{words[name]} from {before[name]:.4f} to {after[name]:.4f}"
        for name in words
        if not after[name] >= before[name] - TOLERATED_FALL
    ]
    if fallen:
        raise PackageError(
            f"{package.path}: not updated, since it would get worse: {', '.join(fallen)}; are all of the new images "
            "good, and of this product? If they are, train again with them"
        )


def _pixels(package: Package, samples: Sequence[Sample], seed: int) -> NDArray[np.uint8]:
    """Images that join the prototypes, at the network's size: resized, or tiles as in training."""
    side, channels = package.config.image_size, package.config.image_channels
    tiles = package.manifest["training"].get("tiles")
    if tiles is None:
        return load_samples(samples, side, channels)[0]
    return load_tiles(samples, side, channels, int(tiles["overlap"]), MAX_NEW_IMAGES, seed)[0]


def _keep_screen(package: Package, made: Package, model: PRN, held_out: NDArray[np.uint8], seed: int) -> None:
    """Give the updated package the screen of the former one, with a cut for the new network and threshold.

    The screen's weights stay, but for those of the memory and of its score's level. They and the cut come from
    anomalies that are generated on normal images that neither training nor the prototypes know; the real ones that
    training has seen are not in the package.
    """
    training, before = package.manifest["training"], package.manifest["screen"]
    channels = package.config.image_channels
    textures = Path(training.get("textures", "generated"))
    generator = AnomalyGenerator(load_textures(textures if textures.is_dir() else None, channels, seed=seed), [])
    validation = package.validation()
    normals = np.concatenate([validation.images[validation.labels == 0], held_out])
    screen = package.screen()
    entry, weights = calibrate_exit(
        TwoStages(model, screen),
        normals,
        generator,
        normals[:0],
        made.calibration("threshold"),
        before.get("wanted_loss", WANTED_LOSS),
        seed,
        smallest=before.get("smallest", 0.0),
    )
    screen.take_weights(*weights)
    made.add_screen(screen, {**entry, **({"training": before["training"]} if "training" in before else {})})


def _mixed(old: NDArray[np.uint8], new: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Images for the calibration of engines: some of both, at most `MAX_CALIBRATION_IMAGES`."""
    both = np.concatenate([old, new])
    if len(both) <= MAX_CALIBRATION_IMAGES:
        return both
    half = min(len(new), MAX_CALIBRATION_IMAGES // 2)
    rng = np.random.default_rng((seed, 3))
    kept = np.sort(rng.permutation(len(old))[: MAX_CALIBRATION_IMAGES - half])
    return np.concatenate([old[kept], new[np.sort(rng.permutation(len(new))[:half])]])
