"""Screens that have not seen some of the seen defects."""

import dataclasses

import numpy as np
import pytest
import torch

from prn_fast.data.anomalies import AnomalyGenerator
from prn_fast.data.textures import load_textures
from prn_fast.training import cross_fit
from prn_fast.training.cross_fit import FOLDS, FoldScreens, fold_count, train_fold_screens
from prn_fast.training.recipe import QUICK
from prn_fast.training.screen import EXTRACTION_BATCH, MAX_BYTES, Deadline, _progress
from tests.small_package import SIDE, small_config, small_model, small_screen, textured_images

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


def test_inputs_of_all_folds_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds, kept = [], []
    read, fit = cross_fit.screen_inputs, cross_fit.fit_screen

    def reads(graph, screen, dataset, seed, deadline, units, max_bytes):
        bounds.append(max_bytes)
        # Less than one batch takes: no more are read.
        return read(graph, screen, dataset, seed, deadline, units, 1)

    def fits(screen, inputs, *rest):
        kept.append(len(inputs.masks))
        return fit(screen, inputs, *rest)

    monkeypatch.setattr(cross_fit, "screen_inputs", reads)
    monkeypatch.setattr(cross_fit, "fit_screen", fits)
    generators = [AnomalyGenerator(load_textures(None, 1))] * 2
    train_fold_screens(small_model(small_config()), textured_images(12, 1, seed=0), generators, 0, RECIPE, seed=0)
    assert bounds == [MAX_BYTES / 2] * 2
    # Each fold has six normal images, plain and with two anomalies: 18 items, of which a batch is kept.
    assert kept == [2 * EXTRACTION_BATCH] * 2


def test_seen_defects_are_told_by_the_screen_that_does_not_know_them_and_others_by_the_mean() -> None:
    model = small_model(small_config())
    screens = tuple(small_screen(model, seed) for seed in (1, 2))
    folds = FoldScreens(screens, np.array([1, 0, 1]))
    images, seen = textured_images(20, 1, seed=3), textured_images(3, 1, seed=4)
    mean, blind = folds.blind(model, images, seen)
    with torch.no_grad():
        expected = [
            [screen(*model.frozen(torch.from_numpy(one)))[:, 0] for one in (images, seen)] for screen in screens
        ]
    assert (mean.shape, blind.shape) == ((20, 8, 8), (3, 8, 8))
    torch.testing.assert_close(torch.from_numpy(mean), (expected[0][0] + expected[1][0]) / 2, rtol=1e-4, atol=1e-4)
    for index, fold in enumerate((1, 0, 1)):
        torch.testing.assert_close(torch.from_numpy(blind[index]), expected[fold][1][index], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected[0][1], expected[1][1], atol=1e-2)


def test_screens_of_folds_share_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("prn_fast.training.screen.time.monotonic", lambda: now)
    whole = Deadline.after(100.0)
    assert [whole.part(done, 4).seconds for done in (1, 4)] == [25.0, 100.0]
    now = 40.0
    assert whole.rest() == Deadline(40.0, 60.0)
    # A third of the 60 seconds, from a moment at which the inputs' share has just passed.
    first = whole.for_steps(3)
    assert first.passed(0.0)
    assert _progress(first) == pytest.approx(0.0, abs=1e-9)
    now = 50.0
    assert _progress(first) == pytest.approx(0.5)
    now = 61.0
    assert first.passed()
    unbounded = Deadline.after(None)
    assert unbounded.part(1, 2).seconds is unbounded.rest().seconds is unbounded.for_steps(2).seconds is None
