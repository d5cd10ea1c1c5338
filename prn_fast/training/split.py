"""What one run trains on, what it validates on, and what it has seen of the defects."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_fast.data.anomalies import AnomalyGenerator
from prn_fast.data.samples import InspectionSet, draw_seen, load_samples, split_validation
from prn_fast.data.textures import load_textures
from prn_fast.errors import DataError
from prn_fast.model.config import PRNConfig
from prn_fast.package import ValidationSet
from prn_fast.training.processes import is_first
from prn_fast.training.recipe import Recipe
from prn_fast.training.settings import Settings

VALIDATION_SHARE = 0.1
MOST_VALIDATION_NORMALS = 96


@dataclass(frozen=True)
class Split:
    """Pixels of one run.

    Attributes:
        normals: uint8 (N, S, S, C), trained on.
        validation: held-out normals, and an anomaly made of each.
        generator: of the anomalies that are trained on.
        seen: paths of the seen anomalies, relative to the root of the set.
    """

    normals: NDArray[np.uint8]
    validation: ValidationSet
    generator: AnomalyGenerator
    seen: tuple[str, ...]


def prepare_split(settings: Settings, recipe: Recipe, inspection: InspectionSet, config: PRNConfig) -> Split:
    """Load the images. The validation split comes from the training side alone.

    Its anomalies are of all kinds, whatever kinds the recipe trains on: what differs in nothing but the recipe is
    validated on the same images.
    """
    seen, _ = draw_seen(inspection.anomalies or inspection.test, settings.seen, settings.seed)
    fit, held_out = inspection.train, inspection.validation
    if not held_out:
        fit, held_out = split_validation(inspection.train, VALIDATION_SHARE, settings.seed)
    held_out = held_out[:MOST_VALIDATION_NORMALS]
    side, channels = config.image_size, config.image_channels
    normals, _ = load_samples(fit, side, channels, progress="reading normal images" if is_first() else None)
    seen_images, seen_masks = load_samples(seen, side, channels)
    held_out_images, _ = load_samples(held_out, side, channels)
    if seen and not seen_masks.any(axis=(1, 2)).all():
        raise DataError(f"a seen anomaly's mask vanishes at {side} px; use a larger --image-size")
    pairs = list(zip(seen_images, seen_masks, strict=True))
    textures = load_textures(settings.textures, channels, seed=settings.seed)
    generator = AnomalyGenerator(
        textures,
        pairs,
        extended_share=recipe.extended_share,
        augment=recipe.augment,
        sources=recipe.simulated_sources,
        foreground=recipe.foreground,
    )
    rng = np.random.default_rng((settings.seed, 1))
    validation = with_anomalies(held_out_images, AnomalyGenerator(textures, pairs), rng)
    names = tuple(sample.path.relative_to(inspection.root).as_posix() for sample in seen)
    return Split(normals, validation, generator, names)


def with_anomalies(normals: NDArray[np.uint8], generator: AnomalyGenerator, rng: np.random.Generator) -> ValidationSet:
    """Normal images (N, S, S, C), and after them an anomaly made from each, in the same order."""
    generated = [generator.generate(image, rng) for image in normals]
    return ValidationSet(
        images=np.concatenate([normals, np.stack([image for image, _ in generated])]),
        labels=np.repeat(np.array([0, 1], np.int64), len(normals)),
        masks=np.concatenate([np.zeros(normals.shape[:3], np.bool_), np.stack([mask for _, mask in generated])]),
    )
