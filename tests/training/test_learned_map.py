"""Weights of a learned map: what they are fitted to, and what they leave as it was."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from prn_fast.training.learned_map import Views, fit_map

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
    weights = fit_map(views, LABELS, masks, *none())
    spread = np.array([0.5, 2.0, 2.0])
    shares = weights[:-1] * spread
    assert (weights[:-1] >= 0).all()
    assert shares[1] > 3 * shares[2]
    others, their_masks = images(1, LABELS, 0.5, (6.0, 0.0))
    assert auroc(others, their_masks, weights) > auroc(others, their_masks, np.array([1.0, 0, 0, 0])) + 0.1


def test_over_normal_images_the_map_keeps_its_mean_and_spread() -> None:
    views, masks = images(0, LABELS, 0.5, (6.0, 3.0))
    normal = Views(views.logits[LABELS == 0], views.others[LABELS == 0])
    found, own = weighed(normal, fit_map(views, LABELS, masks, *none())), normal.pixels()[..., 0]
    assert found.mean() == pytest.approx(own.mean(), abs=1e-3)
    assert found.std() == pytest.approx(own.std(), rel=1e-3)


def test_seen_defects_weigh_as_much_as_all_generated_ones() -> None:
    generated, masks = images(0, LABELS, 1.5, (0.0, 0.0))
    seen = images(1, np.ones(3, int), 0.0, (8.0, 0.0))
    without, beside = fit_map(generated, LABELS, masks, *none()), fit_map(generated, LABELS, masks, *seen)
    assert beside[1] / beside[0] > 5 * without[1] / without[0]


@pytest.mark.parametrize("fault", ["no defect among the pixels", "nothing tells", "a constant network"])
def test_where_nothing_can_be_fitted_the_network_s_map_stays(fault: str) -> None:
    views, masks = images(0, LABELS, -3.0 if fault == "nothing tells" else 1.0, (-9.0, -9.0))
    if fault == "no defect among the pixels":
        masks[:] = False
        masks[LABELS == 1, 0, 0] = True
    if fault == "a constant network":
        views.logits[:] = 1.0
    np.testing.assert_array_equal(fit_map(views, LABELS, masks, *none()), [1, 0, 0, 0])


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_a_view_gets_its_least_share_and_the_others_keep_their_ratios(share: float) -> None:
    views, masks = images(0, LABELS, 2.0, (0.0, 6.0))
    fitted = fit_map(views, LABELS, masks, *none())
    normal = views.pixels()[LABELS == 0]
    deviations = normal.std((0, 1, 2))
    weights = fit_map(views, LABELS, masks, *none(), least=(0.0, share, 0.0))
    shares, before = weights[:-1] * deviations, fitted[:-1] * deviations
    assert before[1] / before.sum() < 0.25
    assert shares[1] / shares.sum() == pytest.approx(max(share, before[1] / before.sum()), abs=1e-5)
    assert shares[0] / shares[2] == pytest.approx(before[0] / before[2], rel=1e-4)
    # Map values lie where they did.
    told = weighed(views, weights)[LABELS == 0]
    assert told.mean() == pytest.approx(normal[..., 0].mean(), abs=1e-3)
    assert told.std() == pytest.approx(deviations[0], rel=1e-3)
