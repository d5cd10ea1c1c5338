"""What each study compares: its variants and their arguments of prn-train and prn-eval, and nothing else.

A variant states what it changes; everything else is as in `BASE`, which leaves the recipe to the preset.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from prn_fast.errors import ConfigError

# Options of a command; None is a switch without a value.
Options = Mapping[str, str | None]

BASE: Options = {"--preset": "lite0", "--seen": "10"}


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
    """

    name: str
    change: str
    train: Options = field(default_factory=dict)
    evaluate: Options = field(default_factory=dict)
    own_validation: bool = False

    def train_options(self) -> dict[str, str | None]:
        """All options of prn-train that the study sets, but for the data, the seed and the time."""
        return {**BASE, **self.train}


@dataclass(frozen=True)
class Study:
    """Variants that answer one question; the first is what the others are held against."""

    question: str
    variants: tuple[Variant, ...]

    def choose(self, names: list[str] | None) -> tuple[Variant, ...]:
        """The variants of these names, all without names. Errors: ConfigError for one that is not in the study."""
        known = [variant.name for variant in self.variants]
        if unknown := [name for name in names or [] if name not in known]:
            raise ConfigError(f"--only: no variant is called {unknown[0]!r}; choose of {', '.join(known)}")
        return tuple(variant for variant in self.variants if names is None or variant.name in names)


def _seen(count: int) -> Variant:
    return Variant(f"{count} seen", f"training sees {count} anomalies", {"--seen": str(count)})


STUDIES: dict[str, Study] = {
    "seen": Study(
        "How many defects must training have seen?",
        (_seen(10), _seen(5), _seen(1), _seen(0)),
    ),
    "recipe": Study(
        "What is each part of the recipe worth?",
        (
            Variant("base", "the preset's recipe"),
            Variant("no flips", "images are not mirrored at random", {"--no-flips": None}),
            Variant("constant rate", "no warm-up and no cosine", {"--schedule": "constant"}),
            Variant("no weight decay", "weights are not drawn to zero", {"--weight-decay": "0"}),
        ),
    ),
    "presets": Study(
        "What does a larger network find, and what does it cost?",
        (
            Variant("lite0", "EfficientNet-Lite0"),
            Variant("r18", "ResNet-18, as published", {"--preset": "r18"}),
        ),
    ),
}


def study_named(name: str) -> Study:
    """The study of a name. Errors: ConfigError for an unknown one."""
    if name not in STUDIES:
        raise ConfigError(f"no study is called {name!r}; choose of {', '.join(STUDIES)}")
    return STUDIES[name]
