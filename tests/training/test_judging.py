"""What is fitted to the validation split, and to the seen defects."""

import pytest
import torch
from rich.console import Console

from prn_fast.data.layouts.mvtec import load as load_mvtec
from prn_fast.data.samples import draw_seen, load_samples
from prn_fast.kernels import OPTIMIZED
from prn_fast.kernels.anomaly_score.reference import map_statistics
from prn_fast.training import judging
from prn_fast.training.image_score import fit_score
from prn_fast.training.learned_map import Views, fit_map, view_images
from prn_fast.training.settings import MEMORY
from prn_fast.training.train import prepare_run, train
from tests.training.small_run import settings


@pytest.mark.long
def test_a_network_learns_its_map_and_its_image_score(data, tmp_path):
    trained = train(settings(data, tmp_path / "learned.prn", score="learned", lost=0))
    config, model = trained.config, trained.model(OPTIMIZED)
    assert (config.map, config.score, config.memory) == ("learned", "learned", MEMORY)
    assert model.learned_map.memory.patches.shape == (MEMORY, 152)
    assert model.learned_map.memory.patches.square().sum(1).min() > 0
    validation, calibration = trained.validation(), trained.manifest["calibration"]
    seen = draw_seen(load_mvtec(data).test, 3, 5)[0]
    seen_images, seen_masks = load_samples(seen, config.image_size, config.image_channels)

    @torch.no_grad()
    def views(images):
        logits, features, residuals = model.examine(model.normalize(torch.from_numpy(images)))
        return Views(logits[:, 0].numpy(), model.learned_map.views(features, residuals).numpy())

    @torch.no_grad()
    def statistics(images):
        return map_statistics(model.learned_map(*model.examine(model.normalize(torch.from_numpy(images))))).numpy()

    found = views(validation.images), validation.labels, validation.masks, views(seen_images), seen_masks
    weights = torch.cat([model.learned_map.weights, model.learned_map.intercept])
    assert (weights != torch.tensor([1.0, 0.0, 0.0])).any()
    names = model.learned_map.names
    torch.testing.assert_close(torch.from_numpy(fit_map(*found, names)), weights, rtol=1e-2, atol=1e-3)
    fitted = fit_score(statistics(validation.images), validation.labels, statistics(seen_images), 5)
    torch.testing.assert_close(torch.from_numpy(fitted.weights[:-1]), model.learned_score.weights, rtol=1e-2, atol=1e-3)
    # A threshold is set by scores of images that the weights were fitted without, so that it holds for others.
    normals = fitted.held_out[validation.labels == 0]
    assert calibration["highest_scores"][0] == pytest.approx(normals.max(), abs=1e-3)
    with torch.no_grad():
        scores, maps = model.detect(torch.from_numpy(validation.images))
    assert not torch.allclose(scores, maps.flatten(1).topk(100).values.mean(1), atol=1e-2)


def test_with_few_seen_defects_the_map_is_learned_and_the_score_where_asked_for(data, tmp_path):
    def kinds(**changes):
        run, _ = prepare_run(settings(data, tmp_path / "other.prn", **changes), Console(quiet=True))
        model = run.model
        assert (model.learned_score is None) == (model.config.score == "published")
        assert (model.learned_map is None) == (model.config.map == "published")
        return model.config.map, model.config.score

    assert kinds() == ("learned", "published")
    assert kinds(tiles=True) == ("published", "published")
    assert kinds(map="published", score="learned") == ("published", "learned")


@pytest.mark.parametrize(("map_kind", "looked_at"), [("learned", 3), ("published", 0)])
def test_seen_defects_are_looked_at_where_something_is_fitted_to_them(data, tmp_path, monkeypatch, map_kind, looked_at):
    run, _ = prepare_run(settings(data, tmp_path / "other.prn", map=map_kind), Console(quiet=True))
    counts = []

    def count(model, images):
        counts.append(len(images))
        return view_images(model, images)

    monkeypatch.setattr(judging, "view_images", count)
    judging.judge_validation(run.model, run.split, 0)
    assert counts == [len(run.split.validation.images), looked_at]
