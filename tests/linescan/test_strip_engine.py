"""An inspector whose engine takes whole strips finds what it finds in tiles."""

from unittest import mock

import numpy as np
import pytest

from prn_fast.engine.base import StripDetections
from prn_fast.engine.fused import FusedEngine
from prn_fast.errors import EngineError
from prn_fast.linescan.inspection import Inspection
from prn_fast.linescan.inspector import Inspected
from prn_fast.linescan.sources.base import Gap
from tests.engine.host_cuda import host_cuda
from tests.linescan.webs import ListSource, blocks, make_inspector
from tests.small_package import SIDE, small_config, small_model, textured_images

WIDTH, LINES = 131, 4 * SIDE


def events():
    """A web in which some lines are missing."""
    web = textured_images(1, 1, 2, LINES)[0, :, :WIDTH, 0]
    gap = Gap(150, 20, "gap")
    return [*blocks(web[:150], [40]), gap, *blocks(web[170:], [64], first_line=170)]


@pytest.fixture(scope="module")
def engine():
    with host_cuda(), FusedEngine(small_model(small_config(3)), "fp32", batch=2) as engine:
        yield engine


def inspect(engine, overlap):
    """All that came out, and the scores and tiles that the watch for drift was shown."""
    source = ListSource(WIDTH, events())
    inspector = make_inspector(source, engine, overlap=overlap, threshold=0.6)
    inspector.drift = mock.Mock()
    shown: list[tuple[np.ndarray, np.ndarray]] = []
    inspector.drift.observe = lambda scores, tiles: shown.append((scores.copy(), tiles.copy()))
    seen: list[Inspected] = []
    Inspection(source, inspector, observers=[seen.append]).run()
    return [line for one in seen for line in one.stitched], [d for one in seen for d in one.defects], shown


@pytest.mark.parametrize("overlap", [0, 16])
def test_strips_and_tiles_give_the_same_map_and_defects(engine, overlap):
    stitched, defects, shown = inspect(engine, overlap)
    with mock.patch.object(engine, "takes_strips", False):
        other_stitched, other_defects, other_shown = inspect(engine, overlap)
    assert [one.first_line for one in stitched] == [one.first_line for one in other_stitched]
    for one, other in zip(stitched, other_stitched, strict=True):
        np.testing.assert_allclose(one.heat, other.heat, atol=5e-4)
        assert np.array_equal(one.missing, other.missing)
        assert np.array_equal(one.pixels, other.pixels)
    assert sum(one.missing.sum() for one in stitched) == 20
    assert defects
    assert abs(len(defects) - len(other_defects)) <= len(defects) // 20
    assert len(shown) == len(other_shown) > 0
    for (scores, tiles), (other_scores, other_tiles) in zip(shown, other_shown, strict=True):
        np.testing.assert_allclose(scores, other_scores, atol=5e-4)
        assert np.array_equal(tiles, other_tiles)


def test_no_tile_is_cut_where_the_engine_takes_strips(engine):
    source = ListSource(WIDTH, events())
    inspector = make_inspector(source, engine)
    with mock.patch.object(inspector, "_tiler") as tiler:
        Inspection(source, inspector).run()
    tiler.cut.assert_not_called()


def test_an_engine_that_takes_tiles_only_says_so_of_a_strip(engine):
    with (
        mock.patch.object(engine, "takes_strips", False),
        pytest.raises(EngineError, match="fused:fp32 takes no strips; cut them into tiles"),
    ):
        engine.infer_strip(np.zeros((SIDE, WIDTH, 3), np.uint8), 16)


def test_a_map_that_holds_nan_stops_the_line(engine):
    nan = StripDetections(np.zeros(3, np.float32), np.full((SIDE, WIDTH), np.nan, np.float32))
    with mock.patch.object(engine, "infer_strip", return_value=nan), pytest.raises(EngineError, match="holds NaN"):
        inspect(engine, 0)
