"""How a preset is trained: the numbers, apart from the data and the time."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from prn_fast.errors import ConfigError


@dataclass(frozen=True)
class Recipe:
    """Optimisation settings.

    Attributes:
        epochs: an epoch shows every normal image plain and once with a generated anomaly.
        batch: images a step.
        learning_rate: of Adam; the peak where the schedule changes it.
        weight_decay: as an L2 term of the gradient ("adam") or apart from it ("adamw").
        schedule: "constant", or "cosine": a short warm-up, then down to a hundredth over the epochs or the minutes
            of the run, whichever ends first.
        flips: mirror images at random.
    """

    epochs: int = 700
    batch: int = 48
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    optimizer: Literal["adam", "adamw"] = "adam"
    schedule: Literal["constant", "cosine"] = "constant"
    flips: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ConfigError(f"epochs must be at least 1, not {self.epochs}")
        if self.batch < 2:
            raise ConfigError(f"batch must be at least 2 for batch norm, not {self.batch}")
        if not self.learning_rate > 0:
            raise ConfigError(f"learning rate must be above 0, not {self.learning_rate}")
        if not self.weight_decay >= 0:
            raise ConfigError(f"weight decay must be 0 or more, not {self.weight_decay}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return dataclasses.asdict(self)


# As published (PRN.md, Training): made for a GPU and hours.
PUBLISHED = Recipe()
# Made for a CPU and minutes: larger steps that shrink to nothing as the time runs out.
QUICK = Recipe(
    epochs=60, batch=16, learning_rate=1e-3, weight_decay=1e-2, optimizer="adamw", schedule="cosine", flips=True
)

RECIPES: dict[str, Recipe] = {"r18": PUBLISHED, "wide50": PUBLISHED, "lite0": QUICK}

WARM_UP_SHARE = 0.03
FINAL_SHARE = 0.01


def learning_rate_factor(recipe: Recipe, progress: float) -> float:
    """Share of the recipe's learning rate at a point of the run.

    Args:
        progress: 0 at the start, 1 at the end.
    """
    import math

    if recipe.schedule == "constant":
        return 1.0
    if progress < WARM_UP_SHARE:
        return FINAL_SHARE + (1 - FINAL_SHARE) * progress / WARM_UP_SHARE
    falling = min(1.0, (progress - WARM_UP_SHARE) / (1 - WARM_UP_SHARE))
    return FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * falling))
