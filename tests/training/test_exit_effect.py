"""What leaving early changes of an evaluation, on a small network with random weights."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from prn_fast.cli.evaluate import main
from prn_fast.data.image_tiles import cut_image
from prn_fast.data.layouts.mvtec import load as load_mvtec
from prn_fast.data.samples import Sample, load_sample, load_samples
from prn_fast.data.synthetic import write_synthetic_surfaces
from prn_fast.engine.optimized import OptimizedEngine
from prn_fast.kernels import OPTIMIZED
from prn_fast.kernels.anomaly_score.reference import image_scores
from prn_fast.package import Package
from prn_fast.training.early_exit import TwoStages
from prn_fast.training.evaluation import Evaluation, evaluate, infer_tiles
from prn_fast.training.exit_effect import exit_effect
from prn_fast.training.update import ModelEngine
from tests.small_package import SIDE, small_config, small_model, small_screen, weights_of, write_package


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, ...]:
    folder = tmp_path_factory.mktemp("surfaces") / "set"
    return load_mvtec(
        write_synthetic_surfaces(folder, side=96, train=1, good=6, defects=9, materials=["brushed_metal"])
    ).test


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return write_package(tmp_path_factory.mktemp("package") / "a.prn", screen=True)


@pytest.fixture(scope="module")
def stages(package: Package) -> TwoStages:
    return TwoStages(package.model(OPTIMIZED), package.screen())


@pytest.fixture(scope="module")
def whole(package: Package, samples: tuple[Sample, ...]) -> Evaluation:
    """At a threshold that about half of all images reach, good and defective ones alike."""
    with OptimizedEngine(package) as engine:
        images, _ = load_samples(samples, SIDE, 1)
        threshold = float(np.median(engine.infer(images).scores)) - 1e-4
        return evaluate(engine, samples, threshold=threshold, pixel_threshold=0.5)


def scores_of(stages: TwoStages, images: np.ndarray) -> np.ndarray:
    """The screen's."""
    return stages.scores(images).screen(weights_of(stages.first.screen))


@pytest.fixture(scope="module")
def screened(stages: TwoStages, samples: tuple[Sample, ...]) -> np.ndarray:
    return scores_of(stages, load_samples(samples, SIDE, 1)[0])


def test_where_nothing_leaves_nothing_changes(stages, samples, whole):
    effect = exit_effect(stages, 0.0, samples, whole)
    assert (effect.good, effect.defects) == (6, 9)
    assert effect.detected == whole.confusion.detected > 0
    assert effect.good_exited == effect.exited_defects == effect.lost == effect.alarms_avoided == effect.changed == 0


def test_a_cut_set_too_high_loses_every_detected_defect_and_says_so(stages, samples, whole):
    effect = exit_effect(stages, 1.0, samples, whole)
    assert effect.good_exited == 6
    assert effect.lost == effect.detected == whole.confusion.detected > 0
    assert effect.alarms_avoided == whole.confusion.false_alarms
    assert effect.changed == effect.lost + effect.alarms_avoided


def test_a_learned_score_is_held_against_itself(samples):
    model = small_model(small_config(score="learned"))
    model.learned_score.set_weights(torch.tensor([-0.2, 0.1, -0.3, 0.5, 0.1, 0.2]))
    images, _ = load_samples(samples, SIDE, 1)
    with ModelEngine(model) as engine:
        found = engine.infer(images)
        threshold = float(np.median(found.raw_scores)) - 1e-4
        whole = evaluate(engine, samples, threshold=threshold, pixel_threshold=0.5)
    published = image_scores(torch.from_numpy(found.maps)).numpy() >= threshold
    assert (published != (found.raw_scores >= threshold)).any()
    effect = exit_effect(TwoStages(model, small_screen(model)), 0.0, samples, whole)
    assert effect.detected > 0
    assert effect.lost == effect.changed == 0


def test_counts_are_those_of_each_image(stages, samples, whole, screened):
    cut = float(np.median(screened)) + 1e-6
    labels = np.array([sample.label == 1 for sample in samples])
    flagged = np.array([image.defect for image in whole.images])
    left = screened < cut
    effect = exit_effect(stages, cut, samples, whole)
    assert 0 < left.sum() < len(left)
    assert effect.good_exited == np.sum(left & ~labels)
    assert effect.exited_defects == np.sum(left & labels)
    assert effect.lost == np.sum(left & labels & flagged)
    assert effect.alarms_avoided == np.sum(left & ~labels & flagged)
    assert effect.changed == np.sum(left & flagged)


def test_a_second_stage_that_is_never_called_shows(package, samples, whole):
    stages = TwoStages(package.model(OPTIMIZED), package.screen())
    stages.second = lambda *scales: (torch.zeros(len(scales[0])), torch.zeros(len(scales[0]), SIDE, SIDE))
    assert exit_effect(stages, 0.0, samples, whole).lost == whole.confusion.detected


def test_each_tile_leaves_by_itself(package, stages, samples, whole):
    overlap, samples = 32, samples[:2] + samples[-2:]
    with OptimizedEngine(package) as engine:
        scores = [infer_tiles(engine, load_sample(sample, 1)[0], overlap)[0] for sample in samples]
    judged = tuple(
        dataclasses.replace(image, defect=score >= whole.threshold)
        for image, score in zip(whole.images[:2] + whole.images[-2:], scores, strict=True)
    )
    whole = dataclasses.replace(whole, images=judged)
    tiles = [cut_image(load_sample(sample, 1)[0], SIDE, overlap) for sample in samples]
    screened = [scores_of(stages, images) for images in tiles]
    assert len(tiles[0]) > 1
    cut = float(np.median([scores.max() for scores in screened])) + 1e-6
    gone = np.array([scores.max() < cut for scores in screened])
    labels = np.array([sample.label == 1 for sample in samples])
    assert 0 < gone.sum() < len(gone)
    effect = exit_effect(stages, cut, samples, whole, tile_overlap=overlap)
    assert effect.good_exited == np.sum(gone & ~labels)
    assert effect.exited_defects == np.sum(gone & labels)
    nothing = exit_effect(stages, 0.0, samples, whole, tile_overlap=overlap)
    assert nothing.changed == 0


def test_the_screen_alone_has_figures_of_its_own(package: Package, tmp_path: Path, capsys):
    data = write_synthetic_surfaces(tmp_path / "set", side=64, train=2, good=4, defects=4, materials=["brushed_metal"])
    options = ["--data", str(data), "--engine", "optimized", "--output", str(tmp_path / "out"), "--screen-only"]
    assert main([str(package.path), *options]) == 0
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    images = load_mvtec(data).test
    with OptimizedEngine(package, screen_only=True) as engine:
        found = engine.infer(load_samples(images, SIDE, 1)[0])
    labels = np.array([sample.label == 1 for sample in images])
    assert result["engine"] == "optimized/screen"
    assert result["confusion"]["detected"] == np.sum(found.defective & labels)
    assert result["confusion"]["false_alarms"] == np.sum(found.defective & ~labels)
    pairs = found.raw_scores[labels][:, None] - found.raw_scores[~labels]
    assert result["image"]["auroc"] == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
    assert result["early_exit"] is None
    assert result["rates"] is None or result["rates"] == []
    assert "the screen alone, for all images" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--flips"], ["--false-alarm-rate", "0.1"]])
def test_options_of_the_network_do_not_go_with_the_screen_alone(package: Package, options, capsys):
    assert main([str(package.path), "--screen-only", *options]) == 2
    assert f"{options[0]} does not go with --screen-only" in capsys.readouterr().err


def test_the_package_says_in_an_evaluation_what_early_exit_changes(package: Package, tmp_path: Path, capsys):
    data = write_synthetic_surfaces(tmp_path / "set", side=64, train=2, good=4, defects=4, materials=["brushed_metal"])
    options = ["--data", str(data), "--engine", "optimized", "--output", str(tmp_path / "out")]
    assert main([str(package.path), *options]) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    effect = result["early_exit"]
    assert effect["cut"] == package.early_exit.cut
    assert effect["good"] == 4
    line = f"{effect['good_exited']} of 4 good images leave"
    assert f"early exit would change: {line}" in printed
    assert f"{effect['lost']} of {result['confusion']['detected']} detected defects are lost" in printed


def test_tiles_that_left_count_by_their_own_score(package, samples):
    overlap = 32
    image = load_sample(samples[0], 1)[0]
    with OptimizedEngine(package, early_exit=True) as engine:
        assert engine.screening is not None
        screened, _ = engine.screen(cut_image(image, SIDE, overlap))
        # A pixel threshold far above that of scores: the map of a tile that left then reaches the latter.
        all_leave = dataclasses.replace(engine.screening, cut=float(screened.max()) + 1e-3, pixel_threshold=0.999)
        some_leave = dataclasses.replace(all_leave, cut=float(np.median(screened)))
        engine.screening = all_leave
        score, anomaly_map, exited = infer_tiles(engine, image, overlap)
        (tiles,) = engine.infer_many([cut_image(image, SIDE, overlap)])
        assert exited
        assert tiles.exited.all()
        assert score == tiles.raw_scores.max() < engine.threshold < anomaly_map.max()
        engine.screening = some_leave
        score, _, exited = infer_tiles(engine, image, overlap)
        (tiles,) = engine.infer_many([cut_image(image, SIDE, overlap)])
    assert not exited
    assert 0 < tiles.exited.sum() < len(tiles.exited)
    assert score >= tiles.raw_scores[tiles.exited].max()
