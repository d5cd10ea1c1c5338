"""Two processes that torchrun starts train as one does."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from prn_fast.data.synthetic import write_synthetic_surfaces
from prn_fast.package import Package
from prn_fast.training.recipe import Recipe
from prn_fast.training.settings import TrainingSettings
from prn_fast.training.train import train
from tests.small_package import SIDE

pytestmark = pytest.mark.long
RECIPE = Recipe(epochs=2, batch=8, learning_rate=2e-4, ema=0.5, hard_mining=0.5, screen=False)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The package of one process, that of two, and what the two printed."""
    folder = tmp_path_factory.mktemp("processes")
    data = write_synthetic_surfaces(folder / "set", side=SIDE, train=24, good=2, defects=4, materials=("woven_fabric",))
    settings = TrainingSettings(data, folder / "one.prn", image_size=SIDE, seen=3, precision="32-true", recipe=RECIPE)
    one = train(settings)
    options = [f"--data={data}", f"--output={folder / 'two.prn'}", f"--image-size={SIDE}", "--seen=3", "--minutes=30"]
    for name, value in dataclasses.asdict(RECIPE).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            options.append(f"--{name.replace('_', '-')}={value}")
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "prn_fast.cli.train"]
    command = [sys.executable, *start, *options, "--precision=32-true", "--optimizer=adam", "--schedule=constant"]
    command += ["--no-flips", "--no-screen"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return one, Package.open(folder / "two.prn"), done.stdout


def test_weights_and_statistics_are_those_of_one_process(packages):
    one, two, _ = packages
    assert (one.manifest["training"]["processes"], two.manifest["training"]["processes"]) == (1, 2)
    assert one.manifest["training"]["recipe"] == two.manifest["training"]["recipe"]
    expected, found = one.model().state_dict(), two.model().state_dict()
    differences = []
    for name, value in expected.items():
        difference = (found[name] - value).abs()
        if "running" in name:
            # A batch norm over half of the images would be off by a tenth.
            assert float(difference.max()) <= 1e-2 * float(value.abs().max()), name
        elif value.is_floating_point():
            differences.append(difference.flatten())
    # Sums of another order differ in the last digits. Where a gradient is nothing but rounding, as that of a bias
    # before a batch norm, Adam makes whole steps of it; but all other weights have gone the same way, of some steps of
    # 2e-4.
    assert float(np.quantile(torch.cat(differences).numpy(), 0.99)) <= 2e-5


def test_scores_and_figures_are_those_of_one_process(packages):
    one, two, _ = packages
    images = torch.from_numpy(one.validation().images)
    with torch.no_grad():
        (scores, maps), (expected_scores, expected_maps) = (package.model().detect(images) for package in (two, one))
    assert float((maps - expected_maps).abs().mean()) < 1e-3
    torch.testing.assert_close(scores, expected_scores, rtol=0, atol=1e-3)
    for name, value in two.manifest["training"]["validation"].items():
        assert value == pytest.approx(one.manifest["training"]["validation"][name], abs=5e-3), name


def test_one_of_the_processes_prints(packages):
    printed = packages[2]
    assert printed.count("16 normal images to train on") == 1
    assert printed.count("epoch 2,") == 1
    assert printed.count("next: prn-build-engine") == 1
