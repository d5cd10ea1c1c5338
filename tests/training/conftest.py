"""A small product, and a package that was trained on it."""

from pathlib import Path

import pytest

from prn_fast.data.synthetic import write_synthetic_surfaces
from prn_fast.package import Package
from prn_fast.training.train import train
from tests.small_package import SIDE
from tests.training.small_run import settings


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Woven fabric, 30 normal images to train on and 8 defects."""
    root = tmp_path_factory.mktemp("surfaces") / "set"
    return write_synthetic_surfaces(root, side=SIDE, train=30, good=4, defects=8, materials=("woven_fabric",))


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A package that was trained on `data`."""
    return train(settings(data, tmp_path_factory.mktemp("trained") / "fabric.prn"))
