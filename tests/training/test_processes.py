"""Two processes that torchrun starts train as one does."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch

from prn_fast.data.synthetic import write_synthetic_surfaces
from prn_fast.package import Package
from prn_fast.training.loop import train
from prn_fast.training.recipe import Recipe
from prn_fast.training.settings import Settings
from tests.small_package import SIDE

RECIPE = Recipe(epochs=2, batch=8, learning_rate=2e-4, ema=0.5, hard_mining=0.5)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The package of one process, that of two, and what the two printed."""
    folder = tmp_path_factory.mktemp("processes")
    data = write_synthetic_surfaces(folder / "set", side=SIDE, train=24, good=2, defects=4, materials=("woven_fabric",))
    settings = Settings(data, folder / "one.prn", image_size=SIDE, seen=3, precision="32-true", recipe=RECIPE)
    one = train(settings)
    options = [f"--data={data}", f"--output={folder / 'two.prn'}", f"--image-size={SIDE}", "--seen=3", "--minutes=30"]
    for name, value in dataclasses.asdict(RECIPE).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            options.append(f"--{name.replace('_', '-')}={value}")
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "prn_fast.cli.train"]
    command = [sys.executable, *start, *options, "--precision=32-true", "--optimizer=adam", "--schedule=constant"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--no-flips"], capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return one, Package.open(folder / "two.prn"), done.stdout


def test_weights_and_statistics_are_those_of_one_process(packages):
    one, two, _ = packages
    assert (one.manifest["training"]["processes"], two.manifest["training"]["processes"]) == (1, 2)
    assert one.manifest["training"]["recipe"] == two.manifest["training"]["recipe"]
    expected = one.model().state_dict()
    for name, value in two.model().state_dict().items():
        # Sums of another order differ in the last digits. Where a gradient is nothing but rounding, as that of a bias
        # before a batch norm, Adam makes parts of a step of 2e-4 of it, and statistics follow. A batch norm over half
        # of the images would be off by a tenth.
        allowed = 1e-3 * float(expected[name].abs().max()) if "running" in name else 3e-4
        assert float((value - expected[name]).abs().max()) <= allowed, name


def test_scores_and_figures_are_those_of_one_process(packages):
    one, two, _ = packages
    images = torch.from_numpy(one.validation().images)
    with torch.no_grad():
        (scores, maps), (expected_scores, expected_maps) = (package.model().detect(images) for package in (two, one))
    torch.testing.assert_close(maps, expected_maps, rtol=0, atol=1e-4)
    torch.testing.assert_close(scores, expected_scores, rtol=0, atol=1e-4)
    for name, value in two.manifest["training"]["validation"].items():
        assert value == pytest.approx(one.manifest["training"]["validation"][name], abs=1e-3), name


def test_one_of_the_processes_prints(packages):
    printed = packages[2]
    assert printed.count("22 normal images to train on") == 1
    assert printed.count("epoch 2,") == 1
    assert printed.count("next: prn-build-engine") == 1
