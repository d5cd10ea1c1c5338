"""A training at a large side that begins at the smallest one, where a step takes a fraction of the time.

At 512 px a step takes four times as long as at 256 px. What a network learns at the smaller side serves it at the
larger one: see `warm_start`. The start is a training of its own, whose package lies beside the output until the end.
"""

import dataclasses
import os
from pathlib import Path

from prn_fast.training.checkpoint import Checkpoint
from prn_fast.training.recipe import recipe_of
from prn_fast.training.settings import SIZES, TrainingSettings

# Of the epochs, and of the minutes of a bounded run.
START_SHARE = 1 / 3


def small_start(settings: TrainingSettings) -> TrainingSettings | None:
    """Settings of the start; None where a training begins at its own side.

    That is one at the smallest side, one that starts from a package, and one of several processes, which have the time.

    Args:
        settings: as `settle` has them, for a side that it has chosen.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if settings.image_size == SIZES[0] or settings.tiles or settings.warm_start is not None or not alone:
        return None
    recipe = settings.recipe or recipe_of(settings.preset)
    return dataclasses.replace(
        settings,
        output=start_path(settings.output),
        image_size=SIZES[0],
        minutes=None if settings.minutes is None else START_SHARE * settings.minutes,
        recipe=dataclasses.replace(recipe, epochs=max(1, round(START_SHARE * recipe.epochs)), screen=False),
        map="published",
        score="published",
        memory=None,
        resume=settings.resume and Checkpoint(start_path(settings.output), {}).exists,
    )


def start_path(output: Path) -> Path:
    """Where the start's package lies."""
    return output.with_name(f"{output.stem}.start{output.suffix}")
