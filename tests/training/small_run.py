"""Settings of trainings that take seconds."""

import dataclasses
from pathlib import Path

from prn_fast.training.recipe import QUICK
from prn_fast.training.settings import TrainingSettings
from tests.small_package import SIDE

RECIPE = dataclasses.replace(QUICK, epochs=4, batch=8, ema=0.9, screen=False)


def settings(data: Path, output: Path, **changes: object) -> TrainingSettings:
    """Four epochs at 64 pixels; three defects are seen."""
    values = {"data": data, "output": output, "image_size": SIDE, "seen": 3, "seed": 5, "recipe": RECIPE}
    return TrainingSettings(**(values | changes))
