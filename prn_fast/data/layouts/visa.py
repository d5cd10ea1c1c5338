"""The folder layout of one product of VisA, with its one-class split.

    Data/Images/Normal/*, Data/Images/Anomaly/*, Data/Masks/Anomaly/*   images and masks of the product
    ../split_csv/1cls.csv     columns object, split (train or test), label (normal or anomaly), image, mask; paths
                              are relative to the folder that holds all products

Masks hold label numbers from 1. Source: Zou et al., "SPot-the-Difference Self-Supervised Pre-training for Anomaly
Detection and Segmentation", ECCV 2022.
"""

import csv
import os
from pathlib import Path

from prn_fast.data.layouts.pairs import masked_sample
from prn_fast.data.samples import GOOD, InspectionSet, Sample
from prn_fast.errors import DataError
from prn_fast.paths import find_spelling

_COLUMNS = ("object", "split", "label", "image", "mask")
_ANOMALY = "anomaly"


def matches(root: Path) -> bool:
    """Whether a folder looks like this layout."""
    return (root / "Data" / "Images" / "Normal").is_dir()


def load(root: Path) -> InspectionSet:
    """List an inspection set.

    Raises:
        DataError: no split file, a row of it that cannot be used (its line is named), or a missing image or mask.
    """
    root = root.resolve()
    table = root.parent / "split_csv" / "1cls.csv"
    if not table.is_file():
        raise DataError(f"{table}: VisA's split file is missing; it comes with the set, put it there")
    sides: dict[str, list[Sample]] = {"train": [], "test": []}
    with table.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not set(_COLUMNS) <= set(rows.fieldnames or ()):
            raise DataError(f"{table}: must have the columns {', '.join(_COLUMNS)}, not {rows.fieldnames}")
        for row in rows:
            if row["object"] != root.name:
                continue
            if row["split"] not in sides or row["label"] not in ("normal", _ANOMALY):
                raise DataError(f"{table}, line {rows.line_num}: unknown split or label {row['split']}, {row['label']}")
            if row["split"] == "train" and row["label"] == _ANOMALY:
                raise DataError(f"{table}, line {rows.line_num}: an anomaly among the training images")
            image = _inside(root, row["image"], table, rows.line_num)
            if row["label"] == _ANOMALY:
                mask = _inside(root, row["mask"], table, rows.line_num)
                sides["test"].append(masked_sample(image, mask, _ANOMALY))
            else:
                sides[row["split"]].append(Sample(image, 0, GOOD))
    if not sides["train"]:
        raise DataError(f"{table}: lists no training images of {root.name}; give the folder of one product")
    return InspectionSet(root, tuple(sides["train"]), tuple(sides["test"]))


def _inside(root: Path, name: str, table: Path, line: int) -> Path:
    """A listed file, which must lie in the product's folder."""
    # Links are followed: the folder's owner chose them, while anybody may have put ".." into a table.
    path = find_spelling(Path(os.path.normpath(root.parent / name)))
    if not path.is_relative_to(root):
        raise DataError(f"{table}, line {line}: {name} lies outside {root}")
    if not path.is_file():
        raise DataError(f"{path}: listed in {table}, line {line}, but missing")
    return path
