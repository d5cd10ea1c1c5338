"""What a run trains, on what, for how long."""

import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prn_fast.data.layouts import AUTO
from prn_fast.errors import ConfigError
from prn_fast.model.config import MapKind, ProjectionKind, ResidualKind, ScoreKind
from prn_fast.training.conformal import require_rate
from prn_fast.training.recipe import QUICK_PRESETS, Recipe, recipe_of

Precision = Literal["bf16-mixed", "32-true"]
# Seen defects that a learned score needs: with fewer, its weights have not been validated.
SEEN_TO_LEARN = 10
# Patches in the memory of a learned map: 0.3 GFLOP an image at 256 px, where lite0 takes 5.
MEMORY = 1000
# Sides to choose from where none is given.
SIZES = (256, 320, 384, 512)
# Anomalies that training sees, of as many or more.
DEFAULT_SEEN = 10
# scikit-learn, which clusters the prototypes, takes no larger one.
MAX_SEED = 2**32 - 1
# Upper 95 % bound of the share of flagged anomalies that may leave an engine early.
WANTED_LOSS = 0.01


def require_minutes(minutes: float | None) -> None:
    """A ConfigError unless the bound of a run is above 0 and finite, or None."""
    if minutes is not None and not 0 < minutes < math.inf:
        raise ConfigError(f"--minutes must be above 0 and finite, not {minutes}")


def require_loss(wanted_loss: float) -> None:
    """A ConfigError unless a wanted bound of the loss is 0 (no early exit) or a share that can be proven."""
    if not (wanted_loss == 0 or 0.001 <= wanted_loss <= 0.5):
        raise ConfigError(
            f"--lost must be 0, which switches early exit off, or from 0.001 to 0.5, not {wanted_loss}; it is the "
            "share of detected defects that may be lost at most, and 0.001 takes 2,995 generated anomalies to show"
        )


@dataclass(frozen=True)
class TrainingSettings:
    """What to train, on what, for how long.

    Attributes:
        data: folder of one product's images.
        layout: how the folder is laid out, a key of `LAYOUTS`, or "auto".
        output: the package to write, NAME.prn.
        preset: key of `PRESETS`.
        image_size: side to which images are resized, or of the tiles that they are cut into; None: 256 for tiles, else
            the data decides, see `propose_size`.
        tiles: cut images into overlapping tiles instead of resizing them.
        image_channels: 1 or 3; None takes 3 if any image of the set holds colour, else 1.
        projection, residual: fields of `PRNConfig`.
        map: of anomalies, a field of `PRNConfig`; None chooses, see `chosen_map`.
        score: of an image, a field of `PRNConfig`; None chooses, see `chosen_score`.
        memory: patches of normal images that a learned map measures distances to; 0: none, None: `MEMORY`.
        minutes: bound of the whole run, the final validation included; None trains all epochs.
        seen: anomalous images that training may see; they are drawn by the seed and never scored. None: `DEFAULT_SEEN`,
            or fewer where there are not so many, see `settle`.
        normals: normal images to use at most, those held out included; they are drawn by the seed. None: all.
        parts: which part each image shows: a table or a pattern, see `PartNames`; None recognises parts by likeness.
        textures: folder of texture images for simulated anomalies; None generates some.
        backbone_weights: file of pretrained weights; None takes the published ones.
        warm_start: package whose weights, its backbone's included, training starts from; None starts from scratch.
        seed: of every draw.
        workers: processes that generate anomalies. None: none on a CPU, since an anomaly takes about a millisecond, and
            some on a GPU, whose steps are as short.
        optimized: train in plain PyTorch on a GPU, too, instead of Triton's kernels.
        precision: of the steps; None takes bfloat16 where the processor multiplies in it.
        false_alarm_rate: target share of good images called defective; sets the package's threshold. None takes
            0.02, or the lowest rate that the held-out normals support.
        lost: upper 95 % bound of the share of flagged anomalies that may leave early; 0 switches early exit off.
        resume: go on from the last checkpoint of the same output.
        recipe: None takes the preset's.
    """

    data: Path
    output: Path
    layout: str = AUTO
    preset: str = "lite0"
    image_size: int | None = None
    tiles: bool = False
    image_channels: int | None = None
    projection: ProjectionKind = "elementwise"
    residual: ResidualKind = "square"
    map: MapKind | None = None
    score: ScoreKind | None = None
    memory: int | None = None
    minutes: float | None = None
    seen: int | None = None
    normals: int | None = None
    parts: str | None = None
    textures: Path | None = None
    backbone_weights: Path | None = None
    warm_start: Path | None = None
    seed: int = 0
    workers: int | None = None
    optimized: bool = False
    precision: Precision | None = None
    false_alarm_rate: float | None = None
    lost: float = WANTED_LOSS
    resume: bool = False
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        require_minutes(self.minutes)
        if not 0 <= self.seed <= MAX_SEED:
            raise ConfigError(f"--seed must be 0 to {MAX_SEED}, not {self.seed}")
        if self.seen is not None and self.seen < 0:
            raise ConfigError(f"--seen must be 0 or more, not {self.seen}")
        if self.normals is not None and self.normals < 2:
            raise ConfigError(
                f"--normals must be 2 or more, not {self.normals}: one to train on and one to validate with"
            )
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"--workers must be 0 or more, not {self.workers}")
        if self.memory is not None and self.memory < 0:
            raise ConfigError(f"--memory must be 0 or more, not {self.memory}")
        if self.memory and self.chosen_map != "learned":
            raise ConfigError("--memory is for a learned map, and the published one is trained here: add --map learned")
        if self.map == "learned" and not (self.chosen_memory or self.chosen_recipe.screen):
            raise ConfigError("--map learned weighs a memory or a screen; leave out --memory 0, or --no-screen")
        for name, kind in (("map", self.map), ("score", self.score)):
            if self.tiles and kind == "learned":
                raise ConfigError(
                    f"--{name} learned is for whole images; leave out --tiles, or take --{name} published"
                )
        if self.false_alarm_rate is not None:
            require_rate(self.false_alarm_rate)
        require_loss(self.lost)
        if self.warm_start is not None and self.backbone_weights is not None:
            raise ConfigError("--warm-start includes the backbone's weights; leave out --backbone-weights")

    @property
    def chosen_recipe(self) -> Recipe:
        """The recipe, by default that of the preset."""
        return self.recipe or recipe_of(self.preset)

    @property
    def chosen_map(self) -> MapKind:
        """The anomaly map to train.

        If none is asked for, it is learned where that was validated: for the presets of the quick recipe and whole
        images. Elsewhere, and where there is neither memory nor screen, it is the published one.
        """
        if self.map is not None:
            return self.map
        validated = self.preset in QUICK_PRESETS and not self.tiles
        return "learned" if validated and (self.memory != 0 or self.chosen_recipe.screen) else "published"

    @property
    def chosen_memory(self) -> int:
        """Patches of the learned map's memory; 0 for a published map."""
        if self.chosen_map == "published":
            return 0
        return MEMORY if self.memory is None else self.memory

    @property
    def chosen_score(self) -> ScoreKind:
        """The image score to train.

        If none is asked for, it is learned where that was validated: for a learned map, and `SEEN_TO_LEARN` seen
        defects to fit it to. Elsewhere it is the published one.
        """
        if self.score is not None:
            return self.score
        seen = DEFAULT_SEEN if self.seen is None else self.seen
        return "learned" if self.chosen_map == "learned" and seen >= SEEN_TO_LEARN else "published"

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on to be continued.

        That is everything but the time, the way the work is done, and the output, which the name of the checkpoint's
        folder stands for, so that both can be renamed. Paths count, wherever they are named from.
        """
        free = ("minutes", "workers", "optimized", "resume", "output", "lost")
        values = {name: value for name, value in dataclasses.asdict(self).items() if name not in free}
        values["map"], values["score"], values["memory"] = self.chosen_map, self.chosen_score, self.chosen_memory
        return {
            name: str(os.path.realpath(value) if isinstance(value, Path) else value) for name, value in values.items()
        }
