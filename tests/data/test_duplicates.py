"""Near duplicates are found in other light and as other crops; different parts are none."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from prn_fast.data.duplicates import fingerprints, near_duplicates
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
    """The same part in another crop, two pixels narrower on each side."""
    return surface[2:-2, 2:-2]


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


def test_where_all_parts_look_alike_likeness_says_nothing(sample) -> None:
    mould = part(0)

    def made(seed: int, name: str) -> Sample:
        return sample(mould + 0.1 * (part(seed) - 128), name)

    seen, candidate, other = made(1, "seen"), made(2, "candidate"), made(3, "good")
    again = sample(darker(mould + 0.1 * (part(1) - 128)), "again")
    assert near_duplicates([candidate], [seen]) == (candidate,)
    usual = float(fingerprints([other])[0] @ fingerprints([seen])[0])
    assert usual > 0.9
    found = near_duplicates([candidate, again], [seen], others=[other, made(4, "good-4"), made(5, "good-5")])
    assert candidate not in found


def test_fingerprints_have_norm_one_or_are_zero(sample) -> None:
    found = fingerprints([sample(part(0), "part"), sample(np.full((SIDE, SIDE), 90.0), "flat")])
    assert found.shape == (2, 48 * 48)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 0], atol=1e-6)


def test_nothing_is_like_nothing(sample) -> None:
    one = sample(part(0), "part")
    assert near_duplicates([], [one]) == ()
    assert near_duplicates([one], []) == ()
