"""What a run trains on and validates on."""

from pathlib import Path

import numpy as np
import pytest

from prn_fast.data.images import write_image
from prn_fast.data.layouts import load_inspection_set
from prn_fast.data.samples import Sample, draw_normals, split_validation
from prn_fast.data.synthetic import write_synthetic_surfaces
from prn_fast.errors import DataError
from prn_fast.training.recipe import RECIPES
from prn_fast.training.settings import TrainingSettings
from prn_fast.training.split import VALIDATION_SHARE, Split, prepare_split, validation_share
from tests.small_package import SIDE, small_config

PARTS, PICTURES = 12, 4
HELD_OUT = PARTS * PICTURES // 3


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Parts that all look alike but for their level, with several pictures of each."""
    mould = np.random.default_rng(0).integers(-20, 20, (SIDE, SIDE))
    for part in range(PARTS):
        for picture in range(PICTURES):
            path = tmp_path / "set" / "train" / "good" / f"{picture}_part{part}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng((part, picture)).integers(-2, 2, (SIDE, SIDE))
            write_image(path, (40 + 12 * part + mould + noise).astype(np.uint8))
    return tmp_path / "set"


def split(data: Path, parts: str | None) -> Split:
    settings = TrainingSettings(data, data.with_name("a.prn"), image_size=SIDE, seen=0, parts=parts)
    return prepare_split(settings, RECIPES["quick"], load_inspection_set(data), small_config())


def parts_of(images: np.ndarray) -> list[int]:
    return np.round((images.mean(axis=(1, 2, 3)) - 40) / 12).astype(int).tolist()


def test_pictures_of_a_named_part_stay_together(data: Path) -> None:
    made = split(data, r"_part(\d+)")
    held_out = made.validation.images[made.validation.labels == 0]
    assert len(held_out) == HELD_OUT
    assert not set(parts_of(held_out)) & set(parts_of(made.normals))
    assert (made.parts, made.seen_parts, made.parts_told) == (r"_part(\d+)", (), True)


def test_parts_that_look_alike_are_not_told(data: Path) -> None:
    made = split(data, None)
    assert (made.parts, made.seen_parts, made.parts_told) == (None, None, False)
    assert len(made.normals) == PARTS * PICTURES - HELD_OUT


def test_an_image_whose_part_is_not_named_is_refused(data: Path) -> None:
    with pytest.raises(DataError, match="does not say which part it shows"):
        split(data, r"^train/good/0_part(\d+)")


@pytest.mark.parametrize(
    ("normals", "held_out"), [(2, 1), (3, 1), (8, 3), (14, 5), (40, 13), (60, 20), (100, 20), (195, 20), (240, 24)]
)
def test_few_normals_hold_out_a_third_and_many_a_tenth(normals: int, held_out: int) -> None:
    train = [Sample(Path(f"{number:04}.png"), 0, "good") for number in range(normals)]
    fit, validation = split_validation(train, validation_share(normals), seed=0)
    assert (len(fit), len(validation)) == (normals - held_out, held_out)


@pytest.mark.parametrize("normals", [200, 762, 2085])
def test_a_large_set_is_split_by_the_tenth_alone(normals: int) -> None:
    assert validation_share(normals) == VALIDATION_SHARE


def test_fourteen_normals_are_split_so(tmp_path: Path) -> None:
    data = write_synthetic_surfaces(tmp_path / "set", side=64, train=14, good=1, defects=2, materials=("wood",))
    split = prepare_split(
        TrainingSettings(data, tmp_path / "a.prn", image_size=64, seen=1),
        RECIPES["quick"],
        load_inspection_set(data),
        small_config(),
    )
    assert len(split.normals) == split.images == 9
    assert np.bincount(split.validation.labels).tolist() == [5, 5]


def test_fewer_normals_are_drawn_where_asked_for(tmp_path: Path) -> None:
    data = write_synthetic_surfaces(tmp_path / "set", side=64, train=14, good=1, defects=2, materials=("wood",))
    settings = TrainingSettings(data, tmp_path / "a.prn", image_size=64, seen=1, normals=8)
    split = prepare_split(settings, RECIPES["quick"], load_inspection_set(data), small_config())
    assert len(split.normals) == split.images == 5
    assert np.bincount(split.validation.labels).tolist() == [3, 3]


def test_draws_of_normals_are_nested_and_in_order() -> None:
    train = [Sample(Path(f"{number:04}.png"), 0, "good") for number in range(40)]
    draws = [draw_normals(train, most, seed=1) for most in (8, 16, 40, None)]
    assert [len(draw) for draw in draws] == [8, 16, 40, 40]
    assert set(draws[0]) < set(draws[1])
    assert list(draws[1]) == sorted(draws[1], key=lambda sample: sample.path)
    assert draws[0] != draw_normals(train, 8, seed=2)
