import numpy as np
from sklearn.metrics import f1_score

from prn_fast.engine import Detections
from prn_fast.package import ValidationSet
from prn_fast.training.calibration import best_threshold, calibrate


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
    result = calibrate(Detections(scores, maps), ValidationSet(np.zeros((10, 4, 4, 1), np.uint8), labels, masks))
    assert scores[4] < result["threshold"] < scores[5]
    assert abs(result["pixel_threshold"] - 0.45) < 1e-6
    assert result["normal_score_quantiles"]["0.5"] == scores[2]
