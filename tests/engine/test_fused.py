"""The fused engine: how it cuts and schedules, what it says without a GPU, and, with one, what it computes."""

import copy

import numpy as np
import pytest
import torch

from prn_fast.bench.engines.seeded import seeded_model, textured_images
from prn_fast.engine import open_engine
from prn_fast.engine.fused import FusedEngine, convolution_settings
from prn_fast.engine.recorded import LANES, pieces, powers_of_two, take_turns
from prn_fast.errors import EngineError
from prn_fast.kernels.anomaly_score.reference import stitch_tiles
from prn_fast.kernels.tile_normalize.reference import cut_tiles
from prn_fast.model.config import PRNConfig
from tests import needs

# Weights at random: a machine that has no more than PyTorch can run these tests.
SMALL = PRNConfig(image_size=64, prototypes=(3, 3, 3), attention_layers=1)


@pytest.mark.parametrize("count", [1, 2, 7, 13, 32, 100])
@pytest.mark.parametrize("most", [1, 5, 8])
def test_pieces_cover_all_images_in_order_with_recorded_sizes(count, most):
    parts = list(pieces(count, powers_of_two(most)))
    assert [index for part in parts for index in range(count)[part]] == list(range(count))
    sizes = [part.stop - part.start for part in parts]
    assert set(sizes) <= set(powers_of_two(most))
    assert sizes == sorted(sizes, reverse=True)


def test_images_that_the_recorded_sizes_do_not_add_up_to_are_refused():
    assert [part.stop - part.start for part in pieces(70, (32, 6))] == [32, 32, 6]
    with pytest.raises(EngineError, match="33 images do not divide into the recorded sizes 6, 32"):
        list(pieces(33, (32, 6)))


def test_sizes_are_the_powers_of_two_up_to_the_batch():
    assert powers_of_two(1) == [1]
    assert powers_of_two(13) == [1, 2, 4, 8]
    assert powers_of_two(32) == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_a_lane_is_collected_before_it_is_used_again(count):
    held: dict[str, slice] = {}
    order: list[tuple[str, int]] = []

    def submit(lane, part):
        assert lane not in held
        held[lane] = part
        order.append(("submit", part.start))

    def collect(lane, part):
        assert held.pop(lane) == part
        order.append(("collect", part.start))

    lanes = [f"lane {index}" for index in range(LANES)]
    take_turns([slice(index, index + 1) for index in range(count)], lanes, submit, collect)
    assert not held
    for action in ("submit", "collect"):
        assert [start for what, start in order if what == action] == list(range(count))
    # Piece i + 1 is on its way before piece i is waited for.
    for start in range(count - 1):
        assert order.index(("submit", start + 1)) < order.index(("collect", start))


def test_convolution_settings_are_put_back():
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.allow_tf32
    with convolution_settings(tune=True):
        assert (cudnn.benchmark, cudnn.allow_tf32) == (True, False)
    assert (cudnn.benchmark, cudnn.allow_tf32) == before


@needs.no_gpu
def test_without_a_gpu_one_line_says_so(package):
    for name in ("fused", "fused:fp16", "fused:bf16", "fused:fp32"):
        with pytest.raises(EngineError, match="needs a CUDA device") as raised:
            open_engine(package, name)
        assert "\n" not in str(raised.value)


# Score and mean map, in 0..1; the network's own rounding is held in tests/model/test_engine_graph.py.
ON_GPU = {"fp32": (1e-3, 1e-4), "fp16": (0.01, 0.01), "bf16": (0.05, 0.06)}


@needs.gpu
@pytest.mark.parametrize("precision", ON_GPU)
def test_engine_on_a_gpu_agrees_with_the_module_whatever_the_count(precision):
    model = seeded_model(SMALL)
    images = textured_images(13, 3, 5, 64)
    with torch.no_grad():
        scores, maps = copy.deepcopy(model).double().detect(torch.from_numpy(images))
    most_score, mean_map = ON_GPU[precision]
    with FusedEngine(model, precision, batch=4) as engine:
        # Also again, and in another number: nothing of an earlier call may show.
        for count in (13, 1, 13, 6):
            found = engine.infer(images[:count])
            np.testing.assert_allclose(found.raw_scores, scores[:count], atol=most_score)
            assert np.abs(found.maps - maps[:count].numpy()).mean() <= mean_map


@needs.gpu
def test_on_a_gpu_nothing_depends_on_where_images_come_from_and_results_go():
    images = textured_images(6, 3, 5, 64)
    with FusedEngine(seeded_model(SMALL), "fp16", batch=4) as engine:
        expected = engine.infer(images)
        pinned = torch.from_numpy(images).pin_memory()
        on_gpu = torch.from_numpy(images).to(engine.device)
        for given in (images, pinned, on_gpu, on_gpu.flip(1).flip(1)):
            for copied in (True, False):
                found = engine.infer(given, copy=copied)
                assert np.array_equal(found.maps, expected.maps)
            scores, maps = engine.infer_on_gpu(given)
            assert maps.device == engine.device
            assert np.array_equal(scores.cpu().numpy(), expected.raw_scores)
            assert np.array_equal(maps.cpu().numpy(), expected.maps)


@needs.gpu
@pytest.mark.parametrize(("width", "overlap"), [(64, 0), (131, 8), (333, 31)])
def test_a_strip_on_a_gpu_is_its_tiles_put_together(width, overlap):
    strip = np.random.default_rng(1).integers(0, 256, (64, width, 3), np.uint8)
    with FusedEngine(seeded_model(SMALL), "fp32", batch=4) as engine:
        tiles = engine.infer(cut_tiles(torch.from_numpy(strip), 0, 64, 64, overlap))
        expected = stitch_tiles(torch.from_numpy(tiles.maps), 64, width, overlap)
        for _ in range(2):
            found = engine.infer_strip(strip, overlap)
            np.testing.assert_allclose(found.raw_scores, tiles.raw_scores, atol=1e-3)
            np.testing.assert_allclose(found.map, expected, atol=1e-3)
