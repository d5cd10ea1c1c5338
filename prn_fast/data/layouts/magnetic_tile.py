"""The folder layout of the magnetic-tile set as it is published.

    MT_Free/Imgs/*.jpg             normal images
    MT_KIND/Imgs/NAME.jpg, .png    an anomalous image and its mask: Blowhole, Break, Crack, Fray, Uneven

The set has no split. Here four normal images in five are trained on, by a hash of the file name. Source: Huang, Qiu,
Yuan, "Surface defect saliency of magnetic tile", The Visual Computer, 2020.
"""

from pathlib import Path

from prn_fast.data.folders import is_image, subfolders
from prn_fast.data.layouts.pairs import good_samples, is_for_training, masked_sample
from prn_fast.data.masks import read_mask
from prn_fast.data.samples import InspectionSet, Sample
from prn_fast.errors import DataError
from prn_fast.paths import shown_path

_FREE = "MT_Free"
_PREFIX = "MT_"


def matches(root: Path) -> bool:
    """Whether a folder looks like this layout."""
    return (root / _FREE / "Imgs").is_dir()


def load(root: Path) -> InspectionSet:
    """List an inspection set; anomalous images whose mask marks nothing (the set has a few) are left out.

    Raises:
        DataError: no normal images, an anomalous image without mask, or a mask of another size.
    """
    free = _images(root / _FREE)
    if not free:
        raise DataError(f"{root / _FREE / 'Imgs'}: no normal images (*.jpg); copy the whole set")
    test: list[Sample] = list(good_samples(path for path in free if not is_for_training(path.name)))
    for folder in subfolders(root):
        if not folder.name.startswith(_PREFIX) or folder.name == _FREE:
            continue
        kind = shown_path(folder.name).removeprefix(_PREFIX).lower()
        for image in _images(folder):
            sample = masked_sample(image, image.with_suffix(".png"), kind)
            assert sample.mask is not None
            if read_mask(sample.mask).any():
                test.append(sample)
    return InspectionSet(root, good_samples(path for path in free if is_for_training(path.name)), tuple(test))


def _images(folder: Path) -> list[Path]:
    return sorted(filter(is_image, (folder / "Imgs").glob("*.jpg")))
