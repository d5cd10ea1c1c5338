"""The metrics against plain, slow formulations of their definitions and against scikit-learn on all pixels."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from prn_fast.errors import DataError, EngineError
from prn_fast.training.metrics import image_metrics, pixel_metrics


def pro_by_definition(maps: NDArray, masks: NDArray, limit: float) -> float:
    """PRO with one pass over all pixels for every threshold that occurs, and a loop over line segments."""
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        found = maps >= threshold
        overlaps = []
        for mask, found_here in zip(masks, found, strict=True):
            labelled, count = ndimage.label(mask, structure=np.ones((3, 3)))
            overlaps += [found_here[labelled == region].mean() for region in range(1, count + 1)]
        points.append((found[~masks].mean(), float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            x1 = limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def surfaces(seed: int, side: int = 12, levels: int | None = None) -> tuple[NDArray, NDArray]:
    """Maps that find their defects partly; `levels` rounds them, so that many values are equal."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((5, side, side), bool)
    masks[1, 1:4, 2:9] = True
    masks[1, 9, 9] = True
    masks[2, 5:11, 1:3] = True
    masks[3, 0, 0] = masks[3, 1, 1] = True  # joined by a corner: one region
    maps = rng.random(masks.shape) + 0.4 * masks * rng.random(masks.shape)
    if levels:
        maps = np.round(maps * levels) / levels
    return (maps / maps.max()).astype(np.float32), masks


CASES = {
    "distinct values": {"seed": 0},
    "another draw": {"seed": 1, "side": 17},
    "many ties": {"seed": 2, "levels": 8},
    "two values": {"seed": 3, "levels": 1},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_pro_is_its_definition(case: dict, limit: float) -> None:
    maps, masks = surfaces(**case)
    figures = pixel_metrics(maps, masks, pro_limit=limit)
    assert figures.pro == pytest.approx(pro_by_definition(maps, masks, limit), abs=1e-9)
    assert figures.regions == 4


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_pixel_curves_equal_those_over_all_pixels(case: dict) -> None:
    maps, masks = surfaces(**case)
    figures = pixel_metrics(maps, masks)
    assert figures.auroc == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12)
    assert figures.average_precision == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-12)


def test_perfect_maps() -> None:
    _, masks = surfaces(0)
    figures = pixel_metrics(masks.astype(np.float32), masks)
    assert figures.to_dict() == {"auroc": 1.0, "average_precision": 1.0, "pro": 1.0, "regions": 4}


def test_constant_maps_are_chance() -> None:
    _, masks = surfaces(0)
    figures = pixel_metrics(np.full(masks.shape, 0.25, np.float32), masks)
    assert figures.auroc == 0.5
    assert figures.average_precision == pytest.approx(masks.mean())
    assert figures.pro == pytest.approx(0.15)


def test_pro_weighs_a_small_region_like_a_large_one() -> None:
    masks = np.zeros((1, 20, 20), bool)
    masks[0, 0:10, 0:10] = True
    masks[0, 15, 15] = True
    maps = np.zeros(masks.shape, np.float32)
    maps[0, 0:10, 0:10] = 1.0  # the large region found whole, the pixel not at all
    # Half the regions from 0 false positives on, then straight to (1, 1), where the rest of the picture comes.
    assert pixel_metrics(maps, masks).pro == pytest.approx((0.5 + 0.65) / 2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtype_of_maps(dtype: type) -> None:
    maps, masks = surfaces(4)
    maps = maps.astype(dtype)
    figures = pixel_metrics(maps, masks)
    assert figures.pro == pytest.approx(pro_by_definition(maps, masks, 0.3), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_image_metrics_are_their_definitions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.array([0, 1] * 20)
    scores = np.round(rng.random(40) + 0.3 * labels, 1).astype(np.float32)
    figures = image_metrics(scores, labels)

    good, defect = scores[labels == 0], scores[labels == 1]
    wins = [float(d > g) + 0.5 * float(d == g) for d in defect for g in good]
    assert figures.auroc == pytest.approx(np.mean(wins))

    thresholds = sorted(set(scores.tolist()), reverse=True)
    f1 = [f1_score(labels, scores >= threshold) for threshold in thresholds]
    assert figures.f1_max == pytest.approx(max(f1))
    assert figures.f1_threshold == pytest.approx(thresholds[int(np.argmax(f1))])

    precision = [labels[scores >= t].mean() for t in thresholds]
    recall = [np.mean(defect >= t) for t in thresholds]
    steps = np.diff([0.0, *recall])
    assert figures.average_precision == pytest.approx(float(np.sum(precision * steps)))


def test_f1_threshold_separates_where_it_can() -> None:
    figures = image_metrics(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1]))
    assert figures.to_dict() == {"auroc": 1.0, "average_precision": 1.0, "f1_max": 1.0, "f1_threshold": 0.8}


@pytest.mark.parametrize("count", [20, 21, 43, 60])
def test_perfect_figures_are_not_rounded_to_more_than_one(count: int) -> None:
    """The planted fault: with 20 defects the steps in recall add up to 1.0000000000000002."""
    labels = np.repeat([0, 1], [5, count])
    found = image_metrics(np.arange(len(labels)), labels)
    assert found.auroc <= found.average_precision <= found.f1_max == 1.0
    masks = np.zeros((1, 9, 9), bool)
    masks.flat[:count] = True
    pixels = pixel_metrics(-np.arange(81.0).reshape(1, 9, 9), masks)
    assert max(pixels.auroc, pixels.average_precision, pixels.pro) <= 1.0
    assert pixels.average_precision == pytest.approx(1.0)


def test_scores_all_wrong_way_round() -> None:
    figures = image_metrics(np.array([0.9, 0.8, 0.2, 0.1]), np.array([0, 0, 1, 1]))
    assert figures.auroc == 0.0
    assert figures.f1_max == pytest.approx(2 / 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_scores_that_are_not_finite(value: float) -> None:
    with pytest.raises(EngineError, match="1 of 4 values in the image scores are NaN or infinite"):
        image_metrics(np.array([0.1, value, 0.3, 0.4]), np.array([0, 0, 1, 1]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_maps_that_are_not_finite(value: float) -> None:
    maps, masks = surfaces(0)
    maps[4, 3, 3] = value
    with pytest.raises(EngineError, match="in the anomaly maps are NaN or infinite"):
        pixel_metrics(maps, masks)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([], [], "no images to score"),
        ([0.1, 0.2], [0, 0], "all 2 images are good"),
        ([0.1, 0.2], [1, 1], "all 2 images are defect"),
        ([0.1, 0.2], [1], "two lists of one length"),
        ([0.1, 0.2], [0, 2], "must be 0"),
    ],
    ids=["empty", "only good", "only defects", "lengths differ", "labels"],
)
def test_image_input_that_has_no_figures(scores: list, labels: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        image_metrics(np.array(scores), np.array(labels, dtype=int))


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (np.zeros((0, 4, 4)), np.zeros((0, 4, 4), bool), "no pixels to score"),
        (np.zeros((2, 4, 4)), np.zeros((2, 4, 4), bool), "all 32 pixels are good"),
        (np.zeros((2, 4, 4)), np.ones((2, 4, 4), bool), "all 32 pixels are defect"),
        (np.zeros((2, 4, 4)), np.zeros((1, 4, 4), bool), r"must both be \(N, H, W\)"),
        (np.zeros((2, 4, 4)), np.zeros((2, 4, 4), np.uint8), "must be bool"),
    ],
    ids=["empty", "only good", "only defect", "shapes differ", "mask dtype"],
)
def test_pixel_input_that_has_no_figures(maps: NDArray, masks: NDArray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pixel_metrics(maps, masks)


def test_pro_limit_out_of_range() -> None:
    maps, masks = surfaces(0)
    with pytest.raises(DataError, match="above 0 and at most 1"):
        pixel_metrics(maps, masks, pro_limit=0.0)
