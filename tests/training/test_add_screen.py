"""A screen from training to the package: with the network, and added to an older package."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
import torch
from rich.console import Console

from prn_fast.cli.train import main
from prn_fast.errors import ConfigError
from prn_fast.model.engine_graph import screen_distances
from prn_fast.package import Package
from prn_fast.training.add_screen import add_screen, exit_line, time_to_train
from prn_fast.training.exit_views import SHARES
from prn_fast.training.recipe import QUICK
from prn_fast.training.screen import Deadline
from prn_fast.training.settings import TrainingSettings
from prn_fast.training.train import train
from tests.small_package import SIDE

RECIPE = dataclasses.replace(QUICK, epochs=2, batch=8, screen_steps=20)
# So few flagged anomalies bound the loss at a half.
LAX = 0.5


def settings(data, output, **changes) -> TrainingSettings:
    # A learned map reads the screen, too, and would differ without it.
    values = {"map": "published", "seen": 3, "seed": 5, "recipe": RECIPE, "lost": LAX, "image_size": SIDE}
    return TrainingSettings(data, output, **(values | changes))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    printed = io.StringIO()
    package = train(settings(data, tmp_path_factory.mktemp("with") / "a.prn"), Console(file=printed, width=1000))
    return package, printed.getvalue()


@pytest.fixture(scope="module")
def without(data, tmp_path_factory):
    recipe = dataclasses.replace(RECIPE, screen=False)
    return train(settings(data, tmp_path_factory.mktemp("without") / "a.prn", recipe=recipe), Console(quiet=True))


@pytest.fixture
def older(without, tmp_path):
    return Package.open(shutil.copytree(without.path, tmp_path / "older.prn"))


def test_training_gives_a_screen_and_says_what_it_lets_go(trained):
    package, printed = trained
    entry = Package.open(package.path).manifest["screen"]
    assert entry["normals"] == np.sum(package.validation().labels == 0)
    assert entry["threshold"] == package.calibration("threshold")
    assert entry["training"]["steps"] == 20
    assert entry["lost"] == 0
    assert entry["flagged"] + entry["fitted"] >= entry["flagged_seen"]
    assert exit_line(entry) in printed
    assert [path.name for path in package.path.parent.iterdir()] == ["a.prn"]


def test_the_network_is_the_same_with_and_without_a_screen(trained, without):
    assert not without.has_screen
    assert trained[0].manifest["files"]["model.safetensors"] == without.manifest["files"]["model.safetensors"]


def test_the_screen_of_a_learned_map_reads_its_memory(data, tmp_path):
    package = train(settings(data, tmp_path / "learned.prn", map="learned"), Console(quiet=True))
    model, screen = package.model(), package.screen()
    assert screen.view_weights is not None
    assert model.learned_map.screen.view_weights is None
    normals = package.validation().images[package.validation().labels == 0]
    with torch.no_grad():
        features, residuals = model.frozen(torch.from_numpy(normals))
        own, distances = screen(features, residuals), screen_distances(model, features)
    # Distances have the mean 0 and the deviation of the screen's own logits.
    share = 1 - float(screen.view_weights[0])
    weighed = distances * screen.view_weights[1] + screen.view_weights[2]
    assert share in SHARES
    assert float(weighed.mean()) == pytest.approx(0.0, abs=1e-3)
    assert float(weighed.std()) == pytest.approx(share * float(own.std()), rel=1e-2)


def test_a_screen_added_later_is_the_one_of_the_training(trained, older, capsys):
    before = {file.name: file.read_bytes() for file in older.path.glob("*.safetensors")}
    assert main(["--add-screen", str(older.path), "--lost", str(LAX), "--screen-steps", "20"]) == 0
    added = Package.open(older.path)
    assert added.screen_digest == trained[0].screen_digest
    for name in ("cut", "flagged", "exit_share", "loss_bound"):
        assert added.manifest["screen"].get(name) == trained[0].manifest["screen"].get(name)
    assert all((older.path / name).read_bytes() == content for name, content in before.items())
    assert "early exit: " in capsys.readouterr().out


def test_lost_0_switches_early_exit_off_and_keeps_the_screen(older):
    add_screen(older.path, wanted_loss=0.0, changes={"screen_steps": 2}, say=lambda line: None)
    added = Package.open(older.path)
    assert added.has_screen
    assert added.early_exit is None
    assert "--lost 0" in added.manifest["screen"]["why_whole"]


def test_without_time_everything_runs_whole_and_the_package_says_why(older):
    lines: list[str] = []
    add_screen(older.path, minutes=1e-6, changes={"screen_steps": 1000}, say=lines.append)
    assert Package.open(older.path).early_exit is None
    assert "no time was left" in lines[0]


def test_other_images_than_those_of_the_training_are_refused(older, data, tmp_path):
    other = shutil.copytree(data, tmp_path / "other")
    for kind in [folder for folder in (other / "test").iterdir() if folder.name != "good"]:
        kind.rename(kind.with_name(f"other_{kind.name}"))
        (other / "ground_truth" / kind.name).rename(other / "ground_truth" / f"other_{kind.name}")
    with pytest.raises(ConfigError, match="as it was then"):
        add_screen(older.path, other)
    assert not Package.open(older.path).has_screen


@pytest.mark.parametrize("option", [["--seen", "3"], ["--output", "b.prn"], ["--epochs", "4"], ["--resume"]])
def test_options_of_a_network_do_not_go_with_an_added_screen(older, option, capsys):
    assert main(["--add-screen", str(older.path), *option]) == 2
    assert f"{option[0]} does not go with --add-screen" in capsys.readouterr().err


def test_a_run_cut_short_before_its_screen_goes_on(data, tmp_path, monkeypatch):
    def kill(*arguments, **options):
        raise KeyboardInterrupt

    one = settings(data, tmp_path / "a.prn")
    with monkeypatch.context() as patched:
        patched.setattr("prn_fast.training.finish.give_screen", kill)
        with pytest.raises(KeyboardInterrupt):
            train(one, Console(quiet=True))
    assert not Package.open(tmp_path / "a.prn").has_screen
    train(dataclasses.replace(one, resume=True), Console(quiet=True))
    assert Package.open(tmp_path / "a.prn").has_screen
    assert json.loads((tmp_path / "a.prn" / "manifest.json").read_text())["screen"]["training"]["steps"] == 20


def test_without_a_cut_the_screen_is_trained_for_all_of_its_time():
    deadline = Deadline.after(100.0)
    assert time_to_train(None, None, None, 0.0, deadline) is deadline
