"""The folder layout of MVTec AD.

    train/good/*                     normal images
    test/good/*                      normal images
    test/<kind>/*                    anomalous images, a folder for each kind of defect
    ground_truth/<kind>/<name>_mask.*   masks of the same size; <name>.* is taken too

Source: Bergmann, Fauser, Sattlegger, Steger, "MVTec AD", CVPR 2019. Files are PNG, JPEG, BMP or TIFF.
"""

from pathlib import Path

from prn_fast.data.images import existing_folder, image_size, is_image, list_images
from prn_fast.data.samples import GOOD, InspectionSet, Sample, size_mismatch
from prn_fast.errors import DataError

_MASK_ENDING = "_mask"


def load_mvtec(root: Path | str) -> InspectionSet:
    """List an inspection set; images stay on disk.

    `train/good` is required. Without `test` the test set is empty; a plant may have normal images only.

    Raises:
        DataError: a missing or empty folder, an anomalous image without mask, a mask without image, a mask of
            another size than its image, or an image or mask whose header cannot be read.
    """
    root = existing_folder(root)
    if not (root / "train" / GOOD).is_dir():
        raise DataError(f"{root}: has no folder train/{GOOD}; put the normal training images there")
    train = tuple(Sample(path, 0, GOOD) for path in list_images(root / "train" / GOOD))
    return InspectionSet(root, train, tuple(_test_samples(root)))


def _test_samples(root: Path) -> list[Sample]:
    folders = [path for path in _subfolders(root / "test") if path.name != GOOD]
    _refuse_masks_without_folder(root, {folder.name for folder in folders})
    samples = []
    if (root / "test" / GOOD).is_dir():
        samples += [Sample(path, 0, GOOD) for path in list_images(root / "test" / GOOD)]
    for folder in folders:
        samples += _anomalous_samples(folder, root / "ground_truth" / folder.name)
    return samples


def _anomalous_samples(folder: Path, masks_folder: Path) -> list[Sample]:
    masks: dict[str, Path] = {}
    if masks_folder.is_dir():
        for path in sorted(filter(is_image, masks_folder.iterdir())):
            name = path.stem.removesuffix(_MASK_ENDING)
            if name in masks:
                raise DataError(f"{path}: {masks[name]} is a mask of the same image; keep one of them")
            masks[name] = path
    samples = []
    for path in list_images(folder):
        mask = masks.pop(path.stem, None)
        if mask is None:
            raise DataError(f"{path}: no mask for this image; add {masks_folder / f'{path.stem}{_MASK_ENDING}.png'}")
        if image_size(path) != image_size(mask):
            raise size_mismatch(path, image_size(path), mask, image_size(mask))
        samples.append(Sample(path, 1, folder.name, mask))
    for mask in masks.values():
        raise DataError(f"{mask}: no image for this mask in {folder}; add the image or remove the mask")
    return samples


def _refuse_masks_without_folder(root: Path, kinds: set[str]) -> None:
    for folder in _subfolders(root / "ground_truth"):
        for mask in filter(is_image, sorted(folder.iterdir())):
            # Some sets ship empty masks for their good images; these say nothing new.
            if folder.name not in kinds | {GOOD}:
                raise DataError(
                    f"{mask}: no image for this mask, {root / 'test' / folder.name} is missing; "
                    f"add the images or remove the mask"
                )


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
