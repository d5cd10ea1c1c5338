"""What each study compares: its variants and their arguments of prn-train and prn-eval, and nothing else.

A variant states what it changes; everything else is as in `BASE`, which leaves the recipe to the preset.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from prn_fast.errors import ConfigError

# Options of a command: several values stand with a space between them, None is a switch without a value.
Options = Mapping[str, str | None]

# Studies of the network have its own map, and no screen, which changes nothing of the network.
BASE: Options = {"--preset": "lite0", "--seen": "10", "--no-screen": None, "--map": "published"}


@dataclass(frozen=True)
class Variant:
    """One row of a study.

    Attributes:
        name: as it stands in commands and tables.
        change: what it changes against the study's first variant, in words.
        train: options of prn-train, over those of `BASE`.
        evaluate: options of prn-eval.
        own_validation: it generates the anomalies of its validation split in another way than the first variant, so
            that the two cannot be compared by their validation figures.
        yardstick: no network is trained; the memory of normal patches is measured (`nearest_patch.py`), to which
            `train` goes.
    """

    name: str
    change: str
    train: Options = field(default_factory=dict)
    evaluate: Options = field(default_factory=dict)
    own_validation: bool = False
    yardstick: bool = False

    def train_options(self) -> dict[str, str | None]:
        """All options of prn-train, or of the yardstick, that the study sets, except data, seed and time.

        A yardstick has no screen that it could leave out, and no map to choose. A variant with a screen has the map
        that prn-train chooses.
        """
        options = {**BASE, **self.train}
        if self.yardstick or "--screen" in self.train:
            del options["--no-screen"], options["--map"]
        return options


@dataclass(frozen=True)
class Study:
    """Variants that answer one question; the others are compared with the first."""

    question: str
    variants: tuple[Variant, ...]

    def choose(self, names: list[str] | None) -> tuple[Variant, ...]:
        """The variants of these names, all without names. Errors: ConfigError for one that is not in the study."""
        known = [variant.name for variant in self.variants]
        if unknown := [name for name in names or [] if name not in known]:
            raise ConfigError(f"--only: no variant is called {unknown[0]!r}; choose one of {', '.join(known)}")
        return tuple(variant for variant in self.variants if names is None or variant.name in names)


def _seen(count: int) -> Variant:
    return Variant(f"{count} seen", f"training sees {count} anomalies", {"--seen": str(count)})


def _normals(count: int) -> Variant:
    change = f"{count} normal images to train and validate with"
    return Variant(f"{count} normals", change, {"--normals": str(count)}, own_validation=True)


def _remembered(count: int) -> Variant:
    change = f"no training; the validation split is made with {count} seen anomalies"
    return Variant(f"{count} seen", change, {"--seen": str(count)}, yardstick=True)


def _with(options: Options, *variants: Variant) -> tuple[Variant, ...]:
    """Variants that share options, unless one sets its own."""
    return tuple(replace(variant, train={**options, **variant.train}) for variant in variants)


_AS_PUBLISHED = Variant("base", "as published, with the preset's recipe")
_ABSOLUTE_RESIDUAL = Variant("absolute residual", "|F - P| instead of its square", {"--residual": "absolute"})
# The screen, the map and the score that prn-train gives a package by default.
_DEFAULTS: Options = {"--screen": None}

STUDIES: dict[str, Study] = {
    "products": Study(
        "What does prn-train find by default, product by product?",
        _with(_DEFAULTS, _seen(10), _seen(0)),
    ),
    "seen": Study(
        "How many defects must training have seen?",
        (_seen(10), _seen(5), _seen(1), _seen(0)),
    ),
    "normals": Study(
        "How many normal images does a line need to start?",
        _with(_DEFAULTS, Variant("all", "all normal images of the training side"), *map(_normals, (32, 16, 8))),
    ),
    "parts": Study(
        "What do thresholds promise if whole strips of a web are held out?",
        _with(
            _DEFAULTS,
            Variant("by likeness", "what looks alike is one part"),
            Variant("by name", "a strip is one part", {"--parts": r"(.+)_t\d+"}, own_validation=True),
        ),
    ),
    "nearest-patch": Study(
        "What does a memory of normal patches find, without any training?",
        (_remembered(10), _remembered(0)),
    ),
    "recipe": Study(
        "What is each part of the recipe worth?",
        (
            Variant("base", "the preset's recipe"),
            Variant("no extended", "no pieces of seen anomalies: all are simulated", {"--extended-share": "0"}),
            Variant("no simulated", "pieces of seen anomalies only", {"--extended-share": "1"}),
            Variant("no augmentation", "pieces are pasted as they are", {"--no-augment": None}),
            Variant("no tone", "filled as published: textures or the image", {"--simulated-sources": "textures image"}),
            Variant("no textures", "filled with tone or the image", {"--simulated-sources": "tone image"}),
            Variant("no foreground", "anomalies may lie outside of the object", {"--no-foreground": None}),
            Variant("no smooth L1", "focal loss alone", {"--no-smooth-l1": None}),
            Variant("no focal", "smooth-L1 alone", {"--focal-weight": "0"}),
            Variant("no score loss", "no loss of the pixels that decide the score", {"--score-weight": "0"}),
            Variant("no flips", "images are not mirrored at random", {"--no-flips": None}),
            Variant("constant rate", "no warm-up and no cosine", {"--schedule": "constant"}),
            Variant("Adam", "weight decay as a term of the gradient, as published", {"--optimizer": "adam"}),
            Variant("published", "every option as published", {"--recipe": "published"}),
            Variant("average", "a moving average of the weights is kept", {"--ema": "0.99"}),
        ),
    ),
    "steps": Study(
        "Many small steps or fewer large ones?",
        (
            Variant("8 images", "8 images a step, as in the recipe"),
            Variant("16 images", "16 images a step", {"--batch": "16"}),
            Variant("4 images", "4 images a step", {"--batch": "4"}),
            Variant("rate 0.0005", "half the learning rate", {"--learning-rate": "0.0005"}),
            Variant("rate 0.002", "twice the learning rate", {"--learning-rate": "0.002"}),
        ),
    ),
    "beyond": Study(
        "What do changes to the published method bring?",
        # Of each normal image one anomaly, as the recipe had it when this was asked.
        _with(
            {"--anomaly-ratio": "1"},
            _AS_PUBLISHED,
            Variant("projections", "1x1 convolutions and 1/sqrt(D) in the attention", {"--projection": "pointwise"}),
            _ABSOLUTE_RESIDUAL,
            Variant("prototypes 0.02", "2 % of the normal images, not 10 %", {"--prototypes": "0.02"}),
            Variant("prototypes 0.05", "5 % of the normal images", {"--prototypes": "0.05"}),
            Variant("prototypes 0.2", "20 % of the normal images", {"--prototypes": "0.2"}),
            Variant("light", "gain and gamma of whole images vary", {"--light": "0.2"}),
            Variant("hard mining", "the harder half of a step's anomalies counts", {"--hard-mining": "0.5"}),
            Variant("two anomalies", "two anomalies for each normal image", {"--anomaly-ratio": "2"}),
            # The same training as the base, so that its validation says nothing of mirrored copies.
            Variant(
                "test flips", "maps of mirrored copies are averaged", evaluate={"--flips": None}, own_validation=True
            ),
        ),
    ),
    # For trainings of full length, where those of "beyond" are short.
    "lasting": Study("Does what helps a short training help a full one?", (_AS_PUBLISHED, _ABSOLUTE_RESIDUAL)),
    "resolution": Study(
        "At which size does the network see an image best?",
        (
            Variant("256", "resized to 256 x 256", {"--image-size": "256"}),
            Variant("320", "resized to 320 x 320", {"--image-size": "320"}, own_validation=True),
            Variant(
                "tiles",
                "overlapping tiles of 256 x 256, at the image's own scale",
                {"--tiles": None},
                own_validation=True,
            ),
        ),
    ),
    "exit": Study(
        "How many good images leave early, and is a detected defect lost?",
        (
            Variant("lost 0.01", "299 flagged anomalies bound the loss at 1 %", _DEFAULTS),
            Variant("lost 0.03", "99 bound it at 3 %", {**_DEFAULTS, "--lost": "0.03"}),
        ),
    ),
    "backbones": Study(
        "Is a deeper EfficientNet-Lite worth its time?",
        _with(
            _DEFAULTS,
            Variant("lite0", "EfficientNet-Lite0"),
            Variant("lite1", "EfficientNet-Lite1: more blocks", {"--preset": "lite1"}),
            Variant("lite2", "EfficientNet-Lite2: more blocks, and wider ones", {"--preset": "lite2"}),
        ),
    ),
    "presets": Study(
        "What does a larger network find, and what does it cost?",
        (
            Variant("lite0", "EfficientNet-Lite0"),
            Variant(
                "r18", "ResNet-18, as published, with the recipe of lite0", {"--preset": "r18", "--recipe": "quick"}
            ),
        ),
    ),
}


def study_named(name: str) -> Study:
    """The study of a name. Errors: ConfigError for an unknown one."""
    if name not in STUDIES:
        raise ConfigError(f"no study is called {name!r}; choose one of {', '.join(STUDIES)}")
    return STUDIES[name]
