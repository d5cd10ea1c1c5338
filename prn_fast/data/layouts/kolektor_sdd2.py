"""The folder layout of KolektorSDD2, with its official split.

    train/NUMBER.png, train/NUMBER_GT.png    an image and its mask, which is empty for a normal image
    test/...                                 the same

Source: Božič, Tabernik, Skočaj, "Mixed supervision for surface-defect detection: from weakly to fully supervised
learning", Computers in Industry, 2021.
"""

from pathlib import Path

from prn_fast.data.folders import list_images
from prn_fast.data.layouts.pairs import masked_sample
from prn_fast.data.masks import read_mask
from prn_fast.data.samples import GOOD, InspectionSet, Sample

_MASK_ENDING = "_GT"
_DEFECT = "defect"


def matches(root: Path) -> bool:
    """Whether a folder looks like this layout."""
    return any((root / "train").glob(f"*{_MASK_ENDING}.png"))


def load(root: Path) -> InspectionSet:
    """List an inspection set; reads all masks to separate normal images from others.

    Anomalous training images are those that may be seen. A DataError for a missing folder or mask.
    """
    (train, train_masks), (test, test_masks) = _side(root / "train"), _side(root / "test")
    return InspectionSet(
        root,
        tuple(sample for sample in train if not sample.label),
        tuple(test),
        anomalies=tuple(sample for sample in train if sample.label),
        companions=(*train_masks, *test_masks),
    )


def _side(folder: Path) -> tuple[list[Sample], list[Path]]:
    """Images, and the empty masks of the normal ones."""
    samples, empty_masks = [], []
    for image in list_images(folder):
        if image.stem.endswith(_MASK_ENDING):
            continue
        sample = masked_sample(image, image.with_name(f"{image.stem}{_MASK_ENDING}.png"), _DEFECT)
        assert sample.mask is not None
        if read_mask(sample.mask).any():
            samples.append(sample)
        else:
            samples.append(Sample(image, 0, GOOD))
            empty_masks.append(sample.mask)
    return samples, empty_masks
