"""The end of a training run: the screen, and the package of the weights that validated best."""

import numpy as np
import torch
from rich.text import Text

import prn_fast
from prn_fast.environment import commit
from prn_fast.model.config import TILE_OVERLAP
from prn_fast.package import MAX_CALIBRATION_IMAGES, Package
from prn_fast.training.add_screen import give_screen, time_to_train
from prn_fast.training.calibration import calibrate, validation_metrics
from prn_fast.training.cross_fit import fold_count, train_fold_screens
from prn_fast.training.hardware import device_name, training_precision
from prn_fast.training.judging import judge_validation
from prn_fast.training.loop import Run
from prn_fast.training.screen import Deadline, TrainedScreen, train_screen
from prn_fast.training.settings import SIZES


def finish(run: Run, missing: list[str]) -> Package:
    """Write the package, give it a screen, and forget the run: one that is cut short in between can be resumed."""
    run.model.load_state_dict(run.best["state"])
    # With a trained screen, the validation split is looked at once more, and once by the screens of the folds.
    bound, refit = run.settings.minutes, 0.0 if run.model.learned_map is None else 2.0 * run.validation_seconds
    deadline = Deadline.after(None if bound is None else max(60.0 * bound - run.clock.now - refit, 0.0))
    trained = _train_map_screen(run, deadline)
    package = write_package(run, missing)
    if run.recipe.screen:
        give_screen(
            package,
            run.model,
            run.split,
            run.recipe,
            seed=run.settings.seed,
            wanted_loss=run.settings.lost,
            deadline=deadline,
            trained=trained,
            say=lambda line: run.console.print(Text(line), soft_wrap=True),
        )
    run.checkpoint.remove()
    return package


def _train_map_screen(run: Run, deadline: Deadline) -> TrainedScreen | None:
    """Train the screen that the map of the best weights reads, and fit map and score again with it.

    None where the map reads no screen, or no time is left: both then stay as they are, as they do where no time is
    left for the screens to fit with. Where fewer than two defects are seen, no screen can tell them without knowing
    them; the fit is then to generated ones alone.
    """
    learned_map, validation, split = run.model.learned_map, run.split.validation, run.split
    if learned_map is None or learned_map.screen is None or deadline.passed():
        return None
    normals = validation.images[validation.labels == 0]
    training = time_to_train(run.model, normals, split.all_kinds, run.settings.lost, deadline)
    parts = 2 if len(split.seen) > 1 else 1
    trained = train_screen(
        run.model, split.normals, split.generator, run.recipe, run.settings.seed, training.part(1, parts)
    )
    learned_map.screen.load_state_dict(trained.screen.state_dict())
    if training.passed():
        return trained
    folds = None
    if parts > 1:
        seen, count = list(zip(split.seen_images, split.seen_masks, strict=True)), fold_count(len(split.seen))
        generators = [split.generator.with_seen(seen[fold::count]) for fold in range(count)]
        folds = train_fold_screens(
            run.model, split.normals, generators, len(seen), run.recipe, run.settings.seed, training.rest()
        )
    detections = judge_validation(run.model, split, run.settings.seed, screened=True, folds=folds)
    run.best["metrics"] = validation_metrics(detections, validation)
    run.best["calibration"] = calibrate(detections, validation, run.settings.false_alarm_rate)
    return trained


def write_package(run: Run, missing: list[str]) -> Package:
    """Write the best weights, what they score on the validation split, and how they came about."""
    validation = run.split.validation
    chosen = np.random.default_rng(run.settings.seed).permutation(len(run.split.normals))
    package = Package.create(
        run.settings.output,
        run.model,
        calibration_images=run.split.normals[np.sort(chosen[:MAX_CALIBRATION_IMAGES])],
        validation=validation,
        calibration=run.best["calibration"],
        training={
            "data": str(run.settings.data.resolve()),
            "layout": run.settings.layout,
            "preset": run.settings.preset,
            "tiles": {"overlap": TILE_OVERLAP} if run.settings.tiles else None,
            "seed": run.settings.seed,
            "seen": list(run.split.seen),
            "most_normals": run.settings.normals,
            "parts": run.split.parts,
            "seen_parts": None if run.split.seen_parts is None else list(run.split.seen_parts),
            "seen_fingerprints": [fingerprint.to_dict() for fingerprint in run.split.fingerprints],
            "normals": run.split.images,
            "textures": "generated" if run.settings.textures is None else str(run.settings.textures.resolve()),
            "start": None
            if run.start is None
            else {"image_size": SIZES[0], **{name: run.start[name] for name in ("epochs", "steps", "minutes")}},
            "warm_start": None if run.settings.warm_start is None else str(run.settings.warm_start.resolve()),
            "backbone_weights": "published"
            if run.settings.backbone_weights is None
            else str(run.settings.backbone_weights.resolve()),
            "backbone_weights_missing": missing if run.start is None else run.start["backbone_weights_missing"],
            "recipe": run.recipe.to_dict(),
            "epochs": run.epoch,
            "steps": run.step,
            "minutes": round(run.clock.now / 60, 2),
            "selected_epoch": run.best["epoch"],
            "validation": run.best["metrics"],
            "precision": run.settings.precision or training_precision(),
            "processes": run.fabric.world_size,
            "device": device_name(run.fabric.device),
            "torch": torch.__version__,
            "prn_fast": prn_fast.__version__,
            "commit": commit(),
        },
    )
    return package
