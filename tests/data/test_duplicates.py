"""Near duplicates are found in other light and as other crops; different parts are none."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from prn_fast.data.duplicates import Fingerprint, group_parts, likeness, near_duplicates
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
    strangers = [sample(part(seed), f"stranger-{seed}") for seed in range(2, 12)]
    assert near_duplicates([*strangers[:5], again, *strangers[5:]], seen) == (again,)
    assert near_duplicates([*strangers[:5], again, *strangers[5:]], seen, others=strangers[:3]) == (again,)


def test_fingerprints_stand_for_their_images(sample, tmp_path: Path) -> None:
    seen = [sample(part(seed), f"seen-{seed}") for seed in (0, 1)]
    kept = [Fingerprint.from_dict(json.loads(json.dumps(Fingerprint.of(one).to_dict()))) for one in seen]
    candidates = [sample(change(part(1)), change.__name__) for change in (darker, cropped)]
    encoded = tmp_path / "encoded.jpg"
    Image.open(seen[0].path).save(encoded, quality=60)
    candidates += [Sample(encoded, 1, "crack"), sample(part(5), "stranger")]
    for one in seen:
        one.path.unlink()
    assert near_duplicates(candidates, kept) == tuple(candidates[:3])


def test_a_copy_of_the_file_is_found_also_where_it_shows_nothing(sample) -> None:
    flat, copy = (sample(np.full((SIDE, SIDE), 90.0), name) for name in ("flat", "copy"))
    assert near_duplicates([copy, sample(np.full((SIDE, SIDE), 91.0), "other")], [flat]) == (copy,)


@pytest.mark.parametrize("change", [lambda surface: surface[:, ::-1], lambda surface: surface[20:, 20:]])
def test_mirrored_pictures_and_other_crops_are_not_found(change, sample) -> None:
    assert near_duplicates([sample(change(part(1)), "again")], [sample(part(1), "seen")]) == ()


def test_where_all_parts_look_alike_likeness_says_nothing(sample) -> None:
    mould = part(0)

    def made(seed: int, name: str) -> Sample:
        return sample(mould + 0.1 * (part(seed) - 128), name)

    seen, candidate, other = made(1, "seen"), made(2, "candidate"), made(3, "good")
    again = sample(darker(mould + 0.1 * (part(1) - 128)), "again")
    assert near_duplicates([candidate], [seen]) == (candidate,)
    assert likeness([other], [seen]).item() > 0.9
    found = near_duplicates([candidate, again], [seen], others=[other, made(4, "good-4"), made(5, "good-5")])
    assert candidate not in found


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
    assert near_duplicates([], [one]) == ()
    assert near_duplicates([one], []) == ()


def test_pictures_of_one_part_are_grouped(sample) -> None:
    pictures = []
    for seed in range(12):
        pictures.append(sample(part(seed), f"part-{seed}"))
        if seed % 4 == 0:
            pictures += [sample(change(part(seed)), f"{change.__name__}-{seed}") for change in (darker, cropped)]
    groups = group_parts(pictures, largest_share=0.2)
    names = [one.path.stem.rpartition("-")[2] for one in pictures]
    same = np.array(names)[:, None] == np.array(names)
    np.testing.assert_array_equal(groups[:, None] == groups, same)
    assert set(groups.tolist()) == set(range(12))
    # Three of 18 are more than a tenth: there, likeness would say too little.
    assert group_parts(pictures, largest_share=0.1).tolist() == list(range(18))
    assert group_parts([], largest_share=0.1).tolist() == []
