"""What a run trains, on what, for how long."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prn_fast.data.layouts import AUTO
from prn_fast.model.config import ProjectionKind, ResidualKind
from prn_fast.training.calibration import FALSE_ALARM_RATE
from prn_fast.training.recipe import Recipe

Precision = Literal["bf16-mixed", "32-true"]


@dataclass(frozen=True)
class Settings:
    """What to train, on what, for how long.

    Attributes:
        data: folder of one product's images.
        layout: how the folder is laid out, a key of `LAYOUTS`, or "auto".
        output: the package to write, NAME.prn.
        preset: key of `PRESETS`.
        image_size: side to which images are resized, or of the tiles that they are cut into.
        tiles: cut images into overlapping tiles instead of resizing them.
        image_channels: 1 or 3; None takes the first training image's.
        projection, residual: fields of `PRNConfig`.
        minutes: bound of the whole run, the final validation included; None trains all epochs.
        seen: anomalous images that training may see; they are drawn by the seed and never scored.
        textures: folder of texture images for simulated anomalies; None generates some.
        backbone_weights: file of pretrained weights; None takes the published ones.
        start: package whose weights, its backbone's included, training starts from; None starts anew.
        seed: of every draw.
        workers: processes that generate anomalies; none by default, since an anomaly takes about a millisecond.
        precision: of the steps; None takes bfloat16 where the processor multiplies in it.
        false_alarm_rate: wanted share of good images called defective; the package's threshold stands for it.
        resume: go on from the last checkpoint of the same output.
        recipe: None takes the preset's.
    """

    data: Path
    output: Path
    layout: str = AUTO
    preset: str = "lite0"
    image_size: int = 256
    tiles: bool = False
    image_channels: int | None = None
    projection: ProjectionKind = "elementwise"
    residual: ResidualKind = "square"
    minutes: float | None = None
    seen: int = 10
    textures: Path | None = None
    backbone_weights: Path | None = None
    start: Path | None = None
    seed: int = 0
    workers: int = 0
    precision: Precision | None = None
    false_alarm_rate: float = FALSE_ALARM_RATE
    resume: bool = False
    recipe: Recipe | None = None

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on to be continued: all but the time, the workers and `resume` itself."""
        values = {name: str(value) for name, value in dataclasses.asdict(self).items()}
        return {name: value for name, value in values.items() if name not in ("minutes", "workers", "resume")}
