"""What settings leave open is decided by the data, and said."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prn_fast.data.samples import InspectionSet, Sample
from prn_fast.errors import DataError
from prn_fast.training.settings import DEFAULT_SEEN, TrainingSettings
from prn_fast.training.settle import settle


def inspection(folder: Path, test: int, of_training: int = 0, side: int = 64) -> InspectionSet:
    """A set with so many anomalies to test with and of the training side, each with a mask of one pixel."""
    paths = {name: folder / f"{name}.png" for name in ("good", "mask")}
    pixels = np.zeros((side, side), np.uint8)
    Image.fromarray(pixels).save(paths["good"])
    pixels[0, 0] = 255
    Image.fromarray(pixels).save(paths["mask"])
    normal, anomaly = Sample(paths["good"], 0, "good"), Sample(paths["good"], 1, "spot", paths["mask"])
    return InspectionSet(folder, (normal,), (normal, *[anomaly] * test), anomalies=(anomaly,) * of_training)


def settings(folder: Path, **changes: object) -> TrainingSettings:
    return TrainingSettings(folder, folder / "a.prn", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("test", "of_training", "seen"),
    [(30, 0, DEFAULT_SEEN), (DEFAULT_SEEN, 0, DEFAULT_SEEN), (9, 0, 4), (1, 0, 0), (0, 0, 0), (3, 9, 9), (3, 30, 10)],
)
def test_few_defects_lower_the_default_and_only_that_is_said(
    tmp_path: Path, test: int, of_training: int, seen: int
) -> None:
    settled, lines = settle(settings(tmp_path, image_size=64), inspection(tmp_path, test, of_training))
    assert settled.seen == seen
    assert len(lines) == (seen < DEFAULT_SEEN)
    if lines:
        assert f"training sees {seen} of them, not {DEFAULT_SEEN}; --seen N sets another number" in lines[0]
        assert (lines[0].split()[0] if of_training + test else "no") == str(of_training or test or "no")


def test_a_number_that_was_asked_for_stays_an_error(tmp_path: Path) -> None:
    few = inspection(tmp_path, 9)
    assert settle(settings(tmp_path, image_size=64, seen=9), few)[0].seen == 9
    with pytest.raises(DataError, match="cannot draw 10 seen anomalies: there are 9; give --seen N"):
        settle(settings(tmp_path, seen=10), few)


def test_the_side_is_chosen_by_seen_defects_unless_it_is_given(tmp_path: Path) -> None:
    large = inspection(tmp_path, 30, side=600)
    settled, lines = settle(settings(tmp_path), large)
    assert settled.image_size == 512
    assert len(lines) == 1
    assert "image size 512 px chosen" in lines[0]
    assert settle(settings(tmp_path, image_size=320), large) == (settings(tmp_path, image_size=320, seen=10), [])


def test_tiles_have_the_smallest_side(tmp_path: Path) -> None:
    settled, lines = settle(settings(tmp_path, tiles=True), inspection(tmp_path, 30, side=600))
    assert (settled.image_size, lines) == (256, [])
