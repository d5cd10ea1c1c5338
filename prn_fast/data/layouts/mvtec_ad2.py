"""The folder layout of one product of MVTec AD 2.

    train/good/*, validation/good/*              normal images
    test_public/good/*, test_public/bad/*        test images
    test_public/ground_truth/bad/<name>_mask.png masks

Source: Heckler-Kram, Neudeck, Scheler, König, Steger, "The MVTec AD 2 Dataset", 2025. Its private test sets have no
labels; use `prn-eval --images` for them.
"""

from pathlib import Path

from prn_fast.data.folders import list_images
from prn_fast.data.layouts.mvtec import MASK_ENDING
from prn_fast.data.layouts.pairs import good_samples, masked_samples
from prn_fast.data.samples import GOOD, InspectionSet

_BAD = "bad"


def matches(root: Path) -> bool:
    """Whether a folder looks like this layout."""
    return (root / "train" / GOOD).is_dir() and (root / "test_public").is_dir()


def load(root: Path) -> InspectionSet:
    """List an inspection set; a DataError for what is missing, as in `mvtec.load`."""
    test = root / "test_public"
    return InspectionSet(
        root,
        good_samples(list_images(root / "train" / GOOD)),
        (
            *good_samples(list_images(test / GOOD)),
            *masked_samples(test / _BAD, test / "ground_truth" / _BAD, _BAD, MASK_ENDING),
        ),
        validation=good_samples(list_images(root / "validation" / GOOD)),
    )
