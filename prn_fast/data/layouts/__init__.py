"""Folder layouts of published inspection sets, each read with its official split where it has one.

A layout is a module with `load(root) -> InspectionSet` and `matches(root) -> bool`, which looks at folder names only.
"""

import dataclasses
from importlib import import_module
from pathlib import Path
from types import ModuleType

from prn_fast.data.folders import PassedOver, existing_folder, list_folder, subfolders
from prn_fast.data.pages import further_pages
from prn_fast.data.samples import InspectionSet
from prn_fast.errors import ConfigError, DataError

# Names and what a folder of each looks like, for people.
LAYOUTS = {
    "mvtec": "train/good, test/KIND, ground_truth/KIND (MVTec AD)",
    "mvtec_ad2": "train/good, validation/good, test_public (MVTec AD 2)",
    "visa": "Data/Images/Normal, with split_csv/1cls.csv beside the folder (VisA)",
    "btad": "train/ok, test/ko, ground_truth/ko (BTAD)",
    "kolektor_sdd": "kosNN/PartN.jpg (KolektorSDD)",
    "kolektor_sdd2": "train/NUMBER.png with train/NUMBER_GT.png (KolektorSDD2)",
    "dagm": "Train/NUMBER.PNG, Train/Label (a class of DAGM 2007)",
    "magnetic_tile": "MT_Free/Imgs, MT_KIND/Imgs (magnetic tile)",
}
AUTO = "auto"


def load_inspection_set(root: Path | str, layout: str = AUTO) -> InspectionSet:
    """List the images of one product; they stay on disk.

    Args:
        root: folder of the product (of one category, where a set has several).
        layout: key of `LAYOUTS`, or "auto" to recognise it by the folder names.
    Raises:
        ConfigError: an unknown layout.
        DataError: a folder of no known layout, or whatever the layout's own reader finds wrong.
    """
    root = existing_folder(root)
    inspection: InspectionSet = layout_module(detect_layout(root) if layout == AUTO else layout).load(root)
    return dataclasses.replace(inspection, passed_over=_passed_over(inspection))


def detect_layout(root: Path) -> str:
    """Name of the layout that a folder has; a DataError that lists the known ones if it has none."""
    for name in LAYOUTS:
        if layout_module(name).matches(root):
            return name
    for folder in subfolders(root):
        if any(layout_module(name).matches(folder) for name in LAYOUTS):
            raise DataError(f"{root}: holds several products; give the folder of one, such as {folder}")
    # A plant's own folder is usually meant as the first layout, with a misspelt name.
    known = "; ".join(f"{name}: {looks}" for name, looks in LAYOUTS.items())
    raise DataError(
        f"{root}: has no folder train/good, nor another layout that is known here; put the normal training images "
        f"into train/good, or name a layout ({known})"
    )


def _passed_over(inspection: InspectionSet) -> tuple[PassedOver, ...]:
    """Files in the set's folder that are neither its images nor masks, such as images with no place in the layout."""
    samples = (*inspection.train, *inspection.validation, *inspection.test, *inspection.anomalies)
    images = [sample.path for sample in samples]
    read = {*images, *(sample.mask for sample in samples), *inspection.companions}
    listing = list_folder(inspection.root)
    unused = [PassedOver(path, "unused image") for path in listing.images if path not in read]
    return (*unused, *listing.passed_over, *further_pages(images))


def layout_module(name: str) -> ModuleType:
    """The module of a layout."""
    if name not in LAYOUTS:
        raise ConfigError(f"unknown layout {name!r}; choose one of {AUTO}, {', '.join(LAYOUTS)}")
    return import_module(f"prn_fast.data.layouts.{name}")
