"""What layouts share: images with masks beside them or in a folder of their own, and unpublished splits."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from prn_fast.data.folders import is_image, list_images
from prn_fast.data.images import image_size
from prn_fast.data.samples import GOOD, Sample, size_mismatch
from prn_fast.errors import DataError
from prn_fast.paths import composed, find_spelling

# Share of the normal images that goes to the training side where a set has no split of its own.
TRAIN_SHARE = 0.8


def good_samples(paths: Iterable[Path]) -> tuple[Sample, ...]:
    """Normal images."""
    return tuple(Sample(path, 0, GOOD) for path in paths)


def masked_sample(image: Path, mask: Path, kind: str) -> Sample:
    """An anomalous image and its mask; a DataError where the mask is missing or of another size."""
    mask = find_spelling(mask)
    if not mask.is_file():
        raise DataError(f"{image}: no mask for this image; add {mask}")
    if image_size(image) != image_size(mask):
        raise size_mismatch(image, image_size(image), mask, image_size(mask))
    return Sample(image, 1, kind, mask)


def masked_samples(images: Path, masks: Path, kind: str, ending: str) -> list[Sample]:
    """The anomalous images of a folder, each with its mask from another folder, of any image format.

    Args:
        images, masks: the two folders.
        kind: of the defects.
        ending: suffix that a mask's name adds to its image's, such as "_mask"; masks named like their image are taken
            too.
    Raises:
        DataError: an image without mask, a mask without image, two masks of one image, or a mask of another size.
    """
    found: dict[str, Path] = {}
    if masks.is_dir():
        for path in sorted(filter(is_image, masks.iterdir())):
            name = composed(path.stem).removesuffix(ending)
            if name in found:
                raise DataError(f"{path}: {found[name]} is a mask of the same image; keep one of them")
            found[name] = path
    samples = [
        masked_sample(path, found.pop(composed(path.stem), masks / f"{path.stem}{ending}.png"), kind)
        for path in list_images(images)
    ]
    for mask in found.values():
        raise DataError(f"{mask}: no image for this mask in {images}; add the image or remove the mask")
    return samples


def is_for_training(name: str) -> bool:
    """Side of a normal image in a set without a published split: four of five go to training, by a hash of a name."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") < TRAIN_SHARE * 2**64
