"""From a folder of images to a package."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from rich.console import Console

from prn_fast.data.images import write_image
from prn_fast.data.layouts.mvtec import load as load_mvtec
from prn_fast.data.samples import load_samples
from prn_fast.data.synthetic import write_synthetic_surfaces
from prn_fast.errors import ConfigError, PackageError
from prn_fast.package import Package
from prn_fast.training import finish, image_size, loop, settle, small_start
from prn_fast.training.train import prepare_run, train
from tests.small_package import SIDE
from tests.training.small_run import RECIPE, settings


def test_a_run_leaves_a_package_and_nothing_else(trained):
    package = Package.open(trained.path)
    assert [path.name for path in package.path.parent.iterdir()] == ["fabric.prn"]
    training = package.manifest["training"]
    assert training["epochs"] == 4
    # Each normal image plain, and with one anomaly.
    assert training["steps"] == 4 * (2 * 20 // 8)
    assert 0.0 <= training["validation"]["image_auroc"] <= 1.0
    calibration = package.manifest["calibration"]
    assert 0.0 < calibration["threshold"] < 1.0
    assert calibration["normals"] == 10
    assert calibration["lowest_rate"] == 1 / 11


def test_seen_anomalies_are_listed_and_nothing_of_the_test_set_is_stored(trained, data):
    inspection = load_mvtec(data)
    seen = trained.manifest["training"]["seen"]
    assert len(seen) == 3
    assert all((data / name).is_file() and name.startswith("test/") for name in seen)
    test_images, _ = load_samples(inspection.test, SIDE, trained.config.image_channels)
    stored = [*trained.calibration_images(), *trained.validation().images]
    assert not any(np.array_equal(image, other) for image in test_images for other in stored)


@pytest.mark.parametrize("markup", [True, False], ids=["as a library", "as a command"])
def test_a_grey_image_among_others_in_colour_is_trained_on_in_colour(tmp_path, markup):
    rng = np.random.default_rng(0)
    for number in range(4):
        depth = (3,) if number else ()
        path = tmp_path / "set" / "train" / "good" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, rng.integers(0, 255, (SIDE, SIDE, *depth), np.uint8))
    console = Console(file=io.StringIO(), width=1000, markup=markup)
    run, _ = prepare_run(settings(tmp_path / "set", tmp_path / "one.prn", seen=0), console)
    assert run.model.config.image_channels == 3
    printed = console.file.getvalue()
    assert "RGB" in printed
    assert "note: 1 of 4 images store grey values, such as " in printed
    assert "note: likeness cannot decide which images show the same part" in printed


def test_the_backbone_is_as_published_and_the_rest_is_trained(trained):
    from prn_fast.model.backbone import make_backbone
    from prn_fast.model.weights import load_backbone_weights, pretrained_state

    published = make_backbone("efficientnet_lite0")
    load_backbone_weights(published, pretrained_state("efficientnet_lite0"), "package")
    model = trained.model()
    for name, value in published.state_dict().items():
        torch.testing.assert_close(model.backbone.state_dict()[name], value, rtol=0, atol=0)
    for parameter in model.attention[0][0].attention.value:
        assert not torch.equal(parameter[0], torch.ones_like(parameter[0]))
    assert model.config.prototypes == (2, 2, 2)


@pytest.mark.long
def test_the_same_settings_give_the_same_weights(trained, data, tmp_path):
    expected = trained.model().state_dict()
    for name, value in train(settings(data, tmp_path / "again.prn")).model().state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_no_seen_anomalies_will_do(data, tmp_path):
    package = train(settings(data, tmp_path / "none.prn", seen=0, recipe=dataclasses.replace(RECIPE, epochs=1)))
    assert package.manifest["training"]["seen"] == []


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan")])
def test_impossible_minutes_are_refused(data, tmp_path, minutes):
    with pytest.raises(ConfigError, match="minutes"):
        train(settings(data, tmp_path / "a.prn", minutes=minutes))


def test_a_target_that_is_no_package_is_refused_before_training(data, tmp_path):
    with pytest.raises(PackageError, match=r"ends in \.prn"):
        train(settings(data, tmp_path / "a.zip"))


SMALLEST = 64


@pytest.fixture
def small_sides(monkeypatch):
    """Sides of 64 and 128 px in place of 256 and more."""
    for module in (finish, image_size, settle, small_start):
        monkeypatch.setattr(module, "SIZES", (SMALLEST, 2 * SMALLEST))


@pytest.fixture(scope="module")
def large_data(tmp_path_factory):
    """Images of 128 px with defects of two pixels."""
    root = tmp_path_factory.mktemp("large") / "set"
    write_synthetic_surfaces(root, side=2 * SMALLEST, train=9, good=2, defects=12, materials=("woven_fabric",))
    for path in (root / "ground_truth").rglob("*.png"):
        mask = np.zeros((2 * SMALLEST, 2 * SMALLEST), np.uint8)
        mask[60, 60:62] = 255
        write_image(path, mask)
    return root


@pytest.mark.long
def test_a_side_that_was_chosen_is_trained_at_after_a_start_at_the_smallest_one(large_data, tmp_path, small_sides):
    console = Console(file=io.StringIO(), width=1000)
    package = train(settings(large_data, tmp_path / "a.prn", image_size=None, seen=None), console)
    assert [path.name for path in tmp_path.iterdir()] == ["a.prn"]
    assert package.config.image_size == 2 * SMALLEST
    training = package.manifest["training"]
    assert len(training["seen"]) == 10
    # One epoch of four, and then the other three.
    assert (training["start"]["image_size"], training["start"]["epochs"], training["epochs"]) == (SMALLEST, 1, 4)
    assert training["steps"] == 4 * training["start"]["steps"]
    assert training["minutes"] > training["start"]["minutes"]
    printed = console.file.getvalue()
    assert printed.count("note: image size 128 px chosen") == 1
    assert "a third of the training is at 64 px, where steps are quick; the rest goes on at 128 px" in printed


@pytest.mark.long
@pytest.mark.parametrize("side", [SMALLEST, 2 * SMALLEST], ids=["in the start", "after it"])
def test_a_run_with_a_start_is_resumed_where_it_was_cut_short(large_data, tmp_path, small_sides, monkeypatch, side):
    wanted = settings(large_data, tmp_path / "a.prn", image_size=None)
    expected = train(dataclasses.replace(wanted, output=tmp_path / "whole.prn")).model().state_dict()
    train_epoch, epochs = loop.Run.train_epoch, []

    def killed(self, report):
        train_epoch(self, report)
        if self.model.config.image_size == side:
            self.epoch += 1
            self.batches = 0
            self.save()
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Run, "train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        train(wanted)
    monkeypatch.setattr(
        loop.Run, "train_epoch", lambda self, report: (epochs.append(self.epoch), train_epoch(self, report))
    )
    resumed = train(dataclasses.replace(wanted, resume=True))
    assert epochs == ([1, 2, 3] if side == SMALLEST else [2, 3])
    for name, value in resumed.model().state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.prn", "whole.prn"]


def test_without_a_start_or_its_rest_there_is_nothing_to_resume(large_data, tmp_path, small_sides):
    wanted = settings(large_data, tmp_path / "a.prn", image_size=None, resume=True)
    with pytest.raises(ConfigError, match="there is nothing to resume"):
        train(wanted)
