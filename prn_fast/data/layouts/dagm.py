"""The folder layout of one class of DAGM 2007, with its official split.

    Train/NUMBER.PNG, Train/Label/NUMBER_label.PNG   images; those with a label are defective
    Test/...                                         the same

Labels are ellipses around the defects, not outlines. Source: "Weakly Supervised Learning for Industrial Optical
Inspection", competition at the DAGM symposium 2007.
"""

from pathlib import Path

from prn_fast.data.folders import is_image, list_images
from prn_fast.data.layouts.pairs import masked_sample
from prn_fast.data.samples import GOOD, InspectionSet, Sample
from prn_fast.errors import DataError
from prn_fast.paths import composed

_MASK_ENDING = "_label"
_DEFECT = "defect"


def matches(root: Path) -> bool:
    """Whether a folder looks like this layout."""
    return (root / "Train" / "Label").is_dir()


def load(root: Path) -> InspectionSet:
    """List an inspection set; defective training images are those that may be seen.

    Raises:
        DataError: a missing or empty folder, or a label without image.
    """
    train, test = _side(root / "Train"), _side(root / "Test")
    return InspectionSet(
        root,
        tuple(sample for sample in train if not sample.label),
        tuple(test),
        anomalies=tuple(sample for sample in train if sample.label),
    )


def _side(folder: Path) -> list[Sample]:
    labels = {
        composed(path.stem).removesuffix(_MASK_ENDING): path
        for path in sorted((folder / "Label").glob("*"))
        if is_image(path)
    }
    samples = [
        masked_sample(image, labels.pop(name), _DEFECT) if name in labels else Sample(image, 0, GOOD)
        for image in list_images(folder)
        for name in [composed(image.stem)]
    ]
    for label in labels.values():
        raise DataError(f"{label}: no image for this label in {folder}; add the image or remove the label")
    return samples
