"""How a preset is trained: the numbers, apart from the data and the time. Imports no torch."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from prn_fast.data.simulated import FILL_SOURCES, FillSource
from prn_fast.errors import ConfigError
from prn_fast.model.config import PROTOTYPE_SHARE


@dataclass(frozen=True)
class Recipe:
    """Settings of the data that is generated, the loss and the optimiser; each field says what it does.

    prn-train makes an option of every field, so that each part of a recipe can be switched and its worth measured.
    """

    epochs: int = field(
        default=700, metadata={"help": "an epoch shows every normal image plain and once with each of its anomalies"}
    )
    batch: int = field(default=48, metadata={"help": "images a step, over all processes"})
    learning_rate: float = field(default=1e-4, metadata={"help": "of Adam; the peak where the schedule changes it"})
    weight_decay: float = field(
        default=1e-2, metadata={"help": 'as an L2 term of the gradient ("adam") or apart from it ("adamw")'}
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
        metadata={"help": "of the anomalies that are pasted from seen ones; the others are simulated"},
    )
    augment: bool = field(default=True, metadata={"help": "mirror, turn, scale, bend and fade what is pasted"})
    simulated_sources: tuple[FillSource, ...] = field(
        default=FILL_SOURCES, metadata={"help": "what fills simulated anomalies"}
    )
    foreground: bool = field(default=True, metadata={"help": "keep anomalies inside the object, where one is found"})
    smooth_l1: bool = field(default=True, metadata={"help": "smooth-L1 between map and mask as a part of the loss"})
    focal_weight: float = field(default=5.0, metadata={"help": "of the focal loss; 0 leaves it out"})
    score_weight: float = field(
        default=0.0, metadata={"help": "of the loss of the pixels that decide an image's score; 0 leaves it out"}
    )
    hard_mining: float = field(
        default=1.0,
        metadata={
            "help": "share of a step's anomalies that count in the loss, those with the largest loss; 1 counts all"
        },
    )
    ema: float = field(
        default=0.0,
        metadata={"help": "decay a step of a moving average of the weights, which is what is kept then; 0 keeps none"},
    )
    prototypes: float = field(
        default=PROTOTYPE_SHARE, metadata={"help": "their number K as a share of the normal images"}
    )

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ConfigError(f"epochs must be at least 1, not {self.epochs}")
        if self.batch < 2:
            raise ConfigError(f"batch must be at least 2 for batch norm, not {self.batch}")
        if not self.learning_rate > 0:
            raise ConfigError(f"learning rate must be above 0, not {self.learning_rate}")
        if not self.weight_decay >= 0:
            raise ConfigError(f"weight decay must be 0 or more, not {self.weight_decay}")
        if not self.light >= 0:
            raise ConfigError(f"spread of the light must be 0 or more, not {self.light}")
        if self.anomaly_ratio < 1:
            raise ConfigError(f"anomalies for each normal image must be at least 1, not {self.anomaly_ratio}")
        if not 0 <= self.extended_share <= 1:
            raise ConfigError(f"share of extended anomalies must lie in 0..1, not {self.extended_share}")
        if not self.simulated_sources or not set(self.simulated_sources) <= set(FILL_SOURCES):
            raise ConfigError(
                f"simulated anomalies are filled from one or more of {', '.join(FILL_SOURCES)}, "
                f"not {', '.join(self.simulated_sources) or 'nothing'}"
            )
        if not self.focal_weight >= 0:
            raise ConfigError(f"weight of the focal loss must be 0 or more, not {self.focal_weight}")
        if not self.score_weight >= 0:
            raise ConfigError(f"weight of the score's loss must be 0 or more, not {self.score_weight}")
        if not self.smooth_l1 and not self.focal_weight:
            raise ConfigError("smooth-L1 and the focal loss are both off; a loss needs one of them")
        if not 0 < self.hard_mining <= 1:
            raise ConfigError(f"share of the hardest anomalies must be above 0 and at most 1, not {self.hard_mining}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"decay of the moving average must be 0 or more and below 1, not {self.ema}")
        if not 0 < self.prototypes <= 1:
            raise ConfigError(f"the share of prototypes must be above 0 and at most 1, not {self.prototypes}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**dataclasses.asdict(self), "simulated_sources": list(self.simulated_sources)}


# As published (PRN.md, Training): made for a GPU and hours.
PUBLISHED = Recipe()
# Made for a CPU and minutes: small batches and a loss of the score (docs/accuracy.md), and large steps that shrink to
# nothing by the end.
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
QUICK_PRESETS = ("lite0",)

WARM_UP_SHARE = 0.03
FINAL_SHARE = 0.01


def recipe_of(preset: str) -> Recipe:
    """What a preset is trained by, unless told otherwise."""
    return QUICK if preset in QUICK_PRESETS else PUBLISHED


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
