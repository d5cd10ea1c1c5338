"""The screen: its cost, its score, and what it makes of residuals."""

import copy

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from prn_fast.kernels import OPTIMIZED
from prn_fast.kernels.anomaly_score.reference import image_scores
from prn_fast.model.config import PRESETS
from prn_fast.model.prn import PRN
from prn_fast.model.screen import SCREEN_TOP_PIXELS, Screen, screen_score
from tests.small_package import small_config, small_model, small_screen, textured_images

NO_LEVEL = torch.zeros(4)


@pytest.fixture(scope="module")
def model() -> PRN:
    return small_model(small_config())


@pytest.mark.parametrize("name", PRESETS)
def test_a_screen_costs_less_than_a_fiftieth_of_the_network(name):
    config = PRESETS[name]
    with FakeTensorMode():
        model, screen = PRN(config, OPTIMIZED).eval(), Screen(config).eval()
        images = torch.zeros(1, 3, config.image_size, config.image_size)
        features = [
            torch.zeros(1, channels, side, side) for channels, side in zip(config.channels, config.sides, strict=True)
        ]
        with FlopCounterMode(display=False) as whole:
            model.logits(images)
        with FlopCounterMode(display=False) as light:
            screen(features, features)
    assert 0 < light.get_total_flops() < whole.get_total_flops() / 50


def test_the_map_lies_at_stride_8_and_the_score_is_the_mean_of_its_largest_pixels(model):
    images = torch.from_numpy(textured_images(3, 1, 5))
    features = model.backbone.scales(model.normalize(images))
    logits = small_screen(model)(features, model.residuals(features))
    assert logits.shape == (3, 1, 8, 8)
    scores, maps = screen_score(logits, NO_LEVEL)
    expected = torch.sigmoid(logits).flatten(1).sort(descending=True).values[:, :SCREEN_TOP_PIXELS].mean(1)
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(maps, torch.sigmoid(logits[:, 0]))
    assert scores.std() > 0.01


def test_a_screen_score_stands_for_as_many_pixels_as_an_image_score():
    fine = torch.zeros(1, 256, 256)
    fine[0, :8, : 8 * SCREEN_TOP_PIXELS] = 1.0
    logits = torch.full((1, 1, 32, 32), -50.0)
    logits[0, 0, 0, :SCREEN_TOP_PIXELS] = 50.0
    torch.testing.assert_close(screen_score(logits, NO_LEVEL)[0], image_scores(fine))


def test_a_map_with_nan_has_a_score_that_lies_below_no_cut():
    logits = torch.full((2, 1, 8, 8), -9.0)
    logits[1, 0, 3, 3] = torch.nan
    for level in (NO_LEVEL, torch.tensor([-0.8, 2.0, 1.0, -3.0])):
        scores, _ = screen_score(logits, level)
        assert (scores < 1.0).tolist() == [True, False]


def test_the_level_of_a_map_counts_by_its_weights():
    logits = torch.randn(5, 1, 9, 7, dtype=torch.float64) * 4 - 3
    lowest = 7.5  # some of the levels lie below it
    scores, maps = screen_score(logits, torch.tensor([-0.5, 1.5, 0.25, lowest], dtype=torch.float64))
    levels = []
    for one, score, shown in zip(logits[:, 0], scores, maps, strict=True):
        clamped = one.clamp(-10, 10)
        levels.append(float(-0.5 * clamped.mean() + 1.5 * clamped.std(correction=0) + 0.25))
        expected = torch.sigmoid(one + max(levels[-1], lowest))
        torch.testing.assert_close(shown, expected)
        torch.testing.assert_close(score, expected.flatten().sort().values[-SCREEN_TOP_PIXELS:].mean())
    assert min(levels) < lowest < max(levels)


def test_a_screen_of_an_earlier_version_has_no_level(model):
    state = small_screen(model).state_dict()
    del state["level_weights"]
    screen = Screen(model.config, width=8)
    screen.level_weights.fill_(1.0)
    screen.load_state_dict(state)
    assert screen.level_weights.tolist() == [0.0, 0.0, 0.0, 0.0]


def test_a_screen_reads_a_memory_by_the_weights_that_were_set_last(model):
    screen, other = Screen(model.config, width=8), Screen(model.config, width=8)
    views = np.array([0.5, 2.0, -1.0], np.float32)
    screen.take_weights(np.ones(4, np.float32), views)
    views[:] = 7.0
    other.load_state_dict(screen.state_dict())
    for one in (screen, other):
        assert one.view_weights.tolist() == [0.5, 2.0, -1.0]
        assert one.level_weights.tolist() == [1.0] * 4
    screen.take_weights(np.zeros(4, np.float32))
    other.load_state_dict(screen.state_dict())
    for one in (screen, other):
        assert one.view_weights is None
        assert not one.level_weights.any()


def test_scores_are_told_apart_in_half_precision():
    logits = torch.tensor([8.0, 8.5]).half()[:, None, None, None].expand(2, 1, 8, 8)
    scores, maps = screen_score(logits, NO_LEVEL)
    assert scores.dtype == maps.dtype == torch.float32
    assert scores[0] < scores[1]


def test_square_and_absolute_residuals_are_screened_alike(model):
    screen = small_screen(model)
    absolute = Screen(small_config(residual="absolute"), screen.width)
    absolute.load_state_dict(screen.state_dict())
    features = [torch.rand(2, channels, side, side) for channels, side in zip((24, 40, 112), (16, 8, 4), strict=True)]
    residuals = [torch.rand_like(maps) for maps in features]
    torch.testing.assert_close(
        absolute.eval()(features, residuals), screen(features, [maps.square() for maps in residuals])
    )


def test_a_residual_of_one_pixel_is_not_washed_out(model):
    features = [torch.zeros(1, channels, side, side) for channels, side in zip((24, 40, 112), (16, 8, 4), strict=True)]
    residuals = [torch.zeros_like(maps) for maps in features]
    residuals[0][0, 0, 5, 5] = 4.0
    fine, _, _ = small_screen(model).inputs(features, residuals)
    assert fine[0, 24, 2, 2] == 2.0


def test_a_screen_trained_in_other_units_is_the_same_function(model):
    screen = small_screen(model).double()
    inputs = [torch.rand(2, 2 * channels, side, side).double() for channels, side in ((24, 8), (40, 8), (112, 4))]
    deviations = [torch.rand(maps.shape[1]).double() + 0.5 for maps in inputs]
    scaled = [maps / deviation[:, None, None] for maps, deviation in zip(inputs, deviations, strict=True)]
    expected = screen.logits_of_inputs(scaled)
    torch.testing.assert_close(copy.deepcopy(screen).take_units(deviations).logits_of_inputs(inputs), expected)
