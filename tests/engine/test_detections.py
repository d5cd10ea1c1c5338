"""What an engine's scores and verdicts mean."""

import numpy as np
import pytest

from prn_fast.engine import Detections, open_engine
from prn_fast.engine.base import is_defective, scores_at
from prn_fast.package import Package
from prn_fast.training.metrics import image_metrics
from tests.small_package import textured_images

THRESHOLDS = (0.0, 1e-9, 1e-6, 0.02, 0.362, 0.5, 0.7, 0.999, 1 - 1e-9, 1.0)


def neighbours(threshold: float) -> np.ndarray:
    """Raw scores around a threshold, float32 by float32, and all over 0..1."""
    up, down = [np.float32(threshold)], [np.float32(threshold)]
    for _ in range(50):
        up.append(np.nextafter(up[-1], np.float32(1)))
        down.append(np.nextafter(down[-1], np.float32(0)))
    everywhere = np.random.default_rng(0).random(1000, np.float32)
    return np.unique(np.concatenate([up, down, everywhere, np.float32([0, 1e-30, 1e-7, 0.5, 1 - 6e-8, 1])]))


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_half_is_the_threshold_and_no_rounding_turns_a_verdict_over(threshold):
    raw = neighbours(threshold)
    scores, defective = scores_at(raw, threshold), is_defective(raw, threshold)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(defective, [float(one) >= threshold for one in raw])
    np.testing.assert_array_equal(scores >= 0.5, defective)
    assert (np.diff(scores) >= 0).all()
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("threshold", [0.02, 0.362, 0.7, 0.999])
def test_scores_are_the_logit_moved_by_that_of_the_threshold(threshold):
    raw = np.random.default_rng(1).uniform(0.01, 0.99, 500).astype(np.float32)
    raw = raw[np.abs(raw - threshold) > 1e-4].astype(np.float64)
    moved = np.log(raw / (1 - raw)) - np.log(threshold / (1 - threshold))
    np.testing.assert_allclose(scores_at(raw, threshold), 1 / (1 + np.exp(-moved)), rtol=2e-6)


@pytest.mark.parametrize("threshold", [0.05, 0.362, 0.9])
def test_images_keep_their_order_and_auroc_its_value(threshold):
    rng = np.random.default_rng(2)
    raw = np.cumsum(rng.uniform(2e-6, 3e-5, 60_000))
    raw = raw[(raw < 1) & (np.abs(raw - threshold) > 1e-6)].astype(np.float32)
    scores = scores_at(raw, threshold)
    assert (np.diff(scores) > 0).all()
    labels = (rng.random(len(raw)) < raw).astype(int)
    assert image_metrics(scores, labels).auroc == image_metrics(raw, labels).auroc


def test_what_is_not_a_number_never_reads_as_good():
    found = Detections.of(np.float32([np.nan, 0.1]), np.zeros((2, 4, 4), np.float32), 0.5)
    assert found.defective.tolist() == [True, False]
    assert np.isnan(found.scores[0])


def test_at_half_the_scores_are_the_raw_ones():
    raw = neighbours(0.5)
    np.testing.assert_allclose(scores_at(raw, 0.5), raw, rtol=1e-7)


@pytest.mark.parametrize("name", ["eager", "optimized", "openvino:fp32"])
def test_engines_judge_by_the_threshold_of_their_package(name, built_package_path):
    images = textured_images(9, 1, 5)
    with open_engine(built_package_path, name) as engine:
        package_threshold = engine.threshold
        raw = engine.infer(images).raw_scores
        # The score of an image itself: "reaches" includes it.
        engine.threshold = float(np.sort(raw)[4])
        found = engine.infer(images)
    np.testing.assert_array_equal(found.raw_scores, raw)
    assert found.defective.tolist() == (raw >= np.sort(raw)[4]).tolist()
    np.testing.assert_array_equal(found.scores >= 0.5, found.defective)
    package = Package.open(built_package_path)
    assert package_threshold == package.calibration("threshold")
    assert engine.pixel_threshold == package.calibration("pixel_threshold")
