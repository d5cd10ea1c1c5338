import numpy as np
import pytest
import torch

from prn_fast.errors import ConfigError
from prn_fast.kernels.anomaly_score.reference import stitch_tiles
from prn_fast.kernels.tile_normalize.reference import tile_positions
from prn_fast.linescan.stitching import StripStitcher


def strips(lines, width, side, overlap, seed=0):
    """Tile maps of a web, and for each strip its first line and the lines that it owns."""
    tops = sorted({top for top, _ in tile_positions(lines, width, side, overlap)})
    maps = np.random.default_rng(seed).random(
        (len(tile_positions(lines, width, side, overlap)), side, side), np.float32
    )
    owned = [range(number * (side - overlap), (number + 1) * (side - overlap)) for number in range(len(tops))]
    owned[-1] = range(owned[-1].start, lines)
    return maps, tops, owned


@pytest.mark.parametrize(("width", "overlap", "rows"), [(64, 8, 1), (75, 8, 4), (200, 0, 3), (131, 16, 5)])
def test_a_web_of_whole_strips_is_stitched_as_defined(width, overlap, rows):
    side = 32
    lines = side + (rows - 1) * (side - overlap)
    maps, tops, owned = strips(lines, width, side, overlap)
    stitcher = StripStitcher(width, side, overlap)
    per_strip = len(stitcher.lefts)
    heat = [
        stitcher.add(maps[number * per_strip : (number + 1) * per_strip], top, own)
        for number, (top, own) in enumerate(zip(tops, owned, strict=True))
    ]
    expected = stitch_tiles(torch.from_numpy(maps).double(), lines, width, overlap)
    np.testing.assert_allclose(np.concatenate(heat), expected.numpy(), atol=1e-5)


def test_the_last_strip_changes_no_line_that_was_ready():
    side, overlap, width, lines = 32, 8, 40, 93
    maps, tops, owned = strips(lines, width, side, overlap)
    assert tops[-1] < owned[-1].start
    stitcher = StripStitcher(width, side, overlap)
    heat = [
        stitcher.add(maps[2 * number : 2 * number + 2], top, own)
        for number, (top, own) in enumerate(zip(tops, owned, strict=True))
    ]
    assert sum(map(len, heat)) == lines
    expected = stitch_tiles(torch.from_numpy(maps).double(), lines, width, overlap).numpy()
    np.testing.assert_allclose(np.concatenate(heat)[: tops[-1]], expected[: tops[-1]], atol=1e-5)
    np.testing.assert_allclose(heat[-1], expected[owned[-1].start :], atol=1e-5)


def test_after_a_hole_only_the_strip_itself_counts():
    side, overlap, width = 32, 8, 40
    maps = np.random.default_rng(0).random((4, side, side), np.float32)
    stitcher = StripStitcher(width, side, overlap)
    stitcher.add(maps[:2], 0, range(24))
    stitcher.interrupt()
    heat = stitcher.add(maps[2:], 24, range(24, 48))
    fresh = StripStitcher(width, side, overlap).add(maps[2:], 24, range(24, 48))
    np.testing.assert_array_equal(heat, fresh)


def test_a_web_that_is_narrower_than_a_tile_is_refused():
    with pytest.raises(ConfigError, match="narrower than a tile"):
        StripStitcher(31, 32, 8)
