"""Anomaly map, image score and stitching: the definitions, and the kernels against them."""

import pytest
import torch

from prn_fast.errors import ConfigError
from prn_fast.kernels.anomaly_score import anomaly_score, fused, learned_score, reference, stitch_tiles, traffic
from prn_fast.kernels.launch import Tile
from prn_fast.kernels.tile_normalize.reference import tile_positions, tile_starts
from tests.kernels.kernel_checks import assert_rounded
from tests.kernels.number_formats import dtypes

# Several programs a map, and several rounds of reading an image's candidates.
TILES = (Tile({"BLOCK": 128}), Tile({"BLOCK": 256}))
STITCH_TILE = Tile({"BLOCK": 32})
formulations = pytest.mark.parametrize("formulation", [reference, fused], ids=["reference", "triton"])


def test_score_is_the_mean_of_the_hundred_largest_pixels(normal):
    logits = normal(3, 1, 12, 17)
    scores, maps = reference.anomaly_score(logits)
    torch.testing.assert_close(maps, 1 / (1 + torch.exp(-logits[:, 0])))
    ordered = maps.flatten(1).sort(dim=1, descending=True).values
    torch.testing.assert_close(scores, ordered[:, :100].sum(1) / 100)


@dtypes
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 1, 10, 10), id="all-pixels-count"),
        pytest.param((3, 1, 7, 37), id="last-program-has-three-pixels"),
        pytest.param((2, 1, 20, 20), id="square"),
    ],
)
def test_triton_score_and_map_match_float64(normal, shape, dtype):
    logits = (3 * normal(*shape)).to(dtype)
    expected_scores, expected_maps = reference.anomaly_score(logits.double())
    scores, maps = fused.anomaly_score(logits, TILES)
    assert (scores.dtype, maps.dtype) == (torch.float32, torch.float32)
    assert_rounded(maps, expected_maps)
    assert_rounded(scores, expected_scores)


@pytest.mark.parametrize(("logit", "value"), [(0.0, 0.5), (-float("inf"), 0.0), (float("inf"), 1.0)])
def test_triton_score_of_equal_pixels_is_their_value(logit, value):
    scores, maps = fused.anomaly_score(torch.full((1, 1, 15, 20), logit), TILES)
    assert scores.item() == value
    assert (maps == value).all()


@formulations
@pytest.mark.parametrize("sign", [1, -1], ids=["nan", "negative-nan"])
def test_one_nan_makes_the_score_nan(normal, formulation, sign):
    logits = normal(3, 1, 13, 29, dtype=torch.float32)
    nan = torch.copysign(torch.tensor(float("nan")), torch.tensor(float(sign)))
    # At the end of a map, among the lowest pixels.
    logits[1] -= 50
    logits[1, 0, -1, -1] = nan
    scores, maps = formulation.anomaly_score(logits)
    assert scores.isnan().tolist() == [False, True, False]
    assert maps[1, -1, -1].isnan()
    assert maps.isnan().sum() == 1


@formulations
def test_a_nan_anywhere_makes_the_score_nan(normal, formulation, weights):
    height, width = 10, 31
    places = [*torch.randperm(height * width, device="cpu")[:14].tolist(), 0, height * width - 1]
    logits = normal(1, 1, height, width, dtype=torch.float32).repeat(len(places) + 1, 1, 1, 1)
    for image, place in enumerate(places):
        logits[image].flatten()[place] = float("nan")
    scores, _ = formulation.anomaly_score(logits)
    assert scores.isnan().tolist() == [True] * len(places) + [False]
    assert (
        formulation.learned_score(logits, weights, torch.zeros(len(logits))).isnan().tolist() == scores.isnan().tolist()
    )


@pytest.mark.parametrize("block", [64, 512], ids=["read-again", "read-once"])
def test_triton_score_is_exact_whatever_the_ties(block):
    # Few values, each many times, and those of the smallest differences that float32 has.
    levels = torch.tensor([0.25, 0.25 + 2**-26, 0.5, 0.75])
    logits = torch.logit(levels.double())[torch.randint(0, 4, (3, 1, 12, 20))].float()
    scores, maps = fused.anomaly_score(logits, (TILES[0], Tile({"BLOCK": block})))
    expected = maps.flatten(1).double().sort(dim=1, descending=True).values[:, :100].mean(1)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-6, atol=0)


@formulations
def test_maps_with_too_few_pixels_are_refused(formulation):
    for shape in [(1, 1, 9, 11), (1, 2, 16, 16), (1, 16, 16)]:
        with pytest.raises(ConfigError, match="100 pixels"):
            formulation.anomaly_score(torch.zeros(shape))


@pytest.fixture
def weights():
    return torch.tensor([0.4, -0.3, 0.5, -0.6, 0.2])


@pytest.fixture
def offsets():
    return torch.tensor([0.1, -0.4, 0.3])


def test_learned_score_weighs_what_it_says(normal, weights, offsets):
    logits = 4 * normal(3, 1, 12, 17)
    logits[0, 0, 3, 4] = 40.0
    values = logits.flatten(1).clamp(-10, 10)
    ordered = values.sort(dim=1, descending=True).values
    means = [ordered[:, :count].sum(1) / count for count in (1, 10, 100)]
    spread = ((values**2).mean(1) - values.mean(1) ** 2).sqrt()
    expected = torch.stack([*means, values.mean(1), spread], dim=1)
    torch.testing.assert_close(reference.map_statistics(logits), expected)
    decision = expected @ weights.double() + offsets
    torch.testing.assert_close(reference.learned_score(logits, weights, offsets), torch.sigmoid(decision))


@dtypes
@pytest.mark.parametrize("shape", [(1, 1, 10, 10), (3, 1, 7, 37), (2, 1, 20, 20)], ids=str)
def test_triton_learned_score_matches_float64(normal, shape, dtype, weights, offsets):
    logits = (4 * normal(*shape)).to(dtype)
    # The spread of nearly equal logits must not drown in their size.
    logits[-1] = (9 + 0.01 * normal(*shape[1:])).to(dtype)
    offsets = offsets[: len(logits)]
    expected = reference.learned_score(logits.double(), weights, offsets)
    scores = fused.learned_score(logits, weights, offsets, TILES)
    assert scores.dtype == torch.float32
    # Five statistics, each rounded.
    assert_rounded(scores, expected, typical=8.0)


@formulations
@pytest.mark.parametrize("sign", [1, -1], ids=["nan", "negative-nan"])
def test_one_nan_makes_the_learned_score_nan(normal, formulation, sign, weights, offsets):
    logits = normal(3, 1, 13, 29, dtype=torch.float32)
    logits[1, 0, -1, -1] = torch.copysign(torch.tensor(float("nan")), torch.tensor(float(sign)))
    assert formulation.learned_score(logits, weights, offsets).isnan().tolist() == [False, True, False]


@formulations
def test_weights_of_another_score_are_refused(normal, formulation, weights, offsets):
    with pytest.raises(ConfigError, match=r"has 5 weights \(largest 1, .*spread\), not \(4,\)"):
        formulation.learned_score(normal(1, 1, 12, 12, dtype=torch.float32), weights[:4], offsets[:1])


def test_two_tiles_fade_into_each_other_in_a_straight_line():
    side, overlap = 8, 3
    maps = torch.stack([torch.zeros(side, side), torch.ones(side, side)])
    line = reference.stitch_tiles(maps, side, 2 * side - overlap, overlap)[0]
    torch.testing.assert_close(line, torch.tensor([0.0] * 5 + [0.25, 0.5, 0.75] + [1.0] * 5))


@dtypes
@pytest.mark.parametrize(
    ("lines", "width", "side", "overlap"),
    [
        pytest.param(9, 9, 9, 0, id="one-tile"),
        pytest.param(17, 41, 8, 3, id="flush-and-overlapping"),
        pytest.param(11, 23, 8, 6, id="every-pixel-in-many-tiles"),
    ],
)
def test_triton_stitching_matches_float64(normal, lines, width, side, overlap, dtype):
    maps = normal(len(tile_positions(lines, width, side, overlap)), side, side, dtype=dtype)
    expected = reference.stitch_tiles(maps.double(), lines, width, overlap)
    strip = fused.stitch_tiles(maps, lines, width, overlap, STITCH_TILE)
    assert strip.dtype == dtype
    assert_rounded(strip, expected)


@formulations
def test_stitching_keeps_nan_at_its_place(normal, formulation):
    lines, width, side, overlap = 8, 14, 8, 2
    maps = normal(2, side, side, dtype=torch.float32)
    maps[1, 3, 1] = float("nan")
    strip = formulation.stitch_tiles(maps, lines, width, overlap)
    assert strip.isnan().nonzero().tolist() == [[3, tile_starts(width, side, overlap)[1] + 1]]


@formulations
def test_maps_that_are_not_those_of_the_strip_are_refused(formulation):
    with pytest.raises(ConfigError, match="has 2 tiles of 8 with overlap 2, not 3"):
        formulation.stitch_tiles(torch.zeros(3, 8, 8), 8, 14, 2)
    with pytest.raises(ConfigError, match="N, side, side"):
        formulation.stitch_tiles(torch.zeros(2, 8, 7), 8, 14, 2)


def test_operations_are_well_formed(normal, weights, offsets):
    torch.library.opcheck(anomaly_score, (normal(3, 1, 12, 17, dtype=torch.float16),))
    torch.library.opcheck(anomaly_score, (normal(3, 1, 12, 17),))
    torch.library.opcheck(learned_score, (normal(3, 1, 12, 17, dtype=torch.float16), weights, offsets))
    torch.library.opcheck(stitch_tiles, (normal(2, 8, 8, dtype=torch.float16), 8, 14, 2))


def test_operations_survive_compile_and_export_with_any_batch(normal):
    class Score(torch.nn.Module):
        def forward(self, logits):
            scores, maps = anomaly_score(2 * logits)
            return scores, maps + 1

    logits = normal(4, 1, 12, 17, dtype=torch.float32)
    expected = Score()(logits)
    compiled = torch.compile(Score(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits), expected)
    program = torch.export.export(Score(), (logits,), dynamic_shapes={"logits": {0: torch.export.Dim("batch")}})
    assert any(node.target is torch.ops.prn_fast.anomaly_score.default for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(logits[:3]), tuple(one[:3] for one in expected))


def test_traffic_of_a_small_case():
    # 2 maps of 1000 half values in 4 splits: 800 candidates of 4 bytes.
    moved = traffic.bytes_moved(2, 1000, 4, 2)
    assert (moved.read, moved.written) == (4000 + 3200, 8000 + 3200 + 8)
    published = traffic.published_bytes_moved(2, 1000, 4)
    assert (published.read, published.written) == (16000 + 800, 8000 + 200 * 12 + 8)
    half = traffic.published_bytes_moved(2, 1000, 2)
    assert (half.read - published.read, half.written - published.written) == (4000, 8000)


def test_stitching_traffic_of_a_small_case():
    # 2 tiles of 8 x 8 half values, a strip of 8 x 14.
    moved = traffic.stitch_bytes_moved(128, 112, 2)
    assert (moved.read, moved.written) == (256, 224)
    published = traffic.published_stitch_bytes_moved(128, 112, 4)
    assert (published.read, published.written) == (128 * 16 + 112 * 8, 128 * 12 + 112 * 12)
    half = traffic.published_stitch_bytes_moved(128, 112, 2)
    assert (half.read - published.read, half.written - published.written) == (112 * 4 - 128 * 2, 112 * 2)
