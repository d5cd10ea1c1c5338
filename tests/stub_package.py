"""Packages of a few numbers, for tests of what is on disk: they open and verify, but hold no network."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from prn_fast.model.config import PRNConfig
from prn_fast.package import Package, ValidationSet

CONFIG = PRNConfig(backbone="efficientnet_lite0", image_size=64, image_channels=1, prototypes=(3, 3, 3))


class StubModel:
    """What `Package.create` asks of a model."""

    config = CONFIG

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"weight": torch.full((8,), float(self.seed))}


def write_stub(path: Path, seed: int = 0, **changes: Any) -> Package:
    """A package whose weights, images, threshold and training all tell the seed."""
    images = np.full((2, 64, 64, 1), seed, np.uint8)
    values: dict[str, Any] = {
        "calibration_images": images,
        "validation": ValidationSet(images, np.arange(2), np.zeros((2, 64, 64), bool)),
        "calibration": {"threshold": seed / 1000, "pixel_threshold": 0.5},
        "training": {"seed": seed},
    }
    return Package.create(path, StubModel(seed), **(values | changes))  # type: ignore[arg-type]


def seed_of(package: Package) -> int:
    """The seed of a package, after checking that all of it is of the same."""
    seed = package.manifest["training"]["seed"]
    assert package.calibration("threshold") == seed / 1000
    assert np.all(package.calibration_images() == seed)
    return seed


def build_stub(folder: Path, content: str) -> Path:
    """A folder as a builder leaves it."""
    (folder / "deep").mkdir(parents=True)
    (folder / "model.xml").write_text(content)
    (folder / "deep" / "model.bin").write_text(content[::-1])
    return folder


def add_stub(package: Package, name: str, content: str) -> None:
    """Add an engine of two files."""
    with package.building() as folder:
        package.add_engine(name, build_stub(folder / "built", content), {"precision": name.split(":")[1]})


def engines_of(package: Package) -> dict[str, str]:
    """The content of each engine, after verifying all of it."""
    found = {}
    for name in package.engines:
        folder = package.engine_folder(name)
        found[name] = (folder / "model.xml").read_text()
        assert (folder / "deep" / "model.bin").read_text() == found[name][::-1]
    return found
