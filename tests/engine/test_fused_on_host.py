"""The fused engine with a stand-in for the GPU: what is copied, what is lent, and strips."""

import copy
from collections.abc import Iterator
from unittest import mock

import numpy as np
import pytest
import torch

from prn_fast.engine import fused
from prn_fast.engine.fused import FusedEngine
from prn_fast.errors import ConfigError, EngineError
from prn_fast.kernels.anomaly_score.reference import stitch_tiles
from prn_fast.kernels.tile_normalize.reference import cut_tiles
from prn_fast.model.prn import PRN
from tests.engine.host_cuda import HostCuda, host_cuda
from tests.small_package import SIDE, small_config, small_model, textured_images


@pytest.fixture(scope="module")
def memory() -> Iterator[HostCuda]:
    with host_cuda() as memory:
        yield memory


@pytest.fixture(scope="module")
def model() -> PRN:
    return small_model(small_config(3))


@pytest.fixture(scope="module")
def engine(memory: HostCuda, model: PRN) -> Iterator[FusedEngine]:
    with FusedEngine(model, "fp32", batch=4) as engine:
        yield engine


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return textured_images(7, 3, 5, SIDE)


@pytest.fixture(scope="module")
def expected(model: PRN, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        scores, maps = model.detect(torch.from_numpy(images))
    return scores.numpy(), maps.numpy()


def assert_as(found, expected):
    for one, other in zip(found, expected, strict=True):
        # float32 sums in another order move a pixel by up to 7e-4; answers of another image lie 0.1 and more away.
        np.testing.assert_allclose(one, other, atol=2e-3)


@pytest.mark.parametrize("count", [3, 7])
def test_copied_and_lent_results_are_the_same(engine, images, expected, count):
    for copied in (True, False):
        found = engine.infer(images[:count], copy=copied)
        assert_as((found.raw_scores, found.maps), [one[:count] for one in expected])


def test_lent_results_hold_until_the_next_inference_and_copies_for_ever(engine, images, expected):
    lent, copied = engine.infer(images[:2], copy=False), engine.infer(images[:2])
    engine.infer(images[2:4], copy=False)
    assert_as((lent.raw_scores, lent.maps), [one[2:4] for one in expected])
    assert_as((copied.raw_scores, copied.maps), [one[:2] for one in expected])


def test_pinned_memory_is_read_and_written_where_it_lies(memory, engine, images, expected):
    given = memory.pinned(images.shape, torch.uint8).numpy()
    given[:] = images
    lanes = engine._families["network"]._lanes
    for lane in lanes:
        lane.host_images.fill_(77)
        lane.host_maps.fill_(torch.nan)
    found = engine.infer(given, copy=False)
    assert_as((found.raw_scores, found.maps), expected)
    for lane in lanes:
        assert (lane.host_images == 77).all()
        assert lane.host_maps.isnan().all()


def test_images_on_the_gpu_do_not_pass_through_the_host(engine, images, expected):
    for lane in engine._families["network"]._lanes:
        lane.host_images.fill_(77)
    with (
        mock.patch.object(fused, "gpu_of", return_value=0),
        mock.patch.object(engine, "gpu", 0),
        mock.patch.object(fused.Engine, "check", side_effect=AssertionError),
    ):
        found = engine.infer(torch.from_numpy(images))
        on_gpu = engine.infer_on_gpu(torch.from_numpy(images))
        with pytest.raises(EngineError, match=r"images have dtype torch.int32"):
            engine.infer(torch.from_numpy(images).int())
        with pytest.raises(EngineError, match=r"images have shape \(7, 32, 64, 3\)"):
            engine.infer(torch.from_numpy(images)[:, ::2])
    assert_as((found.raw_scores, found.maps), expected)
    assert_as(on_gpu, expected)


def test_results_that_stay_on_the_gpu_are_the_callers(engine, images, expected):
    first, second = engine.infer_on_gpu(images[:5]), engine.infer_on_gpu(images[5:])
    assert_as(first, [one[:5] for one in expected])
    assert_as(second, [one[5:] for one in expected])


def test_a_map_with_nan_is_an_error_though_only_scores_are_read(memory, model, images):
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.decoder.out.bias.fill_(torch.nan)
    with FusedEngine(model, "fp32", batch=2) as engine:
        for copied in (True, False):
            with pytest.raises(EngineError, match="NaN"):
                engine.infer(images[:1], copy=copied)
        with pytest.raises(EngineError, match="NaN"):
            engine.infer_strip(images[0], 0)
        assert engine.infer_on_gpu(images[:1])[0].isnan().all()


@pytest.mark.parametrize(("width", "overlap"), [(64, 0), (65, 8), (211, 16)])
def test_a_strip_is_its_tiles_put_together(engine, width, overlap):
    strip = np.random.default_rng(width).integers(0, 256, (SIDE, width, 3), np.uint8)
    tiles = cut_tiles(torch.from_numpy(strip), 0, SIDE, SIDE, overlap)
    of_tiles = engine.infer(tiles)
    found = engine.infer_strip(strip, overlap)
    stitched = stitch_tiles(torch.from_numpy(of_tiles.maps), SIDE, width, overlap)
    # Weights at random turn the rounding of other batch sizes into more.
    assert_as((found.raw_scores, found.map), (of_tiles.raw_scores, stitched))


def test_answers_to_a_strip_are_not_touched_by_the_next_one(engine):
    black, white = np.zeros((SIDE, 100, 3), np.uint8), np.full((SIDE, 100, 3), 255, np.uint8)
    first = engine.infer_strip(black, 8)
    again = engine.infer_strip(white, 8), engine.infer_strip(black, 8)
    assert not np.array_equal(again[0].map, first.map)
    assert np.array_equal(again[1].map, first.map)


def test_strips_that_cannot_be_are_refused(engine):
    with pytest.raises(EngineError, match=r"a strip is uint8 \(32, 100, 3\); this engine takes uint8 \(64, W, 3\)"):
        engine.infer_strip(np.zeros((32, 100, 3), np.uint8), 8)
    with pytest.raises(EngineError, match="a strip is float32"):
        engine.infer_strip(np.zeros((SIDE, 100, 3), np.float32), 8)
    with pytest.raises(ConfigError, match="narrower than a tile"):
        engine.infer_strip(np.zeros((SIDE, 63, 3), np.uint8), 8)
    with pytest.raises(ConfigError, match="overlap"):
        engine.infer_strip(np.zeros((SIDE, 100, 3), np.uint8), 64)
