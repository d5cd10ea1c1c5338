"""A folder of predictions for each test."""

from pathlib import Path

import pytest

from tests.review.folders import write_images, write_predictions


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The predicted images."""
    write_images(tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture
def folder(tmp_path: Path, images: Path) -> Path:
    """Their predictions."""
    write_predictions(tmp_path / "predicted", images)
    return tmp_path / "predicted"
