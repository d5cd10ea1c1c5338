"""Training: from a folder of images to a model package."""

import dataclasses
import shutil

import torch
from rich.console import Console
from rich.text import Text

from prn_fast.data.folders import find_images, summary
from prn_fast.data.layouts import load_inspection_set
from prn_fast.data.parts import UNTOLD, numbered_names
from prn_fast.data.samples import choose_channels
from prn_fast.errors import ConfigError
from prn_fast.model.config import preset
from prn_fast.model.screen import SCREEN_WIDTH
from prn_fast.package import Package, check_writable
from prn_fast.training.checkpoint import Checkpoint
from prn_fast.training.finish import finish
from prn_fast.training.hardware import training_precision
from prn_fast.training.initial_network import prepare_model
from prn_fast.training.loop import Run
from prn_fast.training.notes import say_lowest_rate, say_note
from prn_fast.training.processes import Clock, is_first, launch
from prn_fast.training.recipe import recipe_of
from prn_fast.training.settings import TrainingSettings
from prn_fast.training.settle import settle
from prn_fast.training.small_start import small_start
from prn_fast.training.split import prepare_split


def train(settings: TrainingSettings, console: Console | None = None) -> Package:
    """Train a PRN and write its package.

    Under torchrun, several processes do it together; see `processes`.

    Raises:
        PRNError: bad data, weights or settings; says which.
    """
    check_writable(settings.output)
    is_side_chosen = settings.image_size is None
    settings, lines = settle(settings, load_inspection_set(settings.data, settings.layout))
    first = small_start(settings) if is_side_chosen else None
    if first is not None:
        lines.append(
            f"a third of the training is at {first.image_size} px, where steps are quick; the rest goes on at "
            f"{settings.image_size} px"
        )
    if is_first():
        for line in lines:
            say_note(line, console or Console())
    if first is None:
        return _train_at_one_side(settings, console)
    begun = Checkpoint(settings.output, settings.identity()).exists
    if settings.resume and first.output.exists():
        start = Package.open(first.output, check_signature=False)
    elif settings.resume and not first.resume:
        # Before the start there is nothing to resume; this says so.
        Checkpoint(settings.output, settings.identity()).check()
        raise ConfigError(f"{first.output}: the start of this run is gone; run without --resume")
    else:
        start = _train_at_one_side(first, console)
    package = _train_at_one_side(dataclasses.replace(settings, resume=settings.resume and begun), console, start)
    shutil.rmtree(start.path)
    return package


def _train_at_one_side(
    settings: TrainingSettings, console: Console | None = None, start: Package | None = None
) -> Package:
    """Train at the side of settings that leave nothing open, going on after a start at a smaller one."""
    if settings.resume:
        Checkpoint(settings.output, settings.identity()).check()
    run, missing = prepare_run(settings, console, start)
    if run.fabric.is_global_zero:
        say_lowest_rate(len(run.split.validation.labels) // 2, settings)
    run.fit()
    package = finish(run, missing) if run.fabric.is_global_zero else None
    run.fabric.barrier()
    return package or Package.open(settings.output, check_signature=False)


def prepare_run(
    settings: TrainingSettings, console: Console | None = None, start: Package | None = None
) -> tuple[Run, list[str]]:
    """Everything before the first step; also the names of backbone weights that are missing, see `prepare_model`.

    Args:
        settings: what they leave open is decided by the data.
        start: a training at a smaller side that this one goes on from.
    """
    recipe = settings.recipe or recipe_of(settings.preset)
    inspection = load_inspection_set(settings.data, settings.layout)
    settings, _ = settle(settings, inspection)
    assert settings.image_size is not None
    channels, remark = (settings.image_channels, "") if settings.image_channels else choose_channels(inspection)
    config = dataclasses.replace(
        preset(settings.preset),
        image_size=settings.image_size,
        image_channels=channels,
        projection=settings.projection,
        residual=settings.residual,
        map=settings.chosen_map,
        score=settings.chosen_score,
        memory=settings.chosen_memory,
        screen_width=SCREEN_WIDTH if settings.chosen_map == "learned" and recipe.screen else 0,
    )
    fabric = launch(settings.precision or training_precision())
    console = (console or Console()) if fabric.is_global_zero else Console(quiet=True)
    clock = Clock(fabric, 0.0 if start is None else 60.0 * start.manifest["training"]["minutes"])
    torch.manual_seed(settings.seed)
    if remark:
        say_note(remark, console)
    split = prepare_split(settings, recipe, inspection, config)
    pieces = "tiles" if settings.tiles else "images"
    console.print(
        Text.assemble(
            (settings.preset, "bold"),
            f", {config.image_size} px, {'grey' if channels == 1 else 'RGB'}: "
            f"{len(split.normals)} normal {pieces} to train on, {len(split.validation.labels)} to validate, "
            f"{len(split.seen)} seen anomalies",
        )
    )
    passed_over = [(inspection.passed_over, inspection.root)]
    if settings.textures is not None:
        passed_over.append((find_images(settings.textures).passed_over, settings.textures))
    for files, folder in passed_over:
        if files:
            console.print(Text(f"{folder}: {summary(files, folder)}"), soft_wrap=True)
    if not split.parts_told:
        say_note(UNTOLD, console)
    if settings.parts is None and not inspection.validation and (told := numbered_names(inspection)):
        say_note(told, console)
    model, missing = prepare_model(settings, recipe, config, split, fabric, console, start)
    return Run(settings, recipe, model, split, fabric, clock, console, start), missing
