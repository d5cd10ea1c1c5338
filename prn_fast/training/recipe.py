"""How a preset is trained: the numbers, apart from the data and the time. Imports no torch."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from prn_fast.data.simulated import FILL_SOURCES, FillSource
from prn_fast.errors import ConfigError
from prn_fast.model.config import PROTOTYPE_SHARE

# Beyond it, products of a step overflow.
LARGEST_NUMBER = 1e6
# What each number must be: a test, which NaN fails too, and its wording.
_LIMITS: dict[str, tuple[Callable[[float], bool], str]] = {
    "epochs": (lambda value: value >= 1, "be at least 1"),
    "batch": (lambda value: value >= 2, "be at least 2 for batch norm"),
    "learning_rate": (lambda value: value > 0, "be above 0"),
    "weight_decay": (lambda value: value >= 0, "be 0 or more"),
    "light": (lambda value: value >= 0, "be 0 or more"),
    "anomaly_ratio": (lambda value: value >= 1, "be at least 1"),
    "extended_share": (lambda value: 0 <= value <= 1, "lie in 0..1"),
    "focal_weight": (lambda value: value >= 0, "be 0 or more"),
    "score_weight": (lambda value: value >= 0, "be 0 or more"),
    "hard_mining": (lambda value: 0 < value <= 1, "be above 0 and at most 1"),
    "ema": (lambda value: 0 <= value < 1, "be 0 or more and below 1"),
    "prototypes": (lambda value: 0 < value <= 1, "be above 0 and at most 1"),
    "screen_steps": (lambda value: value >= 1, "be at least 1"),
}


@dataclass(frozen=True)
class Recipe:
    """TrainingSettings of the data that is generated, the loss and the optimiser; each field says what it does.

    prn-train makes an option of every field, so that the effect of each part of a recipe can be measured.
    """

    epochs: int = field(
        default=700, metadata={"help": "an epoch shows every normal image plain and once with each of its anomalies"}
    )
    batch: int = field(default=48, metadata={"help": "images per step, over all processes"})
    learning_rate: float = field(default=1e-4, metadata={"help": "learning rate; its peak if the schedule changes it"})
    weight_decay: float = field(
        default=1e-2,
        metadata={"help": 'weight decay: an L2 term of the gradient with "adam", apart from it with "adamw"'},
    )
    optimizer: Literal["adam", "adamw"] = field(default="adam", metadata={"help": "Adam or AdamW"})
    schedule: Literal["constant", "cosine"] = field(
        default="constant",
        metadata={
            "help": '"cosine": a short warm-up, then down to a hundredth over the epochs or the minutes of the run, '
            "whichever ends first"
        },
    )
    flips: bool = field(default=False, metadata={"help": "mirror images at random"})
    light: float = field(
        default=0.0, metadata={"help": "spread of a random gain and gamma of whole images; 0 leaves them as they are"}
    )
    anomaly_ratio: int = field(default=1, metadata={"help": "generated anomalies for each normal image of an epoch"})
    extended_share: float = field(
        default=0.5,
        metadata={"help": "share of generated anomalies that are pasted from seen ones; the others are simulated"},
    )
    augment: bool = field(default=True, metadata={"help": "mirror, turn, scale, bend and fade what is pasted"})
    simulated_sources: tuple[FillSource, ...] = field(
        default=FILL_SOURCES, metadata={"help": "what fills simulated anomalies"}
    )
    foreground: bool = field(default=True, metadata={"help": "keep anomalies inside the object, where one is found"})
    smooth_l1: bool = field(default=True, metadata={"help": "smooth-L1 between map and mask as a part of the loss"})
    focal_weight: float = field(default=5.0, metadata={"help": "weight of the focal loss; 0 leaves it out"})
    score_weight: float = field(
        default=0.0, metadata={"help": "weight of the loss of the pixels that decide an image's score; 0 leaves it out"}
    )
    hard_mining: float = field(
        default=1.0,
        metadata={
            "help": "share of a step's anomalies that count in the loss, those with the largest loss; 1 counts all"
        },
    )
    ema: float = field(
        default=0.0,
        metadata={
            "help": "keep a moving average of the weights, with this decay in each step; 0 keeps the last weights"
        },
    )
    prototypes: float = field(
        default=PROTOTYPE_SHARE, metadata={"help": "number of prototypes, as a share of the normal images"}
    )
    screen: bool = field(default=True, metadata={"help": "train a screen for early exit, after the network"})
    screen_steps: int = field(default=700, metadata={"help": "steps of the screen's training"})

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if isinstance(value, float) and not abs(value) <= LARGEST_NUMBER:
                option = each.name.replace("_", "-")
                raise ConfigError(f"--{option} must be a number of at most {LARGEST_NUMBER:,.0f}, not {value}")
        for name, (holds, wanted) in _LIMITS.items():
            if not holds(getattr(self, name)):
                raise ConfigError(f"--{name.replace('_', '-')} must {wanted}, not {getattr(self, name)}")
        if not self.simulated_sources or not set(self.simulated_sources) <= set(FILL_SOURCES):
            raise ConfigError(
                f"--simulated-sources must be one or more of {', '.join(FILL_SOURCES)}, "
                f"not {', '.join(self.simulated_sources) or 'nothing'}"
            )
        if not self.smooth_l1 and not self.focal_weight:
            raise ConfigError("--no-smooth-l1 and --focal-weight 0 leave no loss; a loss needs one of them")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**dataclasses.asdict(self), "simulated_sources": list(self.simulated_sources)}


# As published: for hours on a GPU.
PUBLISHED = Recipe()
# For minutes on a CPU: small batches and a loss of the score (docs/accuracy.md), and large steps that shrink to nothing
# by the end.
QUICK = Recipe(
    epochs=60,
    batch=8,
    learning_rate=1e-3,
    weight_decay=1e-2,
    optimizer="adamw",
    schedule="cosine",
    flips=True,
    score_weight=0.1,
)

RECIPES: dict[str, Recipe] = {"published": PUBLISHED, "quick": QUICK}
# Presets that the quick recipe was made for; any other network is trained as published.
QUICK_PRESETS = ("lite0", "lite1", "lite2")

WARM_UP_SHARE = 0.03
FINAL_SHARE = 0.01


def recipe_of(preset: str) -> Recipe:
    """The default recipe of a preset."""
    return QUICK if preset in QUICK_PRESETS else PUBLISHED


def learning_rate_factor(recipe: Recipe, progress: float) -> float:
    """Share of the recipe's learning rate at a point of the run.

    Args:
        progress: 0 at the start, 1 at the end.
    """
    if recipe.schedule == "constant":
        return 1.0
    if progress < WARM_UP_SHARE:
        return FINAL_SHARE + (1 - FINAL_SHARE) * progress / WARM_UP_SHARE
    falling = min(1.0, (progress - WARM_UP_SHARE) / (1 - WARM_UP_SHARE))
    return FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * falling))
