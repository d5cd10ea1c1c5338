"""Images as tiles, against slices of the image and a sum written out."""

import numpy as np
import pytest

from prn_fast.data.image_tiles import cut_image, cut_mask, load_tiles, stitch_maps, tile_count, tiled_shape
from prn_fast.data.images import write_image
from prn_fast.data.samples import Sample
from prn_fast.errors import ConfigError

SIDE, OVERLAP = 32, 8


@pytest.mark.parametrize("shape", [(32, 32), (57, 80), (33, 100)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_tiles_are_pieces_of_the_image_and_cover_it(shape, channels):
    image = np.random.default_rng(0).integers(0, 255, (*shape, channels), np.uint8)
    mask = image[..., 0] > 200
    tiles, masks = cut_image(image, SIDE, OVERLAP), cut_mask(mask, SIDE, OVERLAP)
    tops = [*range(0, shape[0] - SIDE, SIDE - OVERLAP), shape[0] - SIDE]
    lefts = [*range(0, shape[1] - SIDE, SIDE - OVERLAP), shape[1] - SIDE]
    assert len(tiles) == len(masks) == len(tops) * len(lefts)
    for index, (top, left) in enumerate((top, left) for top in tops for left in lefts):
        np.testing.assert_array_equal(tiles[index], image[top : top + SIDE, left : left + SIDE])
        np.testing.assert_array_equal(masks[index], mask[top : top + SIDE, left : left + SIDE])


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (9, 31), (31, 31)], ids=str)
def test_a_small_image_is_enlarged_in_proportion(shape):
    height, width = tiled_shape(*shape, SIDE)
    assert min(height, width) == SIDE
    assert height / width == pytest.approx(shape[0] / shape[1], rel=0.05)
    image = np.full((*shape, 1), 77, np.uint8)
    tiles = cut_image(image, SIDE, OVERLAP)
    assert tiles.shape[1:] == (SIDE, SIDE, 1)
    assert (tiles == 77).all()
    assert cut_mask(np.ones(shape, bool), SIDE, OVERLAP).all()


@pytest.mark.parametrize("shape", [(32, 32), (57, 80), (20, 50)], ids=str)
def test_cut_maps_are_stitched_to_the_map_they_were_cut_from(shape):
    height, width = tiled_shape(*shape, SIDE)
    whole = np.random.default_rng(1).random((height, width)).astype(np.float32)
    tops = [*range(0, height - SIDE, SIDE - OVERLAP), height - SIDE]
    lefts = [*range(0, width - SIDE, SIDE - OVERLAP), width - SIDE]
    maps = np.stack([whole[top : top + SIDE, left : left + SIDE] for top in tops for left in lefts])
    np.testing.assert_allclose(stitch_maps(maps, shape, OVERLAP), whole, atol=1e-6)


@pytest.fixture
def samples(tmp_path):
    rng = np.random.default_rng(2)
    made = []
    for index, shape in enumerate([(40, 70), (32, 32), (20, 25)]):
        path, mask = tmp_path / f"{index}.png", tmp_path / f"{index}_mask.png"
        write_image(path, rng.integers(0, 255, (*shape, 1), np.uint8))
        marked = np.zeros(shape, bool)
        marked[:4, :4] = True
        write_image(mask, marked)
        made.append(Sample(path, 1, "hole", mask))
    return made


def test_all_tiles_or_some_that_the_seed_draws(samples):
    counts = [tile_count(sample.path, SIDE, OVERLAP) for sample in samples]
    assert counts == [6, 1, 2]
    images, masks = load_tiles(samples, SIDE, 1, OVERLAP, most=100, seed=0)
    assert images.shape == (9, SIDE, SIDE, 1)
    assert masks.any(axis=(1, 2)).tolist() == [True, *[False] * 5, True, True, False]
    fewer, fewer_masks = load_tiles(samples, SIDE, 1, OVERLAP, most=4, seed=0)
    places = [int(np.flatnonzero((images == one).all(axis=(1, 2, 3)))[0]) for one in fewer]
    assert places == sorted(set(places))
    np.testing.assert_array_equal(fewer_masks, masks[places])
    np.testing.assert_array_equal(load_tiles(samples, SIDE, 1, OVERLAP, most=4, seed=0)[0], fewer)
    others = [load_tiles(samples, SIDE, 1, OVERLAP, most=4, seed=seed)[0] for seed in range(1, 5)]
    assert not all(np.array_equal(one, fewer) for one in others)


def test_an_impossible_overlap_is_refused(samples):
    with pytest.raises(ConfigError, match="overlap"):
        load_tiles(samples, SIDE, 1, SIDE, most=4, seed=0)
