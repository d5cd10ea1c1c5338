"""Draws, splits and pixels of samples."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from prn_fast.data.images import write_image
from prn_fast.data.layouts.mvtec import load as load_mvtec
from prn_fast.data.samples import Sample, draw_seen, load_samples, split_validation
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
    with pytest.raises(DataError, match="ask for 0 to 11"):
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
    write_image(sample.mask, np.ones((10, 10), bool))
    with pytest.raises(DataError, match="mask is 10x10 pixels"):
        load_samples([sample], 64, 1)


def test_mask_that_marks_nothing(mvtec_root):
    sample = load_mvtec(mvtec_root).test[2]
    write_image(sample.mask, np.zeros((40, 48), bool))
    with pytest.raises(DataError, match="marks no pixel"):
        load_samples([sample], 64, 1)
