"""Evaluation of a small, real engine (local contrast, in torch) on synthetic surfaces."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from prn_fast.data.images import read_image
from prn_fast.data.layouts.mvtec import load as load_mvtec
from prn_fast.data.samples import Sample
from prn_fast.data.synthetic import write_synthetic_surfaces
from prn_fast.engine.base import Engine
from prn_fast.errors import ConfigError, DataError, EngineError
from prn_fast.kernels.anomaly_score.reference import anomaly_score
from prn_fast.training.calibration import Scored, calibration_entry
from prn_fast.training.evaluation import evaluate, predict
from prn_fast.training.metrics import image_metrics, pixel_metrics

SIDE = 64
THRESHOLD, PIXEL_THRESHOLD = 0.5, 0.4


class ContrastEngine(Engine):
    """Scores how far a pixel is from the mean around it."""

    def __init__(self, batch: int = 4, gain: float = 10.0) -> None:
        super().__init__("contrast", SIDE, 1, batch)
        self.gain = gain

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        around = functional.avg_pool2d(pixels, 15, stride=1, padding=7, count_include_pad=False)
        scores, maps = anomaly_score(self.gain * (pixels - around).abs() - 2)
        return scores.numpy(), maps.numpy()


@pytest.fixture(scope="module")
def surfaces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("surfaces") / "set"
    return write_synthetic_surfaces(folder, side=96, train=1, good=6, defects=9, materials=["brushed_metal"])


@pytest.fixture(scope="module")
def samples(surfaces: Path) -> tuple[Sample, ...]:
    return load_mvtec(surfaces).test


def test_figures_are_those_of_scores_and_maps(samples: tuple[Sample, ...]) -> None:
    result = evaluate(ContrastEngine(), samples, threshold=THRESHOLD, pixel_threshold=PIXEL_THRESHOLD)
    scores = np.array([image.raw_score for image in result.images])
    assert [image.defect for image in result.images] == [image.score >= 0.5 for image in result.images]
    labels = np.array([sample.label for sample in samples])
    assert result.image == image_metrics(scores, labels)
    assert result.pixel == pixel_metrics(result.maps, result.masks)
    assert result.maps.shape == result.masks.shape == (len(samples), SIDE, SIDE)
    assert [image.path for image in result.images] == [sample.path for sample in samples]
    np.testing.assert_array_equal(result.masks.any(axis=(1, 2)), labels == 1)


def test_each_kind_is_set_against_all_good_images(samples: tuple[Sample, ...]) -> None:
    result = evaluate(ContrastEngine(), samples, threshold=THRESHOLD, pixel_threshold=PIXEL_THRESHOLD)
    assert [row.kind for row in result.kinds] == sorted({s.kind for s in samples if s.label})
    for row in result.kinds:
        part = [sample for sample in samples if sample.kind in (row.kind, "good")]
        alone = evaluate(ContrastEngine(), part, threshold=THRESHOLD, pixel_threshold=PIXEL_THRESHOLD)
        assert row == alone.kinds[0]
        assert (row.image_auroc, row.pixel_auroc, row.pro) == (
            alone.image.auroc,
            alone.pixel.auroc,
            alone.pixel.pro,
        )
        assert row.count == sum(sample.kind == row.kind for sample in samples)
        assert row.detected == sum(image.defect for image in result.images if image.kind == row.kind)


def test_confusion_at_a_threshold_that_divides_both_classes(samples: tuple[Sample, ...]) -> None:
    first = evaluate(ContrastEngine(), samples, threshold=0.5, pixel_threshold=PIXEL_THRESHOLD)
    good = sorted(image.raw_score for image in first.images if not image.label)
    # Exactly the score of an image: "at or above" includes it.
    result = evaluate(ContrastEngine(), samples, threshold=good[-2], pixel_threshold=PIXEL_THRESHOLD)
    assert [alarm.raw_score for alarm in result.false_alarms] == [good[-1], good[-2]]
    detected = sum(image.raw_score >= good[-2] for image in result.images if image.label)
    counts = result.confusion
    assert counts.to_dict() == {
        "detected": detected,
        "missed": 9 - detected,
        "passed": 4,
        "false_alarms": 2,
    }
    assert sum(image.correct for image in result.images) == counts.detected + counts.passed


def test_counts_at_several_rates_are_those_of_their_thresholds(samples: tuple[Sample, ...]) -> None:
    result = evaluate(ContrastEngine(), samples, threshold=THRESHOLD, pixel_threshold=PIXEL_THRESHOLD)
    good = np.array([image.raw_score for image in result.images if not image.label], np.float32)
    normals = Scored(np.zeros((len(good), 1, 1, 1), np.uint8), good)
    calibration = calibration_entry(normals, np.empty(0, np.float32), None, source="here", defects="real")
    rated = result.at_rates(calibration, (0.01, 0.2))
    assert [one.supported for one in rated.rates] == [False, True]
    for one in rated.rates:
        again = evaluate(ContrastEngine(), samples, threshold=one.threshold, pixel_threshold=PIXEL_THRESHOLD).confusion
        assert (one.detected, one.false_alarms) == (again.detected, again.false_alarms)
        assert (one.defects, one.good) == (9, 6)
    assert rated.rates[0].false_alarms == 0
    # A rate of images is one of a quarter as many for each of four tiles.
    assert result.at_rates(calibration, (0.8,), pieces=4.0).rates[0].threshold == rated.rates[1].threshold
    assert rated.to_dict()["rates"][1]["false_alarm_rate"] == 0.2


@pytest.mark.parametrize("batch", [1, 4, 15, 64])
def test_batch_does_not_matter(samples: tuple[Sample, ...], batch: int) -> None:
    steps = []
    result = evaluate(
        ContrastEngine(batch),
        samples,
        threshold=THRESHOLD,
        pixel_threshold=PIXEL_THRESHOLD,
        progress=lambda done, total: steps.append((done, total)),
    )
    whole = evaluate(ContrastEngine(1), samples, threshold=THRESHOLD, pixel_threshold=PIXEL_THRESHOLD)
    np.testing.assert_allclose(result.maps, whole.maps, atol=1e-6)
    assert len(steps) == -(-15 // batch)
    assert steps[-1] == (15, 15)


def test_dict_is_json_with_paths_below_the_root(samples: tuple[Sample, ...], surfaces: Path) -> None:
    result = evaluate(ContrastEngine(), samples, threshold=0.0, pixel_threshold=PIXEL_THRESHOLD)
    values = json.loads(json.dumps(result.to_dict(surfaces), allow_nan=False))
    assert values["pixel"]["resolution"] == [SIDE, SIDE]
    assert values["confusion"]["false_alarms"] == len(values["false_alarms"]) == 6
    assert all((surfaces / image["path"]).is_file() for image in values["images"])
    assert all(path.startswith("test/good/") for path in values["false_alarms"])


def test_prediction_equals_evaluation(samples: tuple[Sample, ...]) -> None:
    evaluation = evaluate(ContrastEngine(), samples, threshold=THRESHOLD, pixel_threshold=PIXEL_THRESHOLD)
    predictions = list(predict(ContrastEngine(), [s.path for s in samples], threshold=THRESHOLD))
    assert [(p.path, p.defect) for p in predictions] == [(i.path, i.defect) for i in evaluation.images]
    np.testing.assert_allclose([p.score for p in predictions], [i.score for i in evaluation.images], rtol=1e-6)
    np.testing.assert_allclose(np.stack([p.map for p in predictions]), evaluation.maps, atol=1e-6)


def test_tiles_are_scored_on_the_stitched_map(samples: tuple[Sample, ...]) -> None:
    part, overlap = samples[:8], 16
    result = evaluate(
        ContrastEngine(), part, threshold=THRESHOLD, pixel_threshold=PIXEL_THRESHOLD, tile_overlap=overlap
    )
    predictions = list(predict(ContrastEngine(), [s.path for s in part], threshold=THRESHOLD, tile_overlap=overlap))
    for index, (sample, prediction) in enumerate(zip(part, predictions, strict=True)):
        # 96 pixels are two tiles of 64 in each direction, of which 32 to 63 are in both.
        image = read_image(sample.path, 1)
        tiles = np.stack([image[top : top + 64, left : left + 64] for top in (0, 32) for left in (0, 32)])
        maps = ContrastEngine().infer(tiles).maps.astype(np.float64)
        place = np.minimum(np.arange(64) + 1, 64 - np.arange(64)).astype(np.float64)
        total, weights = np.zeros((96, 96)), np.zeros((96, 96))
        for one, (top, left) in zip(maps, ((0, 0), (0, 32), (32, 0), (32, 32)), strict=True):
            total[top : top + 64, left : left + 64] += one * np.outer(place, place)
            weights[top : top + 64, left : left + 64] += np.outer(place, place)
        stitched = total / weights
        np.testing.assert_allclose(prediction.map, stitched, atol=1e-5)
        score = np.sort(stitched.ravel())[-100:].mean()
        assert prediction.raw_score == pytest.approx(score, abs=1e-5)
        assert result.images[index].raw_score == pytest.approx(score, abs=1e-5)
        np.testing.assert_allclose(result.maps[index].mean(), stitched.mean(), rtol=1e-3)
        assert result.masks[index].any() == bool(sample.label)


def test_engine_that_gives_nan_is_an_error(samples: tuple[Sample, ...]) -> None:
    with pytest.raises(EngineError, match="NaN"):
        evaluate(ContrastEngine(gain=float("nan")), samples, threshold=0.5, pixel_threshold=0.5)


@pytest.mark.parametrize("name", ["threshold", "pixel_threshold"])
def test_threshold_that_is_no_number(samples: tuple[Sample, ...], name: str) -> None:
    thresholds = {"threshold": 0.5, "pixel_threshold": 0.5, name: float("nan")}
    with pytest.raises(ConfigError, match="every image would count as good"):
        evaluate(ContrastEngine(), samples, **thresholds)


def test_prediction_threshold_that_is_no_number(samples: tuple[Sample, ...]) -> None:
    with pytest.raises(ConfigError, match="every image would count as good"):
        list(predict(ContrastEngine(), [samples[0].path], threshold=float("nan")))


@pytest.mark.parametrize(("label", "message"), [(0, "are good"), (1, "are defect")], ids=["only good", "only defects"])
def test_one_class_only(samples: tuple[Sample, ...], label: int, message: str) -> None:
    part = [sample for sample in samples if sample.label == label]
    with pytest.raises(DataError, match=message):
        evaluate(ContrastEngine(), part, threshold=0.5, pixel_threshold=0.5)


def test_no_samples() -> None:
    with pytest.raises(DataError, match="no images to score"):
        evaluate(ContrastEngine(), [], threshold=0.5, pixel_threshold=0.5)


def test_defect_without_mask(samples: tuple[Sample, ...]) -> None:
    part = [dataclasses.replace(sample, mask=None) for sample in samples]
    with pytest.raises(DataError, match="a defect without mask"):
        evaluate(ContrastEngine(), part, threshold=0.5, pixel_threshold=0.5)
