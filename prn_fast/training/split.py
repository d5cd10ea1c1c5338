"""What one run trains on, what it validates on, and what it has seen of the defects."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_fast.data.anomalies import AnomalyGenerator
from prn_fast.data.duplicates import Fingerprint, group_parts
from prn_fast.data.image_tiles import load_tiles
from prn_fast.data.samples import InspectionSet, Sample, draw_seen, load_samples, split_validation
from prn_fast.data.textures import load_textures
from prn_fast.errors import DataError
from prn_fast.model.config import TILE_OVERLAP, PRNConfig
from prn_fast.package import ValidationSet
from prn_fast.training.processes import is_first
from prn_fast.training.recipe import Recipe
from prn_fast.training.settings import Settings

VALIDATION_SHARE = 0.1
MOST_VALIDATION_NORMALS = 96
# Their feature maps are clustered in memory.
MOST_TILES = 2048


@dataclass(frozen=True)
class Split:
    """Pixels of one run.

    Attributes:
        normals: uint8 (N, S, S, C), trained on: images, or tiles of them.
        images: number of images that these come from.
        validation: held-out normals, and an anomaly made of each.
        generator: of the anomalies that are trained on.
        seen: paths of the seen anomalies, relative to the root of the set.
        fingerprints: of the seen anomalies.
    """

    normals: NDArray[np.uint8]
    images: int
    validation: ValidationSet
    generator: AnomalyGenerator
    seen: tuple[str, ...]
    fingerprints: tuple[Fingerprint, ...]


def prepare_split(settings: Settings, recipe: Recipe, inspection: InspectionSet, config: PRNConfig) -> Split:
    """Load the images. The validation split comes from the training side alone.

    Its anomalies are of all kinds, whatever kinds the recipe trains on: what differs in nothing but the recipe is
    validated on the same images.
    """
    seen, _ = draw_seen(inspection.anomalies or inspection.test, settings.seen, settings.seed)
    fit, held_out = inspection.train, inspection.validation
    if not held_out:
        parts = group_parts(inspection.train, VALIDATION_SHARE / 2)
        fit, held_out = split_validation(inspection.train, VALIDATION_SHARE, settings.seed, parts.tolist())
    held_out = held_out[:MOST_VALIDATION_NORMALS]
    side, channels = config.image_size, config.image_channels

    def load(
        samples: Sequence[Sample], most: int, progress: str | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        if settings.tiles:
            return load_tiles(samples, side, channels, TILE_OVERLAP, most, settings.seed, progress)
        return load_samples(samples, side, channels, progress)

    normals, _ = load(fit, MOST_TILES, "reading normal images" if is_first() else None)
    seen_images, seen_masks = load(seen, MOST_TILES)
    held_out_images, _ = load(held_out, MOST_VALIDATION_NORMALS)
    marked = seen_masks.any(axis=(1, 2))
    if settings.tiles:
        # A large image's defect lies in some of its tiles.
        seen_images, seen_masks = seen_images[marked], seen_masks[marked]
    elif not marked.all():
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
    return Split(normals, len(fit), validation, generator, names, tuple(map(Fingerprint.of, seen)))


def with_anomalies(normals: NDArray[np.uint8], generator: AnomalyGenerator, rng: np.random.Generator) -> ValidationSet:
    """Normal images (N, S, S, C), and after them an anomaly made from each, in the same order."""
    generated = [generator.generate(image, rng) for image in normals]
    return ValidationSet(
        images=np.concatenate([normals, np.stack([image for image, _ in generated])]),
        labels=np.repeat(np.array([0, 1], np.int64), len(normals)),
        masks=np.concatenate([np.zeros(normals.shape[:3], np.bool_), np.stack([mask for _, mask in generated])]),
    )
