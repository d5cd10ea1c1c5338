"""The end of a training run."""

import dataclasses

import pytest
import torch

from prn_fast.kernels import OPTIMIZED
from prn_fast.training.train import train
from tests.training.small_run import RECIPE, settings


@pytest.mark.long
def test_a_learned_map_reads_the_screen_that_is_trained_behind_the_network(data, tmp_path):
    recipe = dataclasses.replace(RECIPE, screen=True, screen_steps=10)
    trained = train(settings(data, tmp_path / "screen.prn", score="learned", memory=0, recipe=recipe, lost=0))
    model = trained.model(OPTIMIZED)
    assert trained.config.screen_width == model.learned_map.screen.width > 0
    assert model.learned_map.names == ("network", "screen")
    assert model.learned_map.weights[1] != 0
    # It is the one that images leave by.
    leaving = trained.screen().state_dict()
    own = model.learned_map.screen.state_dict()
    assert all(torch.equal(value, leaving[name]) for name, value in own.items() if name != "level_weights")
    validation, calibration = trained.validation(), trained.manifest["calibration"]
    with torch.no_grad():
        scores, _ = model.detect(torch.from_numpy(validation.images))
    median = float(scores[validation.labels == 0].median())
    assert median == pytest.approx(calibration["normal_score_quantiles"]["0.5"], abs=0.02)
    # The screen weighs nothing where no time is left for it.
    hurried = train(
        settings(data, tmp_path / "hurried.prn", score="learned", recipe=recipe, lost=0, minutes=0.02, resume=False)
    )
    assert not hurried.model().learned_map.weights[-1]
