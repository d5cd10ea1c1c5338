"""Properties of tiles, scores and stitching for any sizes; in a file of their own, since they need hypothesis."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prn_fast.kernels.anomaly_score import fused, reference
from prn_fast.kernels.tile_normalize.reference import tile_positions, tile_starts
from tests.kernels.test_anomaly_score import STITCH_TILE, TILES


@st.composite
def sides_and_lengths(draw):
    side = draw(st.integers(1, 40))
    return draw(st.integers(side, 300)), side, draw(st.integers(0, side - 1))


@given(sides_and_lengths())
def test_tiles_cover_a_length_without_leaving_it(case):
    length, side, overlap = case
    starts = tile_starts(length, side, overlap)
    assert starts[0] == 0
    assert starts[-1] == length - side
    steps = [after - before for before, after in pairwise(starts)]
    assert all(step == side - overlap for step in steps[:-1])
    assert all(0 < step <= side - overlap for step in steps)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.sampled_from([-2.0, 0.0, 0.5, 3.0]), min_size=100, max_size=300),
    st.sampled_from([-1e4, -20.0, 20.0, 1e4]),
)
def test_triton_score_of_many_equal_pixels_is_that_of_topk(levels, extreme):
    logits = torch.tensor([*levels, extreme]).reshape(1, 1, 1, -1)
    expected = torch.topk(torch.sigmoid(logits.double()).flatten(), 100).values.mean()
    torch.testing.assert_close(fused.anomaly_score(logits, TILES)[0][0], expected.float(), rtol=1e-6, atol=0)


@st.composite
def strips(draw):
    side = draw(st.integers(1, 8))
    lengths = st.integers(side, 20)
    return draw(lengths), draw(lengths), side, draw(st.integers(0, side // 2))


@settings(max_examples=10, deadline=None)
@given(strips())
def test_cutting_a_strip_and_stitching_it_gives_it_back(case):
    lines, width, side, overlap = case
    strip = torch.rand(lines, width, generator=torch.Generator().manual_seed(lines * width), device="cpu")
    strip = strip.to(torch.get_default_device())
    tiles = torch.stack([strip[y : y + side, x : x + side] for y, x in tile_positions(lines, width, side, overlap)])
    torch.testing.assert_close(reference.stitch_tiles(tiles, lines, width, overlap), strip)
    torch.testing.assert_close(fused.stitch_tiles(tiles, lines, width, overlap, STITCH_TILE), strip)
