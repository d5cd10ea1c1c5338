"""Test images of parts that training has seen are left out, and no others."""

import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest

from prn_fast.data.duplicates import Fingerprint, near_duplicates
from prn_fast.data.images import write_image
from prn_fast.data.parts import PartNames
from prn_fast.data.samples import InspectionSet, Sample
from prn_fast.errors import DataError
from prn_fast.training.unseen import leave_out_seen, part_test_images

SIDE = 64


def surface(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(SIDE, SIDE)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return smooth / smooth.std()


@pytest.fixture
def made(tmp_path: Path):
    """A set: 30 training images, 15 good ones and 12 defects; two pictures of each second part of these.

    `own` is how much parts differ: where it is large, each has a surface of its own.
    """

    def make(own: float) -> InspectionSet:
        def sample(part: int, picture: str, side: str, label: int) -> Sample:
            light = 1.0 if picture == "a" else 0.6
            path = tmp_path / side / f"part{part}_{picture}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = 128 + 40 * light * (surface(0) + own * surface(1 + part)) / (1 + own)
            write_image(path, np.clip(image, 0, 255).astype(np.uint8))
            return Sample(path, label, "crack" if label else "good", path if label else None)

        train = [sample(part, "a", "train/good", 0) for part in range(30)]
        good = [sample(part, "b" if part < 30 else "a", "test/good", 0) for part in range(20, 35)]
        defects = [sample(part, picture, "test/crack", 1) for part in range(40, 48) for picture in "ab"[: 1 + part % 2]]
        return InspectionSet(tmp_path, tuple(train), (*good, *defects))

    return make


SEEN = "test/crack/part41_a.png"


def names(samples: tuple[Sample, ...]) -> list[str]:
    return [sample.path.name for sample in samples]


def test_parts_with_surfaces_of_their_own_are_told_by_likeness(made) -> None:
    found = part_test_images(made(own=3.0), {"seen": [SEEN]}, None)
    assert found.told_by == "likeness"
    assert names(found.seen) == ["part41_a.png"]
    assert names(found.same_part) == ["part41_b.png"]
    assert len(found.scored) == 27 - 2
    assert found.unseen_parts is not None
    assert names(found.unseen_parts) == [f"part{part}_a.png" for part in range(30, 35)]


def test_where_all_parts_look_alike_nothing_but_the_seen_is_left_out(made) -> None:
    inspection = made(own=0.25)
    defects = [sample for sample in inspection.test if sample.label and sample.path.name != "part41_a.png"]
    seen = [sample for sample in inspection.test if sample.path.name == "part41_a.png"]
    # Likeness alone would have taken several for the same part.
    assert near_duplicates(defects, seen).sum() > 1
    found = part_test_images(inspection, {"seen": [SEEN]}, None)
    assert found.told_by == "copies"
    assert names(found.seen) == ["part41_a.png"]
    assert found.same_part == ()
    assert len(found.scored) == 27 - 1
    assert found.unseen_parts is None


def test_a_copy_of_a_seen_file_is_left_out_in_any_case(made, tmp_path: Path) -> None:
    inspection = made(own=0.25)
    kept = Fingerprint.of(Sample(tmp_path / SEEN, 1, "crack")).to_dict()
    found = part_test_images(inspection, {"seen": ["elsewhere.png"], "seen_fingerprints": [kept]}, None)
    assert names(found.same_part) == ["part41_a.png"]


@pytest.mark.parametrize("own", [0.25, 3.0])
def test_named_parts_are_told_by_their_names(made, own: float) -> None:
    found = part_test_images(made(own), {"seen": [SEEN]}, PartNames.read(r"part(\d+)_"))
    assert found.told_by == "names"
    assert names(found.same_part) == ["part41_b.png"]
    assert found.unseen_parts is not None
    assert names(found.unseen_parts) == [f"part{part}_a.png" for part in range(30, 35)]


def test_a_seen_anomaly_that_the_names_do_not_know_has_the_part_of_its_training(made) -> None:
    training = {"seen": ["elsewhere.png"], "seen_parts": ["41"]}
    found = part_test_images(made(3.0), training, PartNames.read(r"part(\d+)_"))
    assert names(found.same_part) == ["part41_a.png", "part41_b.png"]
    with pytest.raises(DataError, match=r"does not say which part elsewhere\.png shows"):
        part_test_images(made(3.0), {"seen": ["elsewhere.png"]}, PartNames.read(r"part(\d+)_"))


def test_seen_samples_are_left_out_by_their_path() -> None:
    nfc, nfd = (unicodedata.normalize(form, "Öl.png") for form in ("NFC", "NFD"))
    root = Path("/set")
    samples = [Sample(root / "test" / name, 1, "crack") for name in ("1.png", nfd, "\udcff.png", "2.png")]
    rest, left_out = leave_out_seen(samples, root, ["test/1.png", f"test/{nfc}", r"test/\xff.png", "test/3.png"])
    assert left_out == tuple(samples[:3])
    assert rest == (samples[3],)
