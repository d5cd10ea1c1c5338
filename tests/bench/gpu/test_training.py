"""The GPU run's section on training: what it needs, and that it trains and evaluates by the commands."""

import pytest
import torch
from safetensors.torch import save_file

from prn_fast.bench.gpu import training
from prn_fast.bench.gpu.training import NEEDED, TRAINING_BATCH, WEIGHTS_VARIABLE, train_and_evaluate
from prn_fast.data.synthetic import write_synthetic_surfaces
from prn_fast.model.backbone import make_backbone
from prn_fast.model.config import PRNConfig
from tests.only_with import brought_by, canonical, distributions_of_modules

CPU = torch.device("cpu")


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    (row,) = train_and_evaluate(CPU, None, 0.1, tmp_path)
    assert "make gpu-kit DATA=DIR" in row["skipped"]
    monkeypatch.setattr(training, "find_spec", lambda name: None if name == "kornia" else name)
    (row,) = train_and_evaluate(CPU, tmp_path, 0.1, tmp_path)
    assert row["skipped"] == "packages for training are missing: kornia"


def test_what_is_asked_for_is_what_the_extra_for_training_brings():
    brought = brought_by(["prn-fast[train]"])
    for module in NEEDED:
        assert brought & {canonical(name) for name in distributions_of_modules()[module]}, module


@pytest.mark.long
def test_a_network_is_trained_and_evaluated(tmp_path, monkeypatch):
    data = write_synthetic_surfaces(
        tmp_path / "set", side=64, train=24, good=4, defects=14, materials=("woven_fabric",)
    )
    weights = tmp_path / "weights.safetensors"
    save_file(make_backbone("resnet18").state_dict(), weights)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(weights))
    trained, evaluated = train_and_evaluate(CPU, data, None, tmp_path)
    assert trained["epochs"] == 1
    assert trained["images_per_second"] > 0
    assert evaluated["engine"] == "optimized"
    assert 0 <= evaluated["image"]["auroc"] <= 1
    assert (tmp_path / "evaluation.json").is_file()


def test_on_a_gpu_images_have_the_size_that_the_kit_s_kernels_are_for(tmp_path, monkeypatch):
    asked = []

    def refused(name, arguments):
        asked.append(arguments)
        raise RuntimeError(name)

    monkeypatch.setattr(training, "find_spec", lambda name: name)
    monkeypatch.setattr(training, "run_command", refused)
    with pytest.raises(RuntimeError, match="train"):
        list(train_and_evaluate(torch.device("cuda"), tmp_path, 1.5, tmp_path))
    (arguments,) = asked
    assert arguments[arguments.index("--image-size") + 1] == str(PRNConfig().image_size)
    assert arguments[arguments.index("--batch") + 1] == str(TRAINING_BATCH)


def test_a_command_that_fails_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match=r"prn_fast\.cli\.train ended with 2"):
        training.run_command("train", ["--data", str(tmp_path / "none"), "--output", str(tmp_path / "a.prn")])
