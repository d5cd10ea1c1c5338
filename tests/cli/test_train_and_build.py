"""prn-train and prn-build-engine as commands: what they print, write and refuse."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from prn_fast.cli import build_engine, evaluate, train
from prn_fast.data.images import write_image
from prn_fast.data.synthetic import write_synthetic_surfaces
from prn_fast.package import Package
from prn_fast.training.calibration import threshold_for
from prn_fast.training.recipe import PUBLISHED
from tests.small_package import SIDE


@pytest.fixture(scope="module")
def surfaces(tmp_path_factory):
    root = tmp_path_factory.mktemp("cli") / "set"
    return write_synthetic_surfaces(root, side=SIDE, train=10, good=2, defects=4, materials=("wood",))


@pytest.fixture
def data(surfaces, tmp_path):
    return shutil.copytree(surfaces, tmp_path / "data")


def run_train(data, output, *more: str) -> int:
    # A lax bound on lost anomalies takes few of them.
    screen = ["--lost", "0.5", "--screen-steps", "5"]
    common = ["--image-size", str(SIDE), "--epochs", "1", "--batch", "4", "--seen", "1", *screen]
    return train.main(["--data", str(data), "--output", str(output), *common, *more])


def test_train_then_build(data, tmp_path, capsys):
    output = tmp_path / "wood.prn"
    assert run_train(data, output) == 0
    printed = capsys.readouterr()
    assert "validation image AUROC" in printed.out
    assert printed.err.startswith(
        "note: 3 held-out normal images are few: the threshold is set for a false-alarm rate of 0.25;"
    )
    assert build_engine.main([str(output), "--precision", "fp32"]) == 0
    printed = capsys.readouterr().out
    assert "image auroc" in printed
    assert "difference, max score" in printed
    assert list(Package.open(output).engines) == ["openvino:fp32"]


@pytest.mark.long
def test_training_names_what_it_passes_over_and_asks_for_parts(data, tmp_path, capsys):
    good = data / "train" / "good"
    (good / "gone.png").symlink_to("nowhere.png")
    first = min(good.glob("0*.png"))
    first.rename(first.with_name("caf\udce9.png"))
    output = tmp_path / "wood.prn"
    assert run_train(data, output) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "passed over: 1 dangling link: train/good/gone.png" in printed
    assert printed.count("name the parts with --parts") == 1
    assert "note: likeness cannot decide" in printed
    assert "[/]" not in printed
    assert evaluate.main([str(output), "--engine", "optimized"]) == 0
    printed = capsys.readouterr().out
    assert "\nnote: only copies of files count as pictures of one part" in printed
    assert "[/]" not in printed
    assert Package.open(output).manifest["training"]["parts"] is None


@pytest.mark.long
def test_named_parts_are_kept_with_the_package_and_used_by_the_evaluation(data, tmp_path, capsys):
    output, pattern = tmp_path / "wood.prn", r"(\w+/\d+)_"
    assert run_train(data, output, "--parts", pattern) == 0
    assert "--parts" not in capsys.readouterr().out
    training = Package.open(output).manifest["training"]
    assert training["parts"] == pattern
    (seen,) = training["seen"]
    assert training["seen_parts"] == [re.search(pattern, seen)[1]]
    image = data / seen
    mask = data / "ground_truth" / image.parent.name / f"{image.stem}_mask.png"
    for path in (image, mask):
        shutil.copy(path, path.with_name(path.name.replace("_", "_again_", 1)))
    with Image.open(image) as opened:
        opened.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(image.with_name(image.name.replace("_", "_again_", 1)))
    assert evaluate.main([str(output), "--output", str(tmp_path / "eval")]) == 0
    result = json.loads((tmp_path / "eval" / "evaluation.json").read_text())
    assert result["parts_told_by"] == "names"
    assert result["seen"] == {"listed": 1, "left_out": 1, "near_duplicates": 1}


def test_every_part_of_a_recipe_is_an_option(data, tmp_path):
    wanted = {
        "epochs": 1,
        "batch": 6,
        "learning_rate": 2e-4,
        "weight_decay": 1e-3,
        "optimizer": "adam",
        "schedule": "constant",
        "flips": False,
        "light": 0.1,
        "anomaly_ratio": 2,
        "extended_share": 0.25,
        "augment": False,
        "simulated_sources": ["textures", "image"],
        "foreground": False,
        "smooth_l1": False,
        "focal_weight": 2.5,
        "score_weight": 0.3,
        "hard_mining": 0.5,
        "ema": 0.5,
        "prototypes": 0.4,
        "screen": False,
        "screen_steps": 30,
    }
    options = []
    for name, value in wanted.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            options += [f"--{option}" if value else f"--no-{option}"]
        else:
            options += [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
    output = tmp_path / "other.prn"
    assert run_train(data, output, *options, "--projection", "pointwise", "--residual", "absolute") == 0
    package = Package.open(output)
    assert package.manifest["training"]["recipe"] == wanted
    assert (package.config.projection, package.config.residual) == ("pointwise", "absolute")
    # Seven normals are trained on, three times each, in steps of six; four tenths of them are prototypes.
    assert package.manifest["training"]["steps"] == 3
    assert package.config.prototypes == (2, 2, 2)


@pytest.mark.long
def test_a_recipe_by_name_stands_before_single_options(data, tmp_path):
    output = tmp_path / "published.prn"
    assert run_train(data, output, "--recipe", "published", "--prototypes", "0.3") == 0
    expected = dataclasses.replace(PUBLISHED, epochs=1, batch=4, prototypes=0.3, screen_steps=5)
    assert Package.open(output).manifest["training"]["recipe"] == expected.to_dict()


@pytest.mark.long
def test_tiles_are_trained_on_and_evaluated(tmp_path, capsys):
    data = write_synthetic_surfaces(tmp_path / "set", side=96, train=8, good=2, defects=4, materials=("wood",))
    output = tmp_path / "tiles.prn"
    assert run_train(data, output, "--tiles") == 0
    # Five images of two by two tiles each, and three held out.
    assert "20 normal tiles to train on, 24 to validate" in " ".join(capsys.readouterr().out.split())
    package = Package.open(output)
    assert package.manifest["training"]["tiles"] == {"overlap": 32}
    assert package.manifest["training"]["normals"] == 5
    assert evaluate.main([str(output), "--output", str(tmp_path / "eval"), "--false-alarm-rate", "0.1"]) == 0
    result = json.loads((tmp_path / "eval" / "evaluation.json").read_text())
    assert result["tiles"] == {"overlap": 32, "per_image": 4.0}
    # One image in ten is one tile in forty.
    assert result["threshold"] == pytest.approx(threshold_for(package.manifest["calibration"], 0.1 / 4))
    assert "held-out normal tiles" in " ".join(capsys.readouterr().out.split())
    images = data / "test" / "good"
    assert evaluate.main([str(output), "--images", str(images), "--output", str(tmp_path / "predictions")]) == 0
    with Image.open(next((tmp_path / "predictions" / "maps").iterdir())) as anomaly_map:
        assert anomaly_map.size == (96, 96)


def damage_mask_without_image(data):
    mask = next((data / "ground_truth").rglob("*.png"))
    shutil.copy(mask, mask.with_name("999_mask.png"))


def damage_size(data):
    mask = next((data / "ground_truth").rglob("*.png"))
    write_image(mask, np.ones((SIDE // 2, SIDE, 1), np.uint8) * 255)


DAMAGE = {
    "missing-folder": (shutil.rmtree, "data"),
    "empty-folder": (lambda data: [path.unlink() for path in (data / "train/good").iterdir()], "train"),
    "unreadable-image": (lambda data: min((data / "train/good").iterdir()).write_bytes(b"no image"), "000_wood.png"),
    "mask-without-image": (damage_mask_without_image, "999_mask.png"),
    "size-mismatch": (damage_size, "mask"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_bad_data_is_named_with_exit_code_2(data, tmp_path, capsys, damage, message):
    damage(data)
    assert run_train(data, tmp_path / "bad.prn", "--seen", "4") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "bad.prn").exists()


def test_nan_in_weights_is_refused(data, tmp_path, capsys):
    from prn_fast.model.backbone import make_backbone

    state = make_backbone("efficientnet_lite0").state_dict()
    state["conv_stem.weight"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    assert run_train(data, tmp_path / "bad.prn", "--backbone-weights", str(tmp_path / "nan.pth")) == 2
    assert "conv_stem.weight holds NaN" in capsys.readouterr().err


def test_build_refuses_what_it_cannot_build(package, capsys, monkeypatch):
    path = str(package.path)
    assert build_engine.main([path, "--backend", "cuda"]) == 2
    assert "unknown backend 'cuda'" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    assert build_engine.main([path, "--precision", "fp32"]) == 2
    assert "pip install 'prn-fast[openvino]'" in capsys.readouterr().err
