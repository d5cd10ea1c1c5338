"""The folder layout of MVTec AD.

    train/good/*                     normal images
    test/good/*                      normal images
    test/<kind>/*                    anomalous images, a folder for each kind of defect
    ground_truth/<kind>/<name>_mask.*   masks of the same size; <name>.* is taken too

Source: Bergmann, Fauser, Sattlegger, Steger, "MVTec AD", CVPR 2019. Files are PNG, JPEG, BMP or TIFF.
"""

from pathlib import Path

from prn_fast.data.images import existing_folder, is_image, list_images
from prn_fast.data.layouts.pairs import good_samples, masked_samples
from prn_fast.data.samples import GOOD, InspectionSet, Sample
from prn_fast.errors import DataError

MASK_ENDING = "_mask"


def matches(root: Path) -> bool:
    """Whether a folder looks like this layout."""
    return (root / "train" / GOOD).is_dir() and not (root / "test_public").is_dir()


def load(root: Path | str, good: str = GOOD) -> InspectionSet:
    """List an inspection set; images stay on disk.

    `train/good` is required. Without `test` the test set is empty; a plant may have normal images only.

    Args:
        root: of the set.
        good: name of the folders of normal images.
    Raises:
        DataError: a missing or empty folder, an anomalous image without mask, a mask without image, a mask of
            another size than its image, or an image or mask whose header cannot be read.
    """
    root = existing_folder(root)
    if not (root / "train" / good).is_dir():
        raise DataError(f"{root}: has no folder train/{good}; put the normal training images there")
    train = good_samples(list_images(root / "train" / good))
    return InspectionSet(root, train, tuple(_test_samples(root, good)))


def _test_samples(root: Path, good: str) -> list[Sample]:
    folders = [path for path in _subfolders(root / "test") if path.name != good]
    _refuse_masks_without_folder(root, {folder.name for folder in folders}, good)
    samples: list[Sample] = []
    if (root / "test" / good).is_dir():
        samples += good_samples(list_images(root / "test" / good))
    for folder in folders:
        samples += masked_samples(folder, root / "ground_truth" / folder.name, folder.name, MASK_ENDING)
    return samples


def _refuse_masks_without_folder(root: Path, kinds: set[str], good: str) -> None:
    for folder in _subfolders(root / "ground_truth"):
        for mask in filter(is_image, sorted(folder.iterdir())):
            # Some sets ship empty masks for their good images; these say nothing new.
            if folder.name not in kinds | {good}:
                raise DataError(
                    f"{mask}: no image for this mask, {root / 'test' / folder.name} is missing; "
                    f"add the images or remove the mask"
                )


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
