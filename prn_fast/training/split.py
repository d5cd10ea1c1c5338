"""What one run trains on, what it validates on, and what it has seen of the defects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prn_fast.data.anomalies import AnomalyGenerator
from prn_fast.data.duplicates import Fingerprint, group_parts
from prn_fast.data.image_tiles import load_tiles
from prn_fast.data.parts import PartNames
from prn_fast.data.samples import InspectionSet, Sample, draw_normals, draw_seen, load_samples, split_validation
from prn_fast.data.textures import load_textures
from prn_fast.errors import DataError
from prn_fast.model.config import TILE_OVERLAP, PRNConfig
from prn_fast.package import ValidationSet
from prn_fast.paths import shown_path
from prn_fast.training.processes import is_first
from prn_fast.training.recipe import Recipe
from prn_fast.training.settings import TrainingSettings

VALIDATION_SHARE = 0.1
# A tenth of a few dozen images says nothing about false alarms: this many are held out, but at most a third.
WANTED_VALIDATION_NORMALS = 20
LARGEST_VALIDATION_SHARE = 1 / 3
# Enough for a false-alarm rate of one in a hundred.
MAX_VALIDATION_NORMALS = 99
# Their feature maps are clustered in memory.
MAX_TILES = 2048


@dataclass(frozen=True)
class Split:
    """Pixels of one run.

    Attributes:
        normals: uint8 (N, S, S, C), trained on: images, or tiles of them.
        images: number of images that these come from.
        validation: held-out normals, and an anomaly made of each.
        generator: of the anomalies that are trained on.
        all_kinds: generates anomalies of all kinds, as validation has them.
        seen_images: uint8 (M, S, S, C), the seen anomalies: images, or those of their tiles that hold a defect.
        seen_masks: bool (M, S, S), of the same.
        seen: paths of the seen anomalies, relative to the root of the set.
        fingerprints: of the seen anomalies.
        parts: what names the parts, see `PartNames`; None where nobody has named them.
        seen_parts: which part each of the seen anomalies shows; None likewise.
        parts_told: whether pictures of one part were kept together, or there was no need to.
    """

    normals: NDArray[np.uint8]
    images: int
    validation: ValidationSet
    generator: AnomalyGenerator
    all_kinds: AnomalyGenerator
    seen_images: NDArray[np.uint8]
    seen_masks: NDArray[np.bool_]
    seen: tuple[str, ...]
    fingerprints: tuple[Fingerprint, ...]
    parts: str | None
    seen_parts: tuple[str, ...] | None
    parts_told: bool


def prepare_split(settings: TrainingSettings, recipe: Recipe, inspection: InspectionSet, config: PRNConfig) -> Split:
    """Load the images. The validation split comes from the training side alone. The settings are as `settle` has them.

    Its anomalies are of all kinds, whatever kinds the recipe trains on: runs that differ only in the recipe are
    validated on the same images.
    """
    assert settings.seen is not None
    seen, _ = draw_seen(inspection.anomalies or inspection.test, settings.seen, settings.seed)
    parts = None if settings.parts is None else PartNames.read(settings.parts)
    part_of = None if parts is None else parts.of_set(inspection)
    train = draw_normals(inspection.train, settings.normals, settings.seed)
    fit, held_out, parts_told = train, inspection.validation, True
    if not held_out:
        share = validation_share(len(train))
        groups = _groups(train, part_of, share)
        parts_told = groups is not None
        fit, held_out = split_validation(train, share, settings.seed, groups)
    held_out = held_out[:MAX_VALIDATION_NORMALS]
    side, channels = config.image_size, config.image_channels

    def load(
        samples: Sequence[Sample], most: int, progress: str | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        if settings.tiles:
            return load_tiles(samples, side, channels, TILE_OVERLAP, most, settings.seed, progress)
        return load_samples(samples, side, channels, progress)

    normals, _ = load(fit, MAX_TILES, "reading normal images" if is_first() else None)
    seen_images, seen_masks = load(seen, MAX_TILES)
    held_out_images, _ = load(held_out, MAX_VALIDATION_NORMALS)
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
    all_kinds = AnomalyGenerator(textures, pairs)
    validation = with_anomalies(held_out_images, all_kinds, rng)
    return Split(
        normals=normals,
        images=len(fit),
        validation=validation,
        generator=generator,
        all_kinds=all_kinds,
        seen_images=seen_images,
        seen_masks=seen_masks,
        seen=tuple(shown_path(sample.path, inspection.root) for sample in seen),
        fingerprints=tuple(map(Fingerprint.of, seen)),
        parts=None if parts is None else parts.text,
        seen_parts=None if part_of is None else tuple(part_of[sample.path] for sample in seen),
        parts_told=parts_told,
    )


def _groups(normals: Sequence[Sample], part_of: Mapping[Path, str] | None, share: float) -> list[int] | None:
    """Which images show one part: by the names of the parts, or by likeness; None where likeness cannot decide."""
    if part_of is None:
        groups = group_parts(normals, share / 2)
        return None if groups is None else groups.tolist()
    numbers: dict[str, int] = {}
    return [numbers.setdefault(part_of[sample.path], len(numbers)) for sample in normals]


def validation_share(normals: int) -> float:
    """Share of the normal images to hold out: a tenth, but `WANTED_VALIDATION_NORMALS` of few, up to a third."""
    if not normals:
        return VALIDATION_SHARE
    return max(VALIDATION_SHARE, min(WANTED_VALIDATION_NORMALS / normals, LARGEST_VALIDATION_SHARE))


def with_anomalies(normals: NDArray[np.uint8], generator: AnomalyGenerator, rng: np.random.Generator) -> ValidationSet:
    """Normal images (N, S, S, C), and after them an anomaly made from each, in the same order."""
    generated = [generator.generate(image, rng) for image in normals]
    return ValidationSet(
        images=np.concatenate([normals, np.stack([image for image, _ in generated])]),
        labels=np.repeat(np.array([0, 1], np.int64), len(normals)),
        masks=np.concatenate([np.zeros(normals.shape[:3], np.bool_), np.stack([mask for _, mask in generated])]),
    )
