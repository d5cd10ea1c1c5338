"""Near duplicates are found in other light and as other crops; different parts are none, also where all look alike."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from prn_fast.data.duplicates import (
    MIN_IMAGES,
    NEAR,
    Fingerprint,
    group_parts,
    likeness,
    near_duplicates,
    tells_parts_apart,
)
from prn_fast.data.images import write_image
from prn_fast.data.samples import Sample

SIDE = 120


def part(seed: int) -> np.ndarray:
    """A surface of its own: smooth noise, float32 (S, S)."""
    noise = np.random.default_rng(seed).normal(size=(SIDE, SIDE)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    return 128 + 40 * smooth / smooth.std()


def darker(surface: np.ndarray) -> np.ndarray:
    """The same part under less light, which falls off to one side."""
    return surface * np.linspace(0.4, 0.7, SIDE, dtype=np.float32)[None, :]


def cropped(surface: np.ndarray) -> np.ndarray:
    """The same part in another crop: its left and upper edge are cut."""
    return surface[5:, 4:]


@pytest.fixture
def sample(tmp_path: Path):
    def write(surface: np.ndarray, name: str) -> Sample:
        path = tmp_path / f"{name}.png"
        write_image(path, np.clip(surface, 0, 255).astype(np.uint8)[:, :, None])
        return Sample(path, 1, "crack")

    return write


@pytest.mark.parametrize("change", [darker, cropped])
def test_the_same_part_is_found_and_others_are_not(change, sample) -> None:
    seen = [sample(part(seed), f"seen-{seed}") for seed in (0, 1)]
    again = sample(change(part(1)), "again")
    unseen_parts = [sample(part(seed), f"stranger-{seed}") for seed in range(2, 12)]
    candidates = [*unseen_parts[:5], again, *unseen_parts[5:]]
    assert np.flatnonzero(near_duplicates(candidates, seen)).tolist() == [5]
    assert np.flatnonzero(near_duplicates(candidates, seen, others=unseen_parts[:3])).tolist() == [5]
    assert not near_duplicates(candidates, seen, copies_only=True).any()


def test_fingerprints_stand_for_their_images(sample, tmp_path: Path) -> None:
    seen = [sample(part(seed), f"seen-{seed}") for seed in (0, 1)]
    kept = [Fingerprint.from_dict(json.loads(json.dumps(Fingerprint.of(one).to_dict()))) for one in seen]
    candidates = [sample(change(part(1)), change.__name__) for change in (darker, cropped)]
    encoded = tmp_path / "encoded.jpg"
    Image.open(seen[0].path).save(encoded, quality=60)
    candidates += [Sample(encoded, 1, "crack"), sample(part(5), "stranger")]
    for one in seen:
        one.path.unlink()
    assert near_duplicates(candidates, kept).tolist() == [True, True, True, False]


def test_a_copy_of_the_file_is_found_also_where_it_shows_nothing(sample) -> None:
    flat, copy = (sample(np.full((SIDE, SIDE), 90.0), name) for name in ("flat", "copy"))
    other = sample(np.full((SIDE, SIDE), 91.0), "other")
    for copies_only in (False, True):
        assert near_duplicates([copy, other], [flat], copies_only=copies_only).tolist() == [True, False]


@pytest.mark.parametrize("change", [lambda surface: surface[:, ::-1], lambda surface: surface[20:, 20:]])
def test_mirrored_pictures_and_other_crops_are_not_found(change, sample) -> None:
    assert not near_duplicates([sample(change(part(1)), "again")], [sample(part(1), "seen")]).any()


def test_a_part_that_others_are_as_like_is_no_duplicate(sample) -> None:
    mould = part(0)

    def made(seed: int, name: str) -> Sample:
        return sample(mould + 0.1 * (part(seed) - 128), name)

    seen, candidate, other = made(1, "seen"), made(2, "candidate"), made(3, "good")
    assert near_duplicates([candidate], [seen]).all()
    assert likeness([other], [seen]).item() > 0.9
    assert not near_duplicates([candidate], [seen], others=[other, made(4, "good-4"), made(5, "good-5")]).any()


def kept(surface: np.ndarray) -> Fingerprint:
    """What is kept of a picture."""
    small = np.clip(cv2.resize(surface, (48, 48), interpolation=cv2.INTER_AREA), 0, 255).astype(np.uint8)
    return Fingerprint(hashlib.sha256(small.tobytes()).hexdigest(), small)


def screw(angle: float, seed: int, grain: float) -> np.ndarray:
    """A screw on a plain ground, one of many of its kind: turned by degrees, a little off centre, with a grain."""
    side = 2 * SIDE
    rng = np.random.default_rng(seed)
    image = np.full((side, side), 200, np.float32)
    cv2.rectangle(image, (50, 108), (190, 132), 70, -1)
    cv2.rectangle(image, (35, 90), (55, 150), 50, -1)
    for left in range(60, 190, 9):
        cv2.line(image, (left, 106), (left + 5, 134), 130, 3)
    cv2.fillPoly(image, [np.array([[190, 108], [190, 132], [210, 120]])], 60)
    pose = cv2.getRotationMatrix2D((side / 2, side / 2), angle, 1)
    pose[:, 2] += rng.normal(0, 3, 2)
    image = cv2.warpAffine(image, pose, (side, side), borderValue=200)
    noise = cv2.GaussianBlur(rng.normal(size=(side, side)).astype(np.float32), (0, 0), 8)
    return image * rng.uniform(0.9, 1.1) + grain * noise / noise.std()


@pytest.mark.parametrize(("angles", "grain"), [(2, 2), (2, 6), (2, 12), (15, 6), (15, 12), (360, 2)])
def test_parts_that_look_alike_are_not_told_by_likeness(angles: float, grain: float) -> None:
    """In one pose, in several, and in all: in the last case only some are near, as pictures of one part are."""
    turns = np.random.default_rng(0).uniform(0, angles, 80)
    screws = [kept(screw(angle, seed, grain)) for seed, angle in enumerate(turns)]
    assert (likeness(screws, screws)[np.triu_indices(80, 1)] >= NEAR).any()
    assert not tells_parts_apart(screws)
    assert group_parts(screws, largest_share=0.05) is None


@pytest.mark.parametrize("own", [0.1, 0.2, 0.3, 0.4])
def test_parts_of_one_mould_are_not_told_by_likeness(own: float) -> None:
    mould = part(0) - 128
    parts = [kept(128 + mould + own * (part(seed) - 128)) for seed in range(1, 60)]
    assert (likeness(parts, parts)[np.triu_indices(len(parts), 1)] >= NEAR).any()
    assert not tells_parts_apart(parts)


@pytest.mark.parametrize("pictures", [1, 2, 5])
def test_pictures_of_different_parts_are_told_by_likeness(pictures: int) -> None:
    """Also where the parts have much in common, as long as pictures of one have more."""
    rng = np.random.default_rng(0)
    common = part(0) - 128
    shown = []
    for seed in range(1, 31):
        surface = 128 + 0.5 * common + part(seed) - 128
        for _ in range(pictures):
            noise = rng.normal(0, 2, (SIDE, SIDE))
            shown.append(kept(darker(surface) + noise if rng.integers(2) else cropped(surface + noise)))
    assert tells_parts_apart(shown)
    near = likeness(shown, shown) >= NEAR
    assert near.sum() > 0.7 * len(shown) * pictures


def test_few_images_tell_nothing() -> None:
    shown = [kept(part(seed)) for seed in range(MIN_IMAGES)]
    assert tells_parts_apart(shown)
    assert not tells_parts_apart(shown[1:])


def test_likeness_is_one_with_itself_and_zero_without_structure(sample) -> None:
    samples = [sample(part(0), "part"), sample(np.full((SIDE, SIDE), 90.0), "flat"), sample(part(1), "other")]
    found = likeness(samples, samples[:2])
    assert found.shape == (3, 2)
    assert found[0, 0] == pytest.approx(1, abs=1e-5)
    assert found[1:, 1].tolist() == [0, 0]
    assert found[1, 0] == 0
    assert abs(found[2, 0]) < 0.6


def test_likeness_is_the_best_correlation_over_shifts(sample) -> None:
    # At 48 x 48 nothing is resized, and the formula can be written out.
    first, second = part(0)[:48, :48], part(0)[1:49, 2:50]
    detail = []
    for image in (first, second):
        image = np.clip(image, 0, 255).astype(np.uint8).astype(np.float64)
        detail.append(image - cv2.GaussianBlur(image, (0, 0), 8))
    middle = detail[0][2:46, 2:46].ravel()
    expected = max(
        np.corrcoef(middle, detail[1][down : down + 44, right : right + 44].ravel())[0, 1]
        for down in range(5)
        for right in range(5)
    )
    assert likeness([sample(first, "first")], [sample(second, "second")]).item() == pytest.approx(expected, abs=1e-4)
    assert expected > 0.95


def test_nothing_is_like_nothing(sample) -> None:
    one = sample(part(0), "part")
    assert near_duplicates([], [one]).tolist() == []
    assert near_duplicates([one], []).tolist() == [False]


def test_pictures_of_one_part_are_grouped(sample) -> None:
    pictures = []
    for seed in range(24):
        pictures.append(sample(part(seed), f"part-{seed}"))
        if seed % 4 == 0:
            pictures += [sample(change(part(seed)), f"{change.__name__}-{seed}") for change in (darker, cropped)]
    groups = group_parts(pictures, largest_share=0.2)
    assert groups is not None
    names = [one.path.stem.rpartition("-")[2] for one in pictures]
    same = np.array(names)[:, None] == np.array(names)
    np.testing.assert_array_equal(groups[:, None] == groups, same)
    assert set(groups.tolist()) == set(range(24))
    # Three of 36 are more than a twentieth: there, likeness would say too little.
    alone = group_parts(pictures, largest_share=0.05)
    assert alone is not None
    assert alone.tolist() == list(range(36))
    assert group_parts([], largest_share=0.1) is None


def test_copies_of_files_do_not_hide_that_parts_differ() -> None:
    shown = [kept(part(seed)) for seed in range(MIN_IMAGES)]
    assert tells_parts_apart([*shown, *shown[:5]])
    assert not tells_parts_apart(shown[1:] * 2)
