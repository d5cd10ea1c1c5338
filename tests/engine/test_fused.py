"""The fused engine: how it cuts and schedules, what it says without a GPU, and, with one, what it computes."""

import copy

import numpy as np
import pytest
import torch

from prn_fast.bench.seeded import seeded_model, textured_images
from prn_fast.engine import open_engine
from prn_fast.engine.fused import LANES, FusedEngine, convolution_settings, pieces, powers_of_two, take_turns
from prn_fast.errors import EngineError
from prn_fast.model.config import PRNConfig

# Weights at random: a machine that has no more than PyTorch can run these tests.
SMALL = PRNConfig(image_size=64, prototypes=(3, 3, 3), attention_layers=1)

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")


@pytest.mark.parametrize("count", [1, 2, 7, 13, 32, 100])
@pytest.mark.parametrize("most", [1, 5, 8])
def test_pieces_cover_all_images_in_order_with_recorded_sizes(count, most):
    parts = list(pieces(count, most))
    assert [index for part in parts for index in range(count)[part]] == list(range(count))
    sizes = [part.stop - part.start for part in parts]
    assert set(sizes) <= set(powers_of_two(most))
    assert sizes == sorted(sizes, reverse=True)


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


@without_gpu
def test_without_a_gpu_one_line_says_so(package):
    for name in ("fused", "fused:fp16", "fused:bf16", "fused:fp32"):
        with pytest.raises(EngineError, match="needs a CUDA device") as raised:
            open_engine(package, name)
        assert "\n" not in str(raised.value)


# Score and mean map, in 0..1; the network's own rounding is held in tests/model/test_engine_graph.py.
ON_GPU = {"fp32": (1e-3, 1e-4), "fp16": (0.01, 0.01), "bf16": (0.05, 0.06)}


@needs_gpu
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
            np.testing.assert_allclose(found.scores, scores[:count], atol=most_score)
            assert np.abs(found.maps - maps[:count].numpy()).mean() <= mean_map


@needs_gpu
def test_a_closed_engine_says_so():
    engine = FusedEngine(seeded_model(SMALL), batch=1)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(textured_images(1, 3, 0, 64))
