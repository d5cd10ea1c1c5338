"""What a PRN is made of: everything needed to build the module again from its weights. Imports no torch."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from prn_fast.errors import ConfigError

BackboneName = Literal["resnet18", "wide_resnet50_2", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]
ProjectionKind = Literal["elementwise", "pointwise"]
ResidualKind = Literal["square", "absolute"]
MapKind = Literal["published", "learned"]
ScoreKind = Literal["published", "learned"]

# The deepest backbone stage has stride 32, and attention needs an even map at stride 16.
SIDE_MULTIPLE = 64
STRIDES = (4, 8, 16)
SCREEN_STRIDE = STRIDES[1]  # of the screen's maps
TILE_OVERLAP = 32  # pixels that neighbouring tiles of a large image or a web share
PROTOTYPE_SHARE = 0.1  # K is this share of the normal training images


@dataclass(frozen=True)
class BackboneSpec:
    """Channels of the four used stages (strides 4, 8, 16, 32) and the pixel normalisation it was trained with."""

    channels: tuple[int, int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# EfficientNet-Lite normalises bytes as (pixel - 127) / 128.
_LITE_MEAN, _LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3

BACKBONES: dict[str, BackboneSpec] = {
    "resnet18": BackboneSpec((64, 128, 256, 512), _IMAGENET_MEAN, _IMAGENET_STD),
    "wide_resnet50_2": BackboneSpec((256, 512, 1024, 2048), _IMAGENET_MEAN, _IMAGENET_STD),
    "efficientnet_lite0": BackboneSpec((24, 40, 112, 320), _LITE_MEAN, _LITE_STD),
    "efficientnet_lite1": BackboneSpec((24, 40, 112, 320), _LITE_MEAN, _LITE_STD),
    "efficientnet_lite2": BackboneSpec((24, 48, 120, 352), _LITE_MEAN, _LITE_STD),
}


@dataclass(frozen=True)
class PRNConfig:
    """Structure of a Prototypical Residual Network.

    Attributes:
        backbone: frozen feature extractor, a key of `BACKBONES`.
        image_size: input side in pixels, a multiple of 64.
        image_channels: 1 (grey) or 3 (RGB), as handed to an engine.
        prototypes: K for each scale (stride 4, 8, 16); fixed when prototypes are made from normal images.
        attention_layers: multi-size attention layers in a row, per scale.
        patch_divisors: patch sides are the map's side divided by these; see `attention_grids`.
        projection: "elementwise" (published: a scale and a bias for each value of a token, scores divided by D) or
            "pointwise" (1x1 convolutions shared by all patch sizes, scores divided by sqrt(D)).
        residual: "square" (published: of the difference between feature and prototype) or "absolute".
        map: of anomalies: "published" (the decoder's) or "learned" (weighed with a memory and a screen).
        score: of an image: "published" (mean of the 100 largest pixels) or "learned" (a weighted sum of statistics).
        memory: patches of normal images that the learned map measures distances to; 0: none.
        screen_width: channels of the screen that the learned map reads; 0: it reads none.
    """

    backbone: BackboneName = "resnet18"
    image_size: int = 256
    image_channels: int = 3
    prototypes: tuple[int, int, int] = (20, 20, 20)
    attention_layers: int = 3
    patch_divisors: tuple[int, ...] = (1, 2, 4, 8)
    projection: ProjectionKind = "elementwise"
    residual: ResidualKind = "square"
    map: MapKind = "published"
    score: ScoreKind = "published"
    memory: int = 0
    screen_width: int = 0

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise ConfigError(f"unknown backbone {self.backbone!r}; choose one of {', '.join(BACKBONES)}")
        if self.image_size < SIDE_MULTIPLE or self.image_size % SIDE_MULTIPLE:
            raise ConfigError(f"image size {self.image_size} is not a positive multiple of {SIDE_MULTIPLE}")
        if self.image_channels not in (1, 3):
            raise ConfigError(f"image channels must be 1 (grey) or 3 (RGB), not {self.image_channels}")
        if len(self.prototypes) != len(STRIDES) or min(self.prototypes) < 1:
            raise ConfigError(f"prototypes must be three counts of at least one, not {self.prototypes}")
        if self.attention_layers < 1:
            raise ConfigError(f"attention layers must be at least 1, not {self.attention_layers}")
        if not self.patch_divisors or min(self.patch_divisors) < 1:
            raise ConfigError(f"patch divisors must be positive integers, not {self.patch_divisors}")
        if self.projection not in ("elementwise", "pointwise"):
            raise ConfigError(f"unknown projection {self.projection!r}; choose elementwise or pointwise")
        if self.residual not in ("square", "absolute"):
            raise ConfigError(f"unknown residual {self.residual!r}; choose square or absolute")
        if self.score not in ("published", "learned"):
            raise ConfigError(f"unknown score {self.score!r}; choose published or learned")
        if self.map not in ("published", "learned"):
            raise ConfigError(f"unknown map {self.map!r}; choose published or learned")
        beside = f"a memory of {self.memory} patches and a screen of {self.screen_width} channels"
        if min(self.memory, self.screen_width) < 0:
            raise ConfigError(f"{beside}: both must be 0 or more")
        if (self.map == "learned") != (self.memory + self.screen_width > 0):
            raise ConfigError(
                f"a {self.map} map with {beside}: a learned map weighs one of them or both, and a published map none"
            )

    @property
    def spec(self) -> BackboneSpec:
        """Channels and normalisation of the backbone."""
        return BACKBONES[self.backbone]

    @property
    def channels(self) -> tuple[int, int, int]:
        """Channels of the three scales, C_s."""
        return self.spec.channels[:3]

    @property
    def sides(self) -> tuple[int, int, int]:
        """Sides of the three maps, h_s: the image's side over 4, 8 and 16."""
        side = self.image_size
        return side // STRIDES[0], side // STRIDES[1], side // STRIDES[2]

    def attention_grids(self, side: int) -> tuple[int, ...]:
        """Patches along a side, one entry for each patch size.

        The divisor itself where it divides the map's side (always, for images of a multiple of 128), otherwise the
        largest smaller number that does: a 12-pixel map and divisor 8 give 6 patches of 2 pixels.
        """
        return tuple(
            max(grid for grid in range(1, divisor + 1) if side % grid == 0)
            for divisor in (min(d, side) for d in self.patch_divisors)
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PRNConfig":
        """Inverse of `to_dict`; unknown or missing fields are a ConfigError.

        Packages from before there was a choice of residuals, maps or scores do not name it.
        """
        names, later = (
            {field.name for field in dataclasses.fields(cls)},
            {"residual", "map", "score", "memory", "screen_width"},
        )
        if not isinstance(values, dict) or set(values) | later != names:
            difference = sorted((names - later).symmetric_difference(values))
            raise ConfigError(f"model configuration has missing or unknown fields: {', '.join(difference)}")
        if "map" not in values and (values.get("memory") or values.get("screen_width")):
            raise ConfigError(
                "the network has an image score of a development version of 0.2.0, which is gone; train it again"
            )
        try:
            arguments: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
            return cls(**arguments)
        except TypeError as error:
            raise ConfigError(f"model configuration has a value of the wrong kind: {error}") from None


PRESETS: dict[str, PRNConfig] = {
    "r18": PRNConfig(backbone="resnet18"),
    "wide50": PRNConfig(backbone="wide_resnet50_2"),
    # One attention layer keeps the network near 5 GFLOP an image: a model for a CPU at the line.
    "lite0": PRNConfig(backbone="efficientnet_lite0", attention_layers=1),
    "lite1": PRNConfig(backbone="efficientnet_lite1", attention_layers=1),
    "lite2": PRNConfig(backbone="efficientnet_lite2", attention_layers=1),
}


def preset(name: str) -> PRNConfig:
    """The named configuration; a ConfigError names the known ones."""
    try:
        return PRESETS[name]
    except KeyError:
        raise ConfigError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}") from None
