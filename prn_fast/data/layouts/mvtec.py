"""The folder layout of MVTec AD.

    train/good/*                     normal images
    test/good/*                      normal images
    test/<kind>/*                    anomalous images, a folder for each kind of defect
    ground_truth/<kind>/<name>_mask.*   masks of the same size; <name>.* is taken too

Source: Bergmann, Fauser, Sattlegger, Steger, "MVTec AD", CVPR 2019. Files are PNG, JPEG, BMP or TIFF.
"""

from pathlib import Path

from prn_fast.data.folders import existing_folder, is_image, list_images, subfolders
from prn_fast.data.layouts.pairs import good_samples, masked_samples
from prn_fast.data.samples import GOOD, InspectionSet, Sample
from prn_fast.errors import DataError
from prn_fast.paths import composed, find_spelling, shown_path

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
    # Some sets ship empty masks for their good images; they are ignored.
    companions = tuple(filter(is_image, (root / "ground_truth" / good).glob("*")))
    return InspectionSet(root, train, tuple(_test_samples(root, good)), companions=companions)


def _test_samples(root: Path, good: str) -> list[Sample]:
    folders = [path for path in subfolders(root / "test") if path.name != good]
    _refuse_masks_without_folder(root, {folder.name for folder in folders}, good)
    samples: list[Sample] = []
    if (root / "test" / good).is_dir():
        samples += good_samples(list_images(root / "test" / good))
    for folder in folders:
        masks = find_spelling(root / "ground_truth" / folder.name)
        samples += masked_samples(folder, masks, shown_path(folder.name), MASK_ENDING)
    return samples


def _refuse_masks_without_folder(root: Path, kinds: set[str], good: str) -> None:
    known = {composed(kind) for kind in kinds} | {good}
    for folder in subfolders(root / "ground_truth"):
        for mask in filter(is_image, sorted(folder.iterdir())):
            if composed(folder.name) not in known:
                raise DataError(
                    f"{mask}: no image for this mask, {root / 'test' / folder.name} is missing; "
                    f"add the images or remove the mask"
                )
