"""A screen for a package: behind its training, or later from the same images."""

import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import prn_fast
from prn_fast.data.anomalies import AnomalyGenerator
from prn_fast.data.layouts import AUTO, load_inspection_set
from prn_fast.environment import commit
from prn_fast.errors import ConfigError, PackageError
from prn_fast.kernels import OPTIMIZED
from prn_fast.model.prn import PRN
from prn_fast.model.screen import Screen
from prn_fast.package import Package
from prn_fast.training.early_exit import (
    MIN_EXIT_SHARE,
    TwoStages,
    calibrate_exit,
    seconds_for_cut,
    smallest_that_counts,
)
from prn_fast.training.recipe import Recipe
from prn_fast.training.screen import Deadline, TrainedScreen, train_screen
from prn_fast.training.settings import WANTED_LOSS, TrainingSettings
from prn_fast.training.split import Split, prepare_split

# Share of a bounded run that is reserved for the cut: as much as it seems to need, within these limits.
MIN_CUT_SHARE, MAX_CUT_SHARE = 0.3, 0.65

Say = Callable[[str], None]
"""Called with a line for people."""


def give_screen(
    package: Package,
    model: PRN,
    split: Split,
    recipe: Recipe,
    *,
    seed: int,
    wanted_loss: float = WANTED_LOSS,
    deadline: Deadline | None = None,
    trained: TrainedScreen | None = None,
    say: Say = print,
) -> None:
    """Train a screen for a package's network, find its cut, and put both into the package.

    Args:
        package: it gets the screen, replacing any that it has.
        model: its network, on the device to use.
        split: of the images that it was trained on.
        recipe: by which it was trained.
        seed: of every draw.
        wanted_loss: see `calibrate_exit`.
        deadline: of all this; if it passes, the screen is worse, or no cut is found.
        trained: a screen that has been trained since the deadline began; None trains it.
        say: told what comes out, and which engines have to be built again.
    """
    deadline = deadline or Deadline.after(None)
    validation = package.validation()
    normals = validation.images[validation.labels == 0]
    if trained is None:
        training = time_to_train(model, normals, split.all_kinds, wanted_loss, deadline)
        trained = train_screen(model, split.normals, split.generator, recipe, seed, training)
    screen, steps = trained
    stages = TwoStages(model, screen.to(next(model.parameters()).device))
    description, weights = calibrate_exit(
        stages,
        normals,
        split.all_kinds,
        split.seen_images,
        package.calibration("threshold"),
        wanted_loss,
        seed,
        deadline,
        smallest_that_counts(split.seen_masks),
    )
    screen.take_weights(*weights)
    if steps < recipe.screen_steps and description.get("exit_share", 1.0) < MIN_EXIT_SHARE:
        description["why_whole"] += (
            f"; it was trained for {steps} of {recipe.screen_steps} steps, until the time ran out: give more "
            "--minutes, or run prn-train --add-screen PACKAGE without --minutes"
        )
    description["training"] = {
        "minutes": round((time.monotonic() - deadline.start) / 60, 2),
        "steps": steps,
        "torch": torch.__version__,
        "prn_fast": prn_fast.__version__,
        "commit": commit(),
    }
    stale = package.add_screen(screen, description)
    say(exit_line(description))
    if stale:
        say(f"removed, since they hold another screen: {', '.join(stale)}; build them again with prn-build-engine")
    if whole := [name for name, entry in package.engines.items() if "screen" not in entry]:
        say(f"built without a screen, and run whole: {', '.join(whole)}; build them again for early exit")


def time_to_train(
    model: PRN, normals: NDArray[np.uint8], generator: AnomalyGenerator, wanted_loss: float, deadline: Deadline
) -> Deadline:
    """The deadline for training a screen, out of a bounded time for screen and cut; the rest is for the cut.

    Args:
        model, normals, generator, wanted_loss: the cut's, see `calibrate_exit`.
        deadline: of both.
    """
    if not deadline.seconds or not wanted_loss:
        return deadline
    untrained = TwoStages(model, Screen(model.config).to(next(model.parameters()).device))
    cut = seconds_for_cut(untrained, normals, generator, wanted_loss) / deadline.seconds
    return Deadline(deadline.start, deadline.seconds * (1.0 - min(max(cut, MIN_CUT_SHARE), MAX_CUT_SHARE)))


def exit_line(entry: Mapping[str, Any]) -> str:
    """What a manifest's screen says of early exit, as a line for people."""
    if entry.get("cut") is None:
        return f"early exit: off, every image runs whole: {entry.get('why_whole', 'the package does not say why')}"
    return (
        f"early exit: {entry['exit_share']:.0%} of {entry['normals']} held-out normal images leave, "
        f"{entry['lost']} of {entry['flagged']} flagged anomalies are lost (95 % bound {entry['loss_bound']:.1%})"
    )


def add_screen(
    path: Path,
    data: Path | None = None,
    *,
    layout: str | None = None,
    wanted_loss: float = WANTED_LOSS,
    minutes: float | None = None,
    changes: Mapping[str, Any] | None = None,
    say: Say = print,
) -> Package:
    """Add a screen to a package that was trained without one, or replace the one it has.

    Args:
        path: the package.
        data: the folder that it was trained on; None takes the one that it names.
        layout: of the folder; None takes the package's.
        wanted_loss: see `calibrate_exit`.
        minutes: bound; None trains all steps.
        changes: fields of the recipe to change, such as `screen_steps`.
        say: see `give_screen`.
    Raises:
        PackageError: a package that does not say how it was trained.
        ConfigError: the folder is not there, or its images are not those that the package was trained on.
    """
    package = Package.open(path)
    training = package.manifest["training"]
    folder = Path(training.get("data", "")) if data is None else data
    if not folder.is_dir():
        raise ConfigError(f"{folder}: the folder that the package was trained on is not here; give --data DIR")
    settings, recipe = settings_of(package, folder, layout, changes or {})
    inspection = load_inspection_set(folder, settings.layout)
    split = prepare_split(settings, recipe, inspection, package.config)
    _require_same_images(package, split, folder)
    give_screen(
        package,
        package.model(OPTIMIZED),
        split,
        recipe,
        seed=settings.seed,
        wanted_loss=wanted_loss,
        deadline=Deadline.after(None if minutes is None else 60.0 * minutes),
        say=say,
    )
    return package


def settings_of(
    package: Package, data: Path, layout: str | None, changes: Mapping[str, Any]
) -> tuple[TrainingSettings, Recipe]:
    """How a package's images were split, and its recipe with some fields changed.

    Raises:
        PackageError: the package does not say.
    """
    training = package.manifest["training"]
    if missing := [name for name in ("seen", "recipe", "seed", "preset") if name not in training]:
        raise PackageError(f"{package.path}: its manifest does not say {missing[0]!r} of its training; train it again")
    recipe = recorded_recipe(training, changes)
    settings = TrainingSettings(
        data=data,
        output=package.path,
        layout=layout or training.get("layout", AUTO),
        preset=training["preset"],
        image_size=package.config.image_size,
        image_channels=package.config.image_channels,
        tiles=bool(training.get("tiles")),
        seen=len(training["seen"]),
        normals=training.get("most_normals"),
        parts=training.get("parts"),
        textures=recorded_textures(training),
        seed=training["seed"],
        recipe=recipe,
    )
    return settings, recipe


def recorded_recipe(training: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a manifest's training, with some fields changed."""
    known = {field.name for field in fields(Recipe)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in {**training["recipe"], **(changes or {})}.items()
        if name in known
    }
    return Recipe(**values)


def recorded_textures(training: Mapping[str, Any]) -> Path | None:
    """The folder of textures of a manifest's training; None if they were generated."""
    textures = training.get("textures", "generated")
    return None if textures == "generated" else Path(textures)


def _require_same_images(package: Package, split: Split, folder: Path) -> None:
    """A ConfigError unless a folder's images are split as the package's were: held-out images must stay held out."""
    if list(split.seen) != package.manifest["training"]["seen"]:
        raise ConfigError(
            f"{folder}: other defects would be seen than the package lists; give the folder that it was trained on, as "
            "it was then"
        )
    held_out = {image.tobytes() for image in package.validation().images}
    if any(image.tobytes() in held_out for image in split.normals):
        raise ConfigError(
            f"{folder}: images that the package holds out would be trained on; give the folder that it was trained on, "
            "as it was then"
        )
