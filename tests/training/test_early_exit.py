"""When an image may leave: the cut, its bound, and both stages in turn."""

import math

import numpy as np
import pytest
import torch

from prn_fast.errors import ConfigError
from prn_fast.kernels import OPTIMIZED
from prn_fast.model.engine_graph import EngineGraph, screen_distances, screen_images
from prn_fast.model.prn import PRN
from prn_fast.model.screen import Screen
from prn_fast.training.early_exit import (
    MAX_TRIES,
    ScreenWeights,
    StageScores,
    TwoStages,
    anomalies_needed,
    calibrate_exit,
    choose_cut,
    cut_below,
    flagged_needed,
    flagged_to_fit,
    loss_bound,
    seconds_for_cut,
    smallest_that_counts,
)
from prn_fast.training.exit_views import SHARES
from prn_fast.training.screen import Deadline
from prn_fast.training.settings import require_loss
from tests.small_package import learned_model, small_config, small_model, small_screen, textured_images, weights_of

NORMALS = np.linspace(0.01, 0.3, 100).astype(np.float32)
FLAGGED = np.linspace(0.4, 0.99, 299).astype(np.float32)
NO_LEVEL = ScreenWeights(np.zeros(4, np.float32))


@pytest.fixture(scope="module")
def model() -> PRN:
    return small_model(small_config())


@pytest.fixture(scope="module")
def stages(model: PRN) -> TwoStages:
    return TwoStages(model, small_screen(model))


def test_no_flagged_anomaly_leaves_and_the_margin_is_kept():
    chosen = choose_cut(NORMALS, FLAGGED, 0.01)
    assert chosen["lost"] == 0
    assert chosen["margin"] == pytest.approx(0.25 * np.std(np.log(NORMALS / (1 - NORMALS))), rel=1e-4)
    lowest = math.log(0.4 / 0.6)
    assert math.log(chosen["cut"] / (1 - chosen["cut"])) == pytest.approx(lowest - chosen["margin"], abs=1e-5)
    assert chosen["exit_share"] == np.mean(chosen["cut"] > NORMALS)
    assert (chosen["normals"], chosen["flagged"]) == (100, 299)
    assert chosen["loss_bound"] == pytest.approx(0.01, abs=1e-4)


@pytest.mark.parametrize("share", [0.5, 0.05, 0.01, 0.001])
def test_as_many_anomalies_are_needed_as_bound_the_loss(share):
    needed = flagged_needed(share)
    assert loss_bound(0, needed) <= share < loss_bound(0, needed - 1)


def test_anomalies_that_the_level_is_fitted_to_do_not_count_for_the_bound():
    chosen = choose_cut(NORMALS, FLAGGED, 0.02, fitted=100)
    assert chosen["loss_bound"] == loss_bound(0, 199)
    assert (chosen["flagged"], chosen["fitted"]) == (199, 100)
    assert "199 flagged anomalies bound the loss" in choose_cut(NORMALS, FLAGGED, 0.01, fitted=100)["why_whole"]


def test_the_bound_grows_with_what_is_lost_up_to_everything():
    bounds = [loss_bound(lost, 50) for lost in (0, 1, 5, 49, 50)]
    assert bounds == sorted(bounds)
    assert bounds[-1] == 1.0
    assert loss_bound(0, 0) == 1.0


def test_the_bound_holds_for_new_anomalies_of_the_same_kind():
    rng = np.random.default_rng(0)
    n = flagged_needed(0.05)
    # The share of new scores below the lowest of n is a uniform one's lowest of n.
    lost = rng.random((4000, n)).min(1)
    assert 0.93 < np.mean(lost <= 0.05) < 0.97


@pytest.mark.parametrize(
    ("normals", "flagged", "why"),
    [
        (NORMALS, FLAGGED[:50], "50 flagged anomalies bound the loss at 5.8%"),
        (NORMALS, FLAGGED[:0], "flagged none"),
        (NORMALS, FLAGGED - 0.39, "only 0% of the held-out normal images would leave"),
        (np.full(100, 0.5, np.float32), np.full(299, 0.5, np.float32), "only 0%"),
    ],
    ids=["too few anomalies", "none", "too little leaves", "a head that returns a constant"],
)
def test_where_it_cannot_be_shown_or_is_not_worth_it_all_run_whole(normals, flagged, why):
    chosen = choose_cut(normals, flagged, 0.01)
    assert chosen["cut"] is None
    assert why in chosen["why_whole"]


@pytest.mark.parametrize("slope", [0.2, 3.0])
def test_as_many_leave_however_far_apart_a_screen_puts_its_logits(slope):
    def scaled(scores):
        return (1 / (1 + (1 / scores.astype(np.float64) - 1) ** slope)).astype(np.float32)

    expected = choose_cut(NORMALS, FLAGGED - 0.15, 0.01)["exit_share"]
    assert 0.5 < expected < 0.9
    assert choose_cut(scaled(NORMALS), scaled(FLAGGED - 0.15), 0.01)["exit_share"] == expected


def test_equal_scores_do_not_leave():
    equal = np.full(299, 0.25, np.float32)
    assert choose_cut(np.concatenate([NORMALS, equal]), equal, 0.01)["lost"] == 0
    assert cut_below(equal, margin=0.0) <= equal.min()


@pytest.mark.parametrize("wanted", [-0.1, 1e-5, 0.9, math.nan, math.inf])
def test_a_loss_that_cannot_be_shown_is_refused(wanted):
    with pytest.raises(ConfigError, match="--lost"):
        require_loss(wanted)


def test_both_stages_score_every_image_by_itself(stages):
    images = textured_images(19, 1, 7)
    scores = stages.scores(images)
    alone = [stages.scores(images[number : number + 1]) for number in (0, 17)]
    for weights in (NO_LEVEL, ScreenWeights(np.array([-0.5, 1.0, 0.1, -0.3], np.float32))):
        found = [one.screen(weights)[0] for one in alone]
        np.testing.assert_allclose(scores.screen(weights)[[0, 17]], found, atol=1e-5)
    np.testing.assert_allclose(scores.whole[[0, 17]], [one.whole[0] for one in alone], atol=1e-4)


def test_of_a_network_with_a_memory_both_views_are_told_apart_and_scored_as_the_screen_does():
    model = learned_model()
    screen = small_screen(model)
    images = textured_images(19, 1, 7)
    found = TwoStages(model, screen).scores(images)
    with torch.no_grad():
        features, residuals = model.frozen(torch.from_numpy(images))
        own, distances = screen(features, residuals), screen_distances(model, features)
        expected, _ = screen_images(model, screen, torch.from_numpy(images))
    np.testing.assert_allclose(found.views, np.concatenate([own, distances], axis=1), atol=1e-3)
    np.testing.assert_allclose(found.screen(weights_of(screen)), expected, atol=1e-4)


@pytest.mark.parametrize("count", [1, 16, 19])
def test_what_stays_is_computed_as_the_whole_network_does_and_what_leaves_is_not(model, stages, count):
    images = textured_images(count, 1, 7)
    weights = weights_of(stages.first.screen)
    cut = float(np.median(stages.scores(images).screen(weights))) + 1e-6
    exited, scores, maps = stages.infer(images, cut)
    with torch.no_grad():
        expected_scores, expected = EngineGraph(model, OPTIMIZED)(torch.from_numpy(images))
    assert exited.any()
    assert count == 1 or not exited.all()
    np.testing.assert_array_equal(exited, stages.scores(images).screen(weights) < cut)
    np.testing.assert_allclose(maps[~exited], expected.numpy()[~exited], atol=1e-4)
    np.testing.assert_allclose(scores[~exited], expected_scores.numpy()[~exited], atol=1e-4)
    assert not maps[exited].any()
    assert not scores[exited].any()


class Marks:
    """Generates an anomaly that a network cannot overlook: noise in place of the image."""

    def __init__(self) -> None:
        self.made = 0

    def generate(self, image, rng):
        self.made += 1
        return rng.integers(0, 255, image.shape, np.uint8), np.ones(image.shape[:2], bool)


def told(screen, flagged) -> StageScores:
    """As both stages give it, of even maps with these scores."""
    logits = np.log(screen / (1 - screen)).astype("f4")
    return StageScores(np.repeat(logits, 4).reshape(-1, 1, 2, 2), flagged.astype("f4"))


class Unlike:
    """Two stages: normal images are black and have a screen score of 0.1, all others are flagged."""

    def __init__(self, screen_score: float) -> None:
        self.screen_score = screen_score

    def scores(self, images) -> StageScores:
        normal = ~images.any(axis=(1, 2, 3))
        return told(np.where(normal, 0.1, self.screen_score), ~normal)


BLACK = np.zeros((12, 8, 8, 1), np.uint8)


def test_anomalies_are_made_until_enough_are_flagged():
    generator = Marks()
    found = calibrate_exit(
        Unlike(0.9), BLACK, generator, BLACK[:2] + np.uint8(1), threshold=0.5, wanted_loss=0.1
    ).description
    assert found["flagged_seen"] == 2
    # Ten of those that are made and the two seen ones are fitted to; all that came with the tenth, at once.
    assert found["fitted"] == 2 + 16
    assert found["flagged"] >= flagged_needed(0.1) == 29
    assert found["anomalies"] == generator.made == 48
    assert found["lost"] == 0
    assert 0.1 < found["cut"] < 0.9


class Distant:
    """Two stages of a network with a memory: what is not black is flagged, and told by its distance alone."""

    def scores(self, images) -> StageScores:
        rng = np.random.default_rng(int(images[0, 0, 0, 0]) + len(images))
        views = rng.standard_normal((len(images), 2, 8, 8)).astype("f4") - np.float32(3)
        flagged = images.any(axis=(1, 2, 3))
        views[flagged, 1, 2:5, 2:5] += 5
        return StageScores(views, flagged.astype("f4"))


def test_the_memory_counts_as_much_as_the_flagged_anomalies_ask_for():
    seen = BLACK[:2] + np.uint8(1)
    rule = calibrate_exit(Distant(), BLACK, Marks(), seen, threshold=0.5, wanted_loss=0.1)
    assert rule.weights.views is not None
    assert 1 - rule.weights.views[0] == pytest.approx(SHARES[-1])
    assert rule.description["exit_share"] > 0.9
    assert rule.description["cut"] is not None


def test_few_normal_images_determine_no_level_and_every_anomaly_counts():
    generator = Marks()
    rule = calibrate_exit(Unlike(0.9), BLACK[:4], generator, BLACK[:0], threshold=0.5, wanted_loss=0.1)
    assert not rule.weights.level.any()
    assert rule.description["fitted"] == 0
    assert generator.made == rule.description["flagged"] == 32


def test_a_network_that_flags_nothing_ends_the_search(stages):
    normals = textured_images(4, 1, 3)
    generator = Marks()
    found = calibrate_exit(stages, normals, generator, normals[:0], threshold=1.1, wanted_loss=0.5).description
    assert found["cut"] is None
    assert generator.made <= MAX_TRIES * (flagged_to_fit(0.5) + flagged_needed(0.5)) + 16
    assert f"the network flags too few of the {generator.made} anomalies" in found["why_whole"]


def test_the_search_ends_where_no_more_anomalies_can_help():
    generator = Marks()
    found = calibrate_exit(Unlike(0.1), BLACK, generator, BLACK[:0], threshold=0.5, wanted_loss=0.01).description
    assert flagged_to_fit(0.01) <= generator.made < flagged_to_fit(0.01) + 16
    assert found["why_whole"].startswith("only 0% of the held-out normal images would leave")


def test_time_that_runs_out_is_named(monkeypatch):
    generator = Marks()
    deadline = Deadline.after(100.0)
    monkeypatch.setattr(Deadline, "passed", lambda self, share=1.0: generator.made >= 48)
    found = calibrate_exit(Unlike(0.9), BLACK, generator, BLACK[:0], 0.5, 0.01, deadline=deadline).description
    assert found["cut"] is None
    assert "48 flagged anomalies bound the loss at 6.1%" in found["why_whole"]
    assert "the time ran out; give more --minutes" in found["why_whole"]


def test_time_is_set_aside_for_the_anomalies_that_the_bound_needs():
    assert anomalies_needed(0.01) > flagged_to_fit(0.01) + flagged_needed(0.01)
    assert seconds_for_cut(Unlike(0.9), BLACK, Marks(), 0.01) > 0
    assert seconds_for_cut(Unlike(0.9), BLACK, Marks(), 0.0) == anomalies_needed(0.0) == 0


def test_a_screen_that_returns_a_constant_lets_nothing_go(model):
    screen = Screen(model.config).eval()
    for parameter in screen.parameters():
        parameter.data.zero_()
    normals = textured_images(4, 1, 3)
    found = calibrate_exit(
        TwoStages(model, screen), normals, Marks(), normals[:0], threshold=0.0, wanted_loss=0.5
    ).description
    assert found["cut"] is None
    assert "would leave" in found["why_whole"]


@pytest.mark.parametrize(("seen", "expected"), [(10, 6.0), (9, 0.0), (0, 0.0)])
def test_ten_seen_defects_show_how_small_a_defect_of_the_product_is(seen, expected):
    masks = np.zeros((seen, 16, 16), bool)
    masks[:, :8, :8] = True
    masks[:1, 3:] = False  # the smallest: 24 pixels
    assert smallest_that_counts(masks) == expected


class Flecks(Marks):
    """Generates anomalies of 1 and of 9 pixels in turn."""

    def generate(self, image, rng):
        self.made += 1
        mask = np.zeros(image.shape[:2], bool)
        mask[:3, :3] = self.made % 2 == 0
        mask[0, 0] = True
        return image + np.uint8(mask.sum()), mask


class Coarse:
    """Two stages, of which the first overlooks what `Flecks` makes of one pixel."""

    def scores(self, images) -> StageScores:
        value = images[:, 0, 0, 0]
        return told(np.select([value == 0, value == 1], [0.1, 0.05], 0.9), value > 0)


@pytest.mark.parametrize(("smallest", "leave"), [(0.0, False), (9.0, True), (10.0, False)])
def test_flecks_smaller_than_the_products_defects_do_not_count(smallest, leave):
    generator = Flecks()
    found = calibrate_exit(
        Coarse(), BLACK, generator, BLACK[:0], threshold=0.5, wanted_loss=0.1, smallest=smallest
    ).description
    assert (found["cut"] is not None) == leave
    assert found["smallest"] == smallest
    if leave:
        assert found["flagged"] + found["fitted"] == found["anomalies"] / 2
        assert found["flagged"] >= flagged_needed(0.1)
    if smallest > 9:
        assert found["flagged"] == found["fitted"] == 0
