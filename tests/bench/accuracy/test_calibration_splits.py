"""The study of splits: counts on scores that are known, and its tables."""

import json
from pathlib import Path

import numpy as np
import pytest

from prn_fast.bench.accuracy.calibration_splits import SCHEMA, at_threshold, main, split_figures, study_splits
from prn_fast.data.synthetic import write_synthetic_surfaces
from prn_fast.errors import ConfigError
from tests.small_package import write_package


def test_the_promise_is_kept_over_many_splits_and_detection_is_counted() -> None:
    rng = np.random.default_rng(0)
    logits = np.concatenate([rng.normal(-1, 1, 190), rng.normal(1, 1, 300)])
    good, defects = np.split((1 / (1 + np.exp(-logits))).astype(np.float32), [190])
    rows = {row["false_alarm_rate"]: row for row in study_splits(good, defects, 100, 300)}
    assert list(rows) == [0.01, 0.02, 0.05, 0.1]
    for rate, row in rows.items():
        assert len(row["false_alarms"]) == len(row["detected"]) == 300
        assert rate - 1 / 101 < row["promised_rate"] <= rate
        # Over all draws, exactly the promise is expected, of any set of scores without ties.
        assert row["mean_false_alarm_rate"] == pytest.approx(row["promised_rate"], rel=0.25)
        assert row["splits_within"] >= 0.9 * 300
        assert row["least_detection"] <= row["mean_detection"] <= row["largest_detection"]
    means = [row["mean_detection"] for row in rows.values()]
    assert means == sorted(means)


def test_rates_that_the_images_cannot_promise_are_left_out() -> None:
    good = np.linspace(0, 0.5, 40).astype(np.float32)
    assert [row["false_alarm_rate"] for row in study_splits(good, good + 0.2, 19, 3)] == [0.05, 0.1]
    with pytest.raises(ConfigError, match="cannot be held back"):
        study_splits(good, good, 40, 3)


def test_a_threshold_is_counted_with_its_intervals() -> None:
    counts = at_threshold(np.array([0.1, 0.4, 0.5]), np.array([0.3, 0.5, 0.9, 1.0]), 0.5)
    assert (counts["false_alarms"], counts["good"], counts["detected"], counts["defects"]) == (1, 3, 3, 4)
    assert counts["detection_interval"][0] < 0.75 < counts["detection_interval"][1]


def test_a_study_is_recorded_and_shown(tmp_path: Path) -> None:
    data = write_synthetic_surfaces(tmp_path / "set", side=64, train=2, good=14, defects=4, materials=["wood"])
    package = write_package(tmp_path / "small.prn")
    file = tmp_path / "results" / "machine" / "calibration" / "wood.json"
    options = ["--data", str(data), "--held-back", "9", "--splits", "2", "--allow-dirty", "--json", str(file)]
    assert main([str(package.path), *options]) == 0
    record = json.loads(file.read_text())
    assert record["schema"] == SCHEMA
    (study,) = record["packages"]
    assert (study["judged"], len(study["good_scores"]), len(study["defect_scores"])) == (5, 14, 4)
    assert study["first_threshold"]["normals"] == 12
    assert study["package_threshold"]["threshold"] == package.calibration("threshold")
    shown = split_figures(tmp_path / "results")
    assert "| small.prn | 10.0% |" in shown
    assert "| small.prn | 15.4% (12 images) |" in shown
    assert record["command"] in shown
    file.write_text("{}")
    with pytest.raises(ConfigError, match=r"wood\.json: is no record"):
        split_figures(tmp_path / "results")
