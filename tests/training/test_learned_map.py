"""Weights of a learned map: what they are fitted to, and what they leave as it was."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from prn_fast.training.learned_map import Views, fit_map

NAMES = ("network", "memory", "screen")
SIDE, COUNT = 64, 12
LABELS = np.repeat([0, 1], COUNT // 2)


def images(seed: int, labels: np.ndarray, network: float, others: tuple[float, ...]) -> tuple[Views, np.ndarray]:
    """Noise, raised by these heights where a square of 16 pixels is a defect: in the network's map, and beside it."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((len(labels), SIDE, SIDE), bool)
    for index in np.flatnonzero(labels):
        top, left = 8 * rng.integers(0, 6, 2)
        masks[index, top : top + 16, left : left + 16] = True
    coarse = masks[:, 4::8, 4::8]
    beside = rng.normal(5.0, 2.0, (len(labels), len(others), 8, 8)) + coarse[:, None] * np.array(others)[:, None, None]
    logits = rng.normal(-2.0, 0.5, masks.shape) + network * masks
    return Views(logits.astype(np.float32), beside.astype(np.float32)), masks


def none() -> tuple[Views, np.ndarray]:
    return images(0, np.zeros(0, int), 0.0, (0.0, 0.0))


def weighed(views: Views, weights: np.ndarray) -> np.ndarray:
    return views.pixels() @ weights[:-1] + weights[-1]


def auroc(views: Views, masks: np.ndarray, weights: np.ndarray) -> float:
    return roc_auc_score(masks[:, 2::4, 2::4].ravel(), weighed(views, weights).ravel())


def test_pixels_are_every_fourth_of_the_map_and_of_the_enlarged_views() -> None:
    views, _ = images(3, LABELS, 1.0, (4.0, 0.0))
    pixels = views.pixels()
    assert pixels.shape == (COUNT, 16, 16, 3)
    assert pixels[2, 3, 5, 0] == views.logits[2, 14, 22]
    # Pixel 14 of a row lies between the middles of places 1 and 2, at 11.5 and 19.5.
    down = (views.others[2, 1, 1] * (19.5 - 14) + views.others[2, 1, 2] * (14 - 11.5)) / 8
    # Pixel 22 likewise between places 2 and 3, at 19.5 and 27.5.
    expected = (down[2] * (27.5 - 22) + down[3] * (22 - 19.5)) / 8
    assert pixels[2, 3, 5, 2] == pytest.approx(expected, abs=1e-4)


def test_what_tells_defects_gets_weight_and_what_tells_none_gets_little() -> None:
    views, masks = images(0, LABELS, 0.5, (6.0, 0.0))
    weights = fit_map(views, LABELS, masks, *none(), NAMES, 0)
    spread = np.array([0.5, 2.0, 2.0])
    shares = weights[:-1] * spread
    assert (weights[:-1] >= 0).all()
    assert shares[1] > 3 * shares[2]
    others, their_masks = images(1, LABELS, 0.5, (6.0, 0.0))
    assert auroc(others, their_masks, weights) > auroc(others, their_masks, np.array([1.0, 0, 0, 0])) + 0.1


def test_over_normal_images_the_map_keeps_its_mean_and_spread() -> None:
    views, masks = images(0, LABELS, 0.5, (6.0, 3.0))
    normal = Views(views.logits[LABELS == 0], views.others[LABELS == 0])
    found, own = weighed(normal, fit_map(views, LABELS, masks, *none(), NAMES, 0)), normal.pixels()[..., 0]
    assert found.mean() == pytest.approx(own.mean(), abs=1e-3)
    assert found.std() == pytest.approx(own.std(), rel=1e-3)


def test_seen_defects_weigh_as_much_as_all_generated_ones() -> None:
    generated, masks = images(0, LABELS, 1.5, (0.0, 0.0))
    seen = images(1, np.ones(3, int), 0.0, (8.0, 0.0))
    without, beside = (
        fit_map(generated, LABELS, masks, *none(), NAMES, 0),
        fit_map(generated, LABELS, masks, *seen, NAMES, 0),
    )
    assert beside[1] / beside[0] > 5 * without[1] / without[0]


@pytest.mark.parametrize("fault", ["no defect among the pixels", "nothing tells", "a constant network"])
def test_where_nothing_can_be_fitted_the_network_s_map_stays(fault: str) -> None:
    views, masks = images(0, LABELS, -3.0 if fault == "nothing tells" else 1.0, (-9.0, -9.0))
    if fault == "no defect among the pixels":
        masks[:] = False
        masks[LABELS == 1, 0, 0] = True
    if fault == "a constant network":
        views.logits[:] = 1.0
    np.testing.assert_array_equal(fit_map(views, LABELS, masks, *none(), NAMES, 0), [1, 0, 0, 0])


@pytest.mark.parametrize("seen_count", [0, 3, 10])
def test_shares_are_a_mean_of_the_fitted_ones_and_of_the_prior(seen_count: int) -> None:
    views, masks = images(0, LABELS, 2.0, (0.0, 6.0))
    seen = images(1, np.ones(seen_count, int), 2.0, (0.0, 6.0)) if seen_count else none()
    normal = views.pixels()[LABELS == 0]
    deviations = normal.std((0, 1, 2))
    fitted, some, alone = (
        fit_map(views, LABELS, masks, *seen, NAMES, prior)[:-1] * deviations for prior in (0, 5, math.inf)
    )
    assert alone / alone.sum() == pytest.approx([0.25, 0.5, 0.25], abs=1e-5)
    expected = (seen_count * fitted / fitted.sum() + 5 * alone / alone.sum()) / (seen_count + 5)
    assert some / some.sum() == pytest.approx(expected, abs=1e-5)
    # Map values lie where they did.
    told = weighed(views, fit_map(views, LABELS, masks, *seen, NAMES))[LABELS == 0]
    assert told.mean() == pytest.approx(normal[..., 0].mean(), abs=1e-3)
    assert told.std() == pytest.approx(deviations[0], rel=1e-3)


def test_a_view_that_is_everywhere_the_same_gets_no_weight() -> None:
    views, masks = images(0, LABELS, 2.0, (0.0, 6.0))
    views.others[:, 0] = 3.0
    weights = fit_map(views, LABELS, masks, *none(), NAMES)
    shares = weights[:-1] * views.pixels()[LABELS == 0].std((0, 1, 2))
    assert weights[1] == 0
    assert shares[0] == pytest.approx(shares[2], rel=1e-4)
