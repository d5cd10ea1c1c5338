"""Draws, splits and pixels of samples."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prn_fast.data.images import write_image
from prn_fast.data.layouts.mvtec import load as load_mvtec
from prn_fast.data.samples import InspectionSet, Sample, choose_channels, draw_seen, load_samples, split_validation
from prn_fast.errors import DataError


@pytest.fixture
def test_samples() -> list[Sample]:
    kinds = ["good"] * 5 + ["crack"] * 6 + ["stain"] * 4 + ["hole"]
    return [Sample(Path(f"{i}.png"), int(kind != "good"), kind) for i, kind in enumerate(kinds)]


def test_seen_anomalies_are_never_in_the_rest(test_samples):
    seen, rest = draw_seen(test_samples, 5, seed=3)
    assert len(seen) == 5
    assert all(sample.label == 1 for sample in seen)
    assert sorted(seen + rest, key=lambda s: int(s.path.stem)) == test_samples


@pytest.mark.parametrize("seed", range(4))
def test_seen_anomalies_are_spread_over_kinds(test_samples, seed):
    seen, _ = draw_seen(test_samples, 6, seed)
    counts = Counter(sample.kind for sample in seen)
    assert counts["hole"] == 1
    assert {counts["crack"], counts["stain"]} == {2, 3}


def test_draw_follows_the_seed(test_samples):
    assert draw_seen(test_samples, 4, seed=1) == draw_seen(test_samples, 4, seed=1)
    assert len({draw_seen(test_samples, 4, seed)[0] for seed in range(10)}) > 5


def test_draw_of_none_and_of_all(test_samples):
    assert draw_seen(test_samples, 0, seed=0) == ((), tuple(test_samples))
    seen, rest = draw_seen(test_samples, 11, seed=0)
    assert len(seen) == 11
    assert all(sample.label == 0 for sample in rest)


@pytest.mark.parametrize("count", [-1, 12])
def test_draw_of_an_impossible_number(test_samples, count):
    with pytest.raises(DataError, match="there are 11; give --seen N"):
        draw_seen(test_samples, count, seed=0)


@pytest.mark.parametrize(("number", "fraction", "held"), [(20, 0.1, 2), (2, 0.1, 1), (2, 0.9, 1), (10, 0.5, 5)])
def test_validation_split_is_a_partition(number, fraction, held):
    train = tuple(Sample(Path(f"{i:02d}.png"), 0, "good") for i in range(number))
    fit, held_out = split_validation(train, fraction, seed=5)
    assert len(held_out) == held
    assert sorted(fit + held_out, key=lambda s: s.path) == list(train)
    assert (fit, held_out) == split_validation(train, fraction, seed=5)


@pytest.mark.parametrize("seed", range(5))
def test_images_of_one_part_stay_on_one_side(seed):
    train = tuple(Sample(Path(f"{i:02d}.png"), 0, "good") for i in range(60))
    parts = [index // 3 for index in range(60)]
    fit, held_out = split_validation(train, 0.1, seed, parts)
    assert len(held_out) == 6
    assert len(fit) == 54
    numbers = dict(zip(train, parts, strict=True))
    assert not {numbers[one] for one in fit} & {numbers[one] for one in held_out}


def test_parts_larger_than_the_share_leave_the_smallest_to_validate_with():
    train = tuple(Sample(Path(f"{i}.png"), 0, "good") for i in range(9))
    fit, held_out = split_validation(train, 0.1, 0, [0, 0, 0, 0, 1, 1, 2, 2, 2])
    assert held_out == train[4:6]
    assert len(fit) == 7
    with pytest.raises(DataError, match="show one part"):
        split_validation(train, 0.1, 0, [0] * 9)


def test_validation_split_needs_two_images():
    with pytest.raises(DataError, match="at least two"):
        split_validation([Sample(Path("a.png"), 0, "good")], 0.1, seed=0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_validation_fraction_out_of_range(test_samples, fraction):
    with pytest.raises(DataError, match="not between 0 and 1"):
        split_validation(test_samples, fraction, seed=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_and_masks_of_samples(mvtec_root, channels):
    samples = load_mvtec(mvtec_root).test
    images, masks = load_samples(samples, 64, channels)
    assert images.shape == (7, 64, 64, channels)
    assert images.dtype == np.uint8
    assert 60 <= images.min() <= images.max() < 120
    assert masks.dtype == bool
    assert not masks[:2].any()
    np.testing.assert_allclose(masks[2:].mean((1, 2)), 10 * 18 / (40 * 48), atol=0.02)


def test_no_samples_give_empty_arrays():
    images, masks = load_samples([], 64, 3)
    assert images.shape == (0, 64, 64, 3)
    assert masks.shape == (0, 64, 64)


def test_unreadable_image_is_named(mvtec_root):
    (mvtec_root / "train" / "good" / "1.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"train/good/1\.png: is damaged"):
        load_samples(load_mvtec(mvtec_root).train, 64, 1)


def test_mask_of_another_size_at_reading(mvtec_root):
    sample = load_mvtec(mvtec_root).test[2]
    write_image(sample.mask, np.eye(10, dtype=bool))
    with pytest.raises(DataError, match="mask is 10x10 pixels"):
        load_samples([sample], 64, 1)


def test_mask_that_marks_nothing(mvtec_root):
    sample = load_mvtec(mvtec_root).test[2]
    write_image(sample.mask, np.zeros((40, 48), bool))
    with pytest.raises(DataError, match="marks no pixel"):
        load_samples([sample], 64, 1)


@pytest.fixture
def colour_set(tmp_path) -> InspectionSet:
    """Eleven images in colour after a grey one, all normal."""
    write_image(tmp_path / "00.png", np.full((8, 9), 100, np.uint8))
    for index in range(1, 12):
        write_image(tmp_path / f"{index:02d}.png", np.full((8, 9, 3), (200, 30, 30), np.uint8))
    return InspectionSet(tmp_path, tuple(Sample(path, 0, "good") for path in sorted(tmp_path.iterdir())), ())


def test_one_grey_image_among_others_leaves_the_set_in_colour(colour_set):
    channels, note = choose_channels(colour_set)
    assert channels == 3
    names = [sample.path for sample in colour_set.train]
    assert note == (
        f"1 of 12 images store grey values, such as {names[0]}; others are in colour, such as {names[1]}; "
        "all are read as RGB"
    )


def test_colour_on_any_side_makes_a_set_colour(colour_set, tmp_path):
    grey, colour = colour_set.train[:1], colour_set.train[1:2]
    for sides in ({"test": colour}, {"test": (), "validation": colour}, {"test": (), "anomalies": colour}):
        assert choose_channels(InspectionSet(tmp_path, grey, **sides))[0] == 3


@pytest.mark.parametrize(
    ("name", "stored"), [("grey", (40, 40, 40)), ("palette", (40, 40, 40)), ("tinted", (40, 40, 41))]
)
def test_what_is_stored_as_colour_may_hold_grey(tmp_path, name, stored):
    write_image(tmp_path / "first.png", np.full((8, 9), 100, np.uint8))
    image = Image.fromarray(np.full((8, 9, 3), stored, np.uint8))
    (image.quantize(4) if name == "palette" else image).save(tmp_path / "second.png")
    samples = tuple(Sample(tmp_path / f"{one}.png", 0, "good") for one in ("first", "second"))
    channels, note = choose_channels(InspectionSet(tmp_path, samples, ()))
    if name == "tinted":
        assert channels == 3
    else:
        assert channels == 1
        assert note == "1 of 2 images are stored as colour but hold grey values only; all are read as grey"


@pytest.mark.parametrize(("depth", "channels"), [((), 1), ((3,), 3)])
def test_a_set_of_one_kind_needs_no_note(tmp_path, depth, channels):
    pixels = np.zeros((8, 9, *depth), np.uint8)
    pixels[..., :1] = 200
    write_image(tmp_path / "a.png", pixels)
    inspection = InspectionSet(tmp_path, (Sample(tmp_path / "a.png", 0, "good"),), ())
    assert choose_channels(inspection) == (channels, "")


def test_an_unreadable_image_is_named_when_channels_are_chosen(colour_set):
    colour_set.train[7].path.write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"07\.png: is damaged"):
        choose_channels(colour_set)
