"""The built-in inspection set."""

import numpy as np
import pytest

from prn_fast.data.layouts.mvtec import load as load_mvtec
from prn_fast.data.samples import load_samples
from prn_fast.data.synthetic import DEFECTS, MATERIALS, add_defect, render, write_synthetic_surfaces
from prn_fast.errors import ConfigError, DataError

PAIRS = [(material, kind) for material, spec in MATERIALS.items() for kind in spec.defects]


@pytest.mark.parametrize(("material", "kind"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
@pytest.mark.parametrize("side", [64, 256])
def test_defect_is_marked_on_the_object_and_shows(material, kind, side):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        surface = render(material, side, rng)
        picture, mask = add_defect(surface, kind, rng)
        assert picture.shape == (side, side, 3)
        assert np.isfinite(picture).all()
        assert 12 <= mask.sum() < 0.35 * mask.size
        assert not (mask & ~surface.foreground).any()
        change = np.abs(picture - surface.picture).max(axis=2)
        assert change[mask].mean() > 8
        assert change[mask].mean() > 4 * change[~mask].mean()


def test_every_defect_has_a_material():
    assert {kind for _, kind in PAIRS} == set(DEFECTS)


def test_written_set_is_read_back(tmp_path):
    root = write_synthetic_surfaces(tmp_path / "set", side=64, train=6, good=3, defects=len(PAIRS))
    found = load_mvtec(root)
    assert len(found.train) == 6
    assert sum(1 - sample.label for sample in found.test) == 3
    assert {sample.kind for sample in found.test} == {"good", *DEFECTS}
    images, masks = load_samples(found.test, 64, 3)
    assert images.shape == (3 + len(PAIRS), 64, 64, 3)
    assert masks.any((1, 2)).tolist() == [bool(sample.label) for sample in found.test]


def test_same_seed_same_files(tmp_path):
    first, second, other = (
        write_synthetic_surfaces(tmp_path / name, seed=seed, side=64, train=2, good=1, defects=3)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    files = sorted(path.relative_to(first) for path in first.rglob("*.png"))
    assert len(files) == 2 + 1 + 2 * 3
    assert all((first / path).read_bytes() == (second / path).read_bytes() for path in files)
    assert all((first / path).read_bytes() != (other / path).read_bytes() for path in files[-2:])


def test_one_material(tmp_path):
    root = write_synthetic_surfaces(tmp_path, side=64, train=2, good=0, defects=8, materials=["woven_fabric"])
    found = load_mvtec(root)
    assert {sample.kind for sample in found.test} == set(MATERIALS["woven_fabric"].defects)
    assert all("woven_fabric" in sample.path.name for sample in found.train + found.test)


def test_unknown_material(tmp_path):
    with pytest.raises(ConfigError, match="unknown material velvet; choose from"):
        write_synthetic_surfaces(tmp_path, materials=["velvet"])


@pytest.mark.parametrize("wrong", [{"side": 32}, {"train": 0}, {"defects": -1}], ids=lambda w: next(iter(w)))
def test_impossible_numbers(tmp_path, wrong):
    with pytest.raises(ConfigError, match="at least"):
        write_synthetic_surfaces(tmp_path, **wrong)


def test_existing_set_is_not_mixed_with_a_new_one(tmp_path):
    write_synthetic_surfaces(tmp_path, side=64, train=1, good=0, defects=0)
    with pytest.raises(DataError, match="exists already"):
        write_synthetic_surfaces(tmp_path, side=64, train=1, good=0, defects=0)
