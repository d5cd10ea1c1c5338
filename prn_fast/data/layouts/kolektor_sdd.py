"""The folder layout of KolektorSDD.

    kosNN/PartN.jpg, kosNN/PartN_label.bmp    an image and its mask, which is empty for a normal image

The set's folder holds no split. Here the normal images of four items in five are trained on, by a hash of the item's
name, so that no item is on both sides; all anomalous images are test images, and normal images of items on the
training side never are. Source: Tabernik, Šela, Skvarč, Skočaj, "Segmentation-Based Deep-Learning Approach for
Surface-Defect Detection", Journal of Intelligent Manufacturing, 2019.
"""

from pathlib import Path

from prn_fast.data.folders import is_image
from prn_fast.data.layouts.pairs import is_for_training, masked_sample
from prn_fast.data.masks import read_mask
from prn_fast.data.samples import GOOD, InspectionSet, Sample
from prn_fast.errors import DataError

_DEFECT = "defect"


def matches(root: Path) -> bool:
    """Whether a folder looks like this layout."""
    return any(root.glob("kos*/Part*.jpg"))


def load(root: Path) -> InspectionSet:
    """List an inspection set; reads all masks to separate normal images from others.

    Raises:
        DataError: an image without mask, a mask of another size, or no normal image for one of the two sides.
    """
    train: list[Sample] = []
    test: list[Sample] = []
    empty_masks: list[Path] = []
    for image in sorted(filter(is_image, root.glob("kos*/Part*.jpg"))):
        sample = masked_sample(image, image.with_name(f"{image.stem}_label.bmp"), _DEFECT)
        assert sample.mask is not None
        if read_mask(sample.mask).any():
            test.append(sample)
        else:
            side = train if is_for_training(image.parent.name) else test
            side.append(Sample(image, 0, GOOD))
            empty_masks.append(sample.mask)
    if not train or all(sample.label for sample in test):
        raise DataError(f"{root}: too few items for a training and a test side; copy the whole set")
    return InspectionSet(root, tuple(train), tuple(test), companions=tuple(empty_masks))
