"""Screens that have not seen some of the seen defects."""

import dataclasses

import numpy as np
import pytest
import torch

from prn_fast.data.anomalies import AnomalyGenerator
from prn_fast.data.textures import load_textures
from prn_fast.training import cross_fit
from prn_fast.training.cross_fit import FOLDS, fold_count, train_fold_screens
from prn_fast.training.recipe import QUICK
from tests.small_package import SIDE, small_config, small_model, textured_images

RECIPE = dataclasses.replace(QUICK, screen_steps=2)


@pytest.mark.parametrize(("seen", "folds"), [(0, 2), (1, 2), (3, 3), (5, FOLDS), (10, FOLDS)])
def test_there_are_as_many_screens_as_seen_defects_allow(seen: int, folds: int) -> None:
    assert fold_count(seen) == folds


def test_each_screen_learns_from_the_images_of_all_other_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    items, fitted = [], []
    read, fit = cross_fit.screen_inputs, cross_fit.fit_screen

    def reads(graph, screen, dataset, *rest):
        items.append(len(dataset))
        return read(graph, screen, dataset, *rest)

    def fits(screen, inputs, recipe, seed, deadline, chosen):
        fitted.append(chosen.tolist())
        return fit(screen, inputs, recipe, seed, deadline, chosen)

    monkeypatch.setattr(cross_fit, "screen_inputs", reads)
    monkeypatch.setattr(cross_fit, "fit_screen", fits)
    normals = textured_images(5, 1, seed=0)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[8:24, 8:24] = True
    seen = [(image, mask) for image in textured_images(3, 1, seed=1)]
    textures = load_textures(None, 1)
    generators = [AnomalyGenerator(textures, seen[fold::2]) for fold in range(2)]
    model = small_model(small_config())
    found = train_fold_screens(model, normals, generators, len(seen), RECIPE, seed=0)
    # Three and two normal images, each plain and with two anomalies.
    assert items == [9, 6]
    assert fitted == [list(range(9, 15)), list(range(9))]
    assert found.left_out.tolist() == [0, 1, 0]
    first, second = (screen.state_dict() for screen in found.screens)
    assert not any(screen.training for screen in found.screens)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    again = train_fold_screens(model, normals, generators, len(seen), RECIPE, seed=0)
    for name, value in again.screens[0].state_dict().items():
        torch.testing.assert_close(value, first[name])
