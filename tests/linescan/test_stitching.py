import numpy as np
import pytest
import torch

from prn_fast.errors import ConfigError
from prn_fast.kernels.anomaly_score.reference import stitch_tiles
from prn_fast.kernels.tile_normalize.reference import tile_positions
from prn_fast.linescan.stitching import StripStitcher

SIDE = 32


class Web:
    """Random tile maps and pixels of a web, and its strips as a ring delivers them."""

    def __init__(self, lines, width, overlap, seed=0):
        rng = np.random.default_rng(seed)
        positions = tile_positions(lines, width, SIDE, overlap)
        self.tops = sorted({top for top, _ in positions})
        self.maps = rng.random((len(positions), SIDE, SIDE), np.float32)
        self.pixels = rng.integers(0, 255, (lines, width, 1), dtype=np.uint8)
        self.heat = stitch_tiles(torch.from_numpy(self.maps).double(), lines, width, overlap).numpy()
        self.missing = np.zeros(lines, bool)
        self._stitcher = StripStitcher(width, SIDE, overlap)

    def stitch(self, left_out=()):
        """What becomes final, strip by strip; some strips are left out."""
        per_strip = len(self._stitcher.lefts)
        done = []
        for number, top in enumerate(self.tops):
            begin = 0 if number == 0 else self.tops[number - 1] + SIDE
            lines = slice(top, top + SIDE)
            if number not in left_out:
                done += self._stitcher.add(
                    self._stitcher.along_the_line(self.maps[number * per_strip : (number + 1) * per_strip]),
                    self.pixels[lines],
                    self.missing[lines],
                    top,
                    range(begin, top + SIDE),
                )
        return done + self._stitcher.flush()


@pytest.mark.parametrize(("width", "overlap", "rows"), [(64, 8, 1), (75, 8, 4), (200, 0, 3), (131, 16, 5)])
def test_a_web_of_whole_strips_is_stitched_as_defined(width, overlap, rows):
    web = Web(SIDE + (rows - 1) * (SIDE - overlap), width, overlap)
    done = web.stitch()
    np.testing.assert_allclose(np.concatenate([one.heat for one in done]), web.heat, atol=1e-5)
    assert np.array_equal(np.concatenate([one.pixels for one in done]), web.pixels)
    starts = np.cumsum([0, *(len(one.heat) for one in done)])
    assert [one.first_line for one in done] == starts[:-1].tolist()


def test_the_last_strip_changes_no_line_that_was_final():
    web = Web(93, 40, 8)
    assert web.tops[-1] < web.tops[-2] + SIDE - 8
    heat = np.concatenate([one.heat for one in web.stitch()])
    assert heat.shape == (93, 40)
    np.testing.assert_allclose(heat[: web.tops[-1]], web.heat[: web.tops[-1]], atol=1e-5)
    final = web.tops[-2] + SIDE - 8
    np.testing.assert_allclose(heat[final:], web.heat[final:], atol=1e-5)


def test_lines_of_a_strip_that_was_left_out_do_not_become_final():
    web = Web(SIDE + 3 * 24, 40, 8)
    done = web.stitch(left_out={1})
    lines = [line for one in done for line in range(one.first_line, one.first_line + len(one.heat))]
    # The second strip owned lines 32 to 55.
    assert lines == [*range(32), *range(56, 104)]
    found = np.concatenate([one.heat for one in done])
    # Where no strip was left out, the map is as if nothing had happened.
    same = [*range(24), *range(80, 104)]
    np.testing.assert_allclose(found[[lines.index(line) for line in same]], web.heat[same], atol=1e-5)


def test_missing_lines_have_no_anomalies():
    web = Web(SIDE + 24, 40, 8)
    web.missing[20:30] = True
    heat = np.concatenate([one.heat for one in web.stitch()])
    assert (heat[20:30] == 0).all()
    np.testing.assert_allclose(heat[30:], web.heat[30:], atol=1e-5)


def test_a_web_that_is_narrower_than_a_tile_is_refused():
    with pytest.raises(ConfigError, match="narrower than a tile"):
        StripStitcher(31, 32, 8)
