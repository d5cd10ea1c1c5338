"""Textures from folders and from a seed."""

import numpy as np
import pytest

from prn_fast.data.images import write_image
from prn_fast.data.textures import generate_textures, load_textures
from prn_fast.errors import DataError


@pytest.mark.parametrize("channels", [1, 3])
def test_generated_textures_have_structure(channels):
    textures = generate_textures(20, channels, seed=0)
    assert len(textures) == 20
    for texture in textures:
        assert texture.shape == (256, 256, channels)
        assert texture.dtype == np.uint8
        assert texture.std(axis=(0, 1)).max() > 3


def test_generated_textures_follow_the_seed():
    np.testing.assert_array_equal(generate_textures(3, 1, seed=4), generate_textures(3, 1, seed=4))
    assert not np.array_equal(generate_textures(3, 1, seed=4), generate_textures(3, 1, seed=5))


def test_no_folder_generates():
    np.testing.assert_array_equal(load_textures(None, 1, limit=4), generate_textures(4, 1, seed=0))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((64, 64), (256, 256)), ((300, 512), (256, 437)), ((60, 3000), (256, 512)), ((900, 100), (512, 256))],
    ids=["small", "wide", "strip", "column"],
)
def test_loaded_textures_are_brought_to_size(tmp_path, size, expected):
    write_image(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8))
    (texture,) = load_textures(tmp_path, 1)
    assert texture.shape == (*expected, 1)


def test_large_folder_is_thinned_out_evenly(tmp_path):
    for i in range(9):
        write_image(tmp_path / f"{i}.png", np.full((256, 256), i, np.uint8))
    assert [int(texture[0, 0, 0]) for texture in load_textures(tmp_path, 1, limit=3)] == [0, 4, 8]


def test_folder_without_textures(tmp_path):
    with pytest.raises(DataError, match="no images"):
        load_textures(tmp_path, 3)
