"""The folder layout of one product of BTAD (beanTech Anomaly Detection).

    train/ok/*, test/ok/*        normal images
    test/ko/*                    anomalous images
    ground_truth/ko/<name>.*     masks, also of another image format than the image

Source: Mishra et al., "VT-ADL: A Vision Transformer Network for Image Anomaly Detection and Localization", ISIE 2021.
"""

from pathlib import Path

from prn_fast.data.layouts import mvtec
from prn_fast.data.samples import InspectionSet

_GOOD = "ok"


def matches(root: Path) -> bool:
    """Whether a folder looks like this layout."""
    return (root / "train" / _GOOD).is_dir()


def load(root: Path) -> InspectionSet:
    """List an inspection set; a DataError for what is missing, as in `mvtec.load`."""
    return mvtec.load(root, good=_GOOD)
