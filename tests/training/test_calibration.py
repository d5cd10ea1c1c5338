import numpy as np
import pytest
from sklearn.metrics import f1_score

from prn_fast.engine import Detections
from prn_fast.errors import ConfigError
from prn_fast.package import ValidationSet
from prn_fast.training.calibration import (
    Scored,
    best_threshold,
    calibrate,
    calibration_entry,
    expected_false_alarm_rate,
    normal_tail,
    threshold_for,
)
from prn_fast.training.conformal import conformal_threshold


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def calibration_of(scores: np.ndarray) -> dict:
    return {"normal_tail": normal_tail(scores)}


def test_no_other_threshold_has_a_larger_f1():
    rng = np.random.default_rng(0)
    for _ in range(20):
        positive = rng.random(60) < 0.4
        positive[:2] = (True, False)
        # Rounded, so that scores tie.
        scores = np.round(rng.random(60) * 0.7 + 0.3 * positive, 2).astype(np.float32)
        best = f1_score(positive, scores >= best_threshold(scores, positive))
        assert best >= max(f1_score(positive, scores >= level) for level in scores) - 1e-12


def test_separated_classes_get_the_middle_of_the_gap():
    scores = np.array([0.1, 0.2, 0.6, 0.9], np.float32)
    assert abs(best_threshold(scores, np.array([False, False, True, True])) - 0.4) < 1e-6


def test_calibration_holds_thresholds_and_quantiles_of_the_normals():
    scores = np.linspace(0, 1, 10, dtype=np.float32)
    labels = np.repeat([0, 1], 5)
    masks = np.zeros((10, 4, 4), bool)
    masks[5:, 0] = True
    maps = np.where(masks, 0.8, 0.1).astype(np.float32)
    validation = ValidationSet(np.zeros((10, 4, 4, 1), np.uint8), labels, masks)
    result = calibrate(Detections.of(scores, maps), validation, false_alarm_rate=0.05)
    assert scores[4] < result["f1_threshold"] < scores[5]
    # Five normals promise no rate below a sixth: the threshold is extrapolated, and lies above all of them.
    assert result["threshold"] == threshold_for(result, 0.05) > scores[4]
    assert result["false_alarm_rate"] == 0.05
    assert result["promised_rate"] is None
    assert result["normals"] == 5
    assert result["source"] == "training"
    assert [row["supported"] for row in result["detection"]] == [False] * 4
    assert [row["detected"] for row in result["detection"]][-1] > 0
    usual = calibrate(Detections.of(scores, maps), validation)
    assert usual["false_alarm_rate"] == 0.25
    assert usual["promised_rate"] == 1 / 6
    assert usual["threshold"] == np.nextafter(scores[4], np.float32(1))
    assert result["lowest_rate"] == 1 / 6
    assert abs(result["pixel_threshold"] - 0.45) < 1e-6
    assert result["normal_score_quantiles"]["0.5"] == scores[2]


@pytest.mark.parametrize("rate", [0.1, 0.01, 0.001])
def test_the_threshold_keeps_the_wanted_rate_on_images_that_it_has_not_seen(rate):
    rng = np.random.default_rng(1)
    calibration = calibration_of(sigmoid(rng.exponential(0.7, 20_000) - 4))
    fresh = sigmoid(rng.exponential(0.7, 200_000) - 4)
    assert np.mean(fresh >= threshold_for(calibration, rate)) == pytest.approx(rate, rel=0.25)


def test_few_normals_do_not_promise_a_rate_that_they_cannot_show():
    scores = np.linspace(0.01, 0.3, 20, dtype=np.float32)
    assert threshold_for(calibration_of(scores), 0.001) > scores.max()


def test_rate_and_threshold_are_each_others_inverse():
    calibration = calibration_of(np.random.default_rng(2).random(100))
    for rate in (0.2, 0.05, 0.003):
        assert expected_false_alarm_rate(calibration, threshold_for(calibration, rate)) == pytest.approx(rate)
    assert expected_false_alarm_rate(calibration, 0.0) == calibration["normal_tail"]["share"]


def test_equal_scores_and_a_single_normal_give_a_threshold():
    assert threshold_for(calibration_of(np.full(30, 0.25, np.float32)), 0.01) == pytest.approx(0.25)
    assert 0 < threshold_for(calibration_of(np.array([0.0], np.float32)), 0.01) < 1e-5


@pytest.mark.parametrize("rate", [0.0, -0.1, 0.5, float("nan")])
def test_an_impossible_rate_is_refused(rate):
    with pytest.raises(ConfigError, match="--false-alarm-rate must be above 0"):
        threshold_for(calibration_of(np.linspace(0.1, 0.2, 40)), rate)


def entry_of(scores: np.ndarray, rate: float | None = None, defects: np.ndarray | None = None) -> dict:
    images = np.zeros((len(scores), 4, 4, 1), np.uint8)
    found = np.empty(0, np.float32) if defects is None else defects
    return calibration_entry(Scored(images, scores), found, rate, source="here", defects="real")


def test_thresholds_of_an_entry_are_the_conformal_ones_for_all_rates_that_its_normals_support():
    scores = np.random.default_rng(4).random(200).astype(np.float32)
    entry = entry_of(scores)
    assert entry["false_alarm_rate"] == 0.02
    assert entry["promised_rate"] == 4 / 201
    for rate in (0.005, 0.01, 0.02, 0.05, 0.25):
        assert threshold_for(entry, rate) == conformal_threshold(scores, rate)
    assert threshold_for(entry, 0.001) > scores.max()
    for rate in (0.01, 0.05, 0.2):
        found = expected_false_alarm_rate(entry, threshold_for(entry, rate))
        assert rate - 1 / 201 < found <= rate


def test_detection_is_told_at_several_rates():
    normals = np.linspace(0.0, 0.5, 99).astype(np.float32)
    defects = np.linspace(0.4, 0.9, 51).astype(np.float32)
    rows = {row["false_alarm_rate"]: row for row in entry_of(normals, 0.01, defects)["detection"]}
    assert list(rows) == [0.001, 0.01, 0.02, 0.05]
    assert [row["supported"] for row in rows.values()] == [False, True, True, True]
    for rate, row in rows.items():
        assert row["detected"] == (defects >= threshold_for(entry_of(normals), rate)).sum()
        assert row["low"] < row["detected"] / row["defects"] < row["high"]
    assert entry_of(normals)["detection"] == []
