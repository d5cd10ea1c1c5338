"""prn-update on a small package: new parts join the prototypes, or nothing changes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from prn_fast.build import build_engine
from prn_fast.cli.update import main
from prn_fast.data.images import write_image
from prn_fast.engine import open_engine
from prn_fast.engine.parity import TOLERANCES, compare, faults
from prn_fast.model.prototypes import cluster_prototypes, extend_prototypes
from prn_fast.package import Package
from prn_fast.training import update
from prn_fast.training.exit_views import SHARES
from tests.small_package import add_small_screen, textured_images, write_package

NEW = 40


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    for number, image in enumerate(textured_images(NEW, 1, 21)):
        write_image(folder / f"{number:03}.png", image)
    return folder


def prototypes_of(package: Package) -> list[np.ndarray]:
    return [one.numpy() for one in package.model().prototypes()]


def test_new_parts_join_the_prototypes_and_others_calibrate(
    package: Package, good: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The small network is not trained: nothing is promised of its validation.
    monkeypatch.setattr(update, "TOLERATED_FALL", 1.0)
    before, weights = prototypes_of(package), package.model().state_dict()
    assert main([str(package.path), "--good", str(good)]) == 0
    after = Package.open(package.path)
    assert after.config == package.config
    assert any(not np.array_equal(one, other) for one, other in zip(before, prototypes_of(after), strict=True))
    after_weights = after.model().state_dict()
    for name, value in weights.items():
        assert name.startswith("prototypes.") or torch.equal(value, after_weights[name])
    calibration = after.manifest["calibration"]
    assert (calibration["normals"], calibration["promised_rate"]) == (NEW // 2, 2 / 21)
    assert calibration["source"] == str(good)
    (entry,) = after.manifest["training"]["updates"]
    assert (entry["joined"], entry["held_out"]) == (NEW // 2, NEW // 2)
    with open_engine(after) as engine:
        scores = engine.infer(textured_images(NEW, 1, 21)).raw_scores
    # Those of some of the images, but for the rounding of another batch.
    assert np.abs(np.array(calibration["highest_scores"])[:, None] - scores).min(axis=1).max() < 1e-4
    assert "20 new images joined the prototypes, 20 calibrated" in capsys.readouterr().out
    assert [path.name for path in package.path.parent.iterdir()] == ["fresh.prn"]


def test_new_parts_join_the_memory_of_a_learned_map(
    tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "TOLERATED_FALL", 1.0)
    # As loose as can be: it takes five flagged anomalies.
    monkeypatch.setattr(update, "WANTED_LOSS", 0.5)
    package = write_package(tmp_path / "learned.prn", learned=True, screen=True)
    before, weights_before = package.model().state_dict(), package.screen().view_weights
    assert main([str(package.path), "--good", str(good)]) == 0
    package = Package.open(package.path)
    after, weights = package.model().state_dict(), package.screen().view_weights
    own = {name for name in before if not torch.equal(before[name], after[name])}
    assert "learned_map.memory.patches" in own
    assert all(name.startswith("prototypes.") for name in own - {"learned_map.memory.patches"})
    # Distances are others now, and the screen weighs them anew.
    assert weights is not None
    assert weights[0] in [1 - share for share in SHARES]
    assert weights_before is not None
    assert (weights[1:] != weights_before[1:]).all()


def test_a_package_that_would_get_worse_stays_as_it_is(package: Package, good: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(update, "TOLERATED_FALL", -1.0)
    assert main([str(package.path), "--good", str(good)]) == 2
    assert "not updated, since it would get worse: image AUROC of the validation from" in capsys.readouterr().err
    assert Package.open(package.path).digest == package.digest
    assert [path.name for path in package.path.parent.iterdir()] == ["fresh.prn"]


def test_an_engine_that_cannot_be_built_again_keeps_the_package_as_it_is(
    package: Package, good: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "TOLERATED_FALL", 1.0)
    with package.building() as folder:
        (folder / "built").mkdir()
        (folder / "built" / "engine.bin").write_text("made elsewhere")
        package.add_engine("tensorrt:fp16", folder / "built", {"backend": "tensorrt", "precision": "fp16"})
    assert main([str(package.path), "--good", str(good)]) == 2
    assert "not updated: tensorrt:fp16 cannot be built again here" in capsys.readouterr().err
    assert Package.open(package.path).digest == package.digest


@pytest.mark.long
def test_an_int8_engine_is_quantised_again_for_the_new_network(
    package: Package, good: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "TOLERATED_FALL", 1.0)
    build_engine(package, "openvino", "int8")
    images = textured_images(64, 1, 33)
    with open_engine(package.path, "openvino:int8") as engine:
        former = engine.infer(images)
    assert main([str(package.path), "--good", str(good)]) == 0
    assert "engines: openvino:int8" in capsys.readouterr().out
    after = Package.open(package.path)
    assert list(after.engines) == ["openvino:int8"]
    with open_engine(after, "openvino:int8") as engine, open_engine(after, "optimized") as float32:
        found, expected = engine.infer(images), float32.infer(images)
        assert engine.threshold == after.calibration("threshold")
    assert not faults(compare(found, expected), 0.0, TOLERANCES["int8"])
    # It is that of the new prototypes, and nearer to them than the former engine.
    assert np.abs(found.maps - expected.maps).mean() < np.abs(former.maps - expected.maps).mean()


def test_too_few_images_for_a_rate_are_refused_before_anything_runs(package: Package, good: Path, capsys) -> None:
    assert main([str(package.path), "--good", str(good), "--false-alarm-rate", "0.01"]) == 2
    assert "20 good images can promise no false-alarm rate below 0.048" in capsys.readouterr().err


def test_the_updated_package_can_be_put_elsewhere(package: Package, good: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(update, "TOLERATED_FALL", 1.0)
    output = tmp_path / "new" / "other.prn"
    assert main([str(package.path), "--good", str(good), "--output", str(output)]) == 0
    assert Package.open(output).manifest["training"]["updates"]
    assert Package.open(package.path).digest == package.digest


def test_the_screen_stays_and_its_cut_is_that_of_the_new_network(
    package: Package, good: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "TOLERATED_FALL", 1.0)
    add_small_screen(package)
    before = Package.open(package.path).screen().state_dict()
    # As loose as can be: it takes five flagged anomalies.
    with monkeypatch.context() as patch:
        patch.setattr(update, "WANTED_LOSS", 0.5)
        assert main([str(package.path), "--good", str(good)]) == 0
    after = Package.open(package.path)
    kept = after.screen().state_dict()
    for name, value in before.items():
        # The level is fitted anew: to none, with so few normal images.
        assert torch.equal(torch.zeros(4) if name == "level_weights" else value, kept[name])
    entry = after.manifest["screen"]
    assert entry["wanted_loss"] == 0.5
    assert entry["threshold"] == after.calibration("threshold")
    assert entry["normals"] == 12 + NEW // 2
    assert "early exit: " in capsys.readouterr().out
    assert (entry["cut"] is None) == ("why_whole" in entry)
    with open_engine(after) as engine:
        found = engine.infer(textured_images(NEW, 1, 21))
        assert engine.leaves_early == (entry["cut"] is not None)
    assert not (found.exited & found.defective).any()


def test_old_prototypes_weigh_as_the_images_behind_them() -> None:
    class Pixels(torch.nn.Module):
        """Features are the image itself, at three scales."""

        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [images, images, images, images]

    def images(*values: float) -> torch.Tensor:
        return torch.tensor(values).reshape(-1, 1, 1, 1).expand(-1, 3, 4, 4).clone()

    old = [images(0.0, 10.0)] * 3
    # 0 stands for 4 images, and meets one more at 5 x (1 - 1/5).
    for centres in extend_prototypes(Pixels(), old, 8, [images(1.0, 1.0), images(10.0)]):
        found = sorted(float(one.mean()) for one in centres)
        assert found == pytest.approx([2 / 6, 10.0])
    whole = cluster_prototypes(Pixels(), [images(0.0, 0.0, 10.0)], 2)
    assert sorted(float(one.mean()) for one in whole[0]) == pytest.approx([0.0, 10.0])
