import dataclasses

import numpy as np
import pytest
import torch

from prn_fast.data.layouts.mvtec import load as load_mvtec
from prn_fast.data.synthetic import write_synthetic_surfaces
from prn_fast.errors import ConfigError, PackageError
from prn_fast.package import Package
from prn_fast.training import loop
from prn_fast.training.loop import FromBytes, is_kept, train
from prn_fast.training.recipe import QUICK
from prn_fast.training.settings import Settings
from tests.small_package import SIDE, small_config, small_model

RECIPE = dataclasses.replace(QUICK, epochs=4, batch=8, ema=0.9)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("surfaces") / "set"
    return write_synthetic_surfaces(root, side=SIDE, train=24, good=4, defects=8, materials=("woven_fabric",))


def settings(data, output, **changes) -> Settings:
    values = {"data": data, "output": output, "image_size": SIDE, "seen": 3, "seed": 5, "recipe": RECIPE}
    return Settings(**(values | changes))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    return train(settings(data, tmp_path_factory.mktemp("trained") / "fabric.prn"))


def test_a_run_leaves_a_package_and_nothing_else(trained):
    package = Package.open(trained.path)
    assert [path.name for path in package.path.parent.iterdir()] == ["fabric.prn"]
    training = package.manifest["training"]
    assert training["epochs"] == 4
    assert training["steps"] == 4 * (2 * 22 // 8)
    assert 0.0 <= training["validation"]["image_auroc"] <= 1.0
    assert 0.0 < package.manifest["calibration"]["threshold"] < 1.0


def test_seen_anomalies_are_listed_and_nothing_of_the_test_set_is_stored(trained, data):
    inspection = load_mvtec(data)
    seen = trained.manifest["training"]["seen"]
    assert len(seen) == 3
    assert all((data / name).is_file() and name.startswith("test/") for name in seen)
    from prn_fast.data.samples import load_samples

    test_images, _ = load_samples(inspection.test, SIDE, trained.config.image_channels)
    stored = [*trained.calibration_images(), *trained.validation().images]
    assert not any(np.array_equal(image, other) for image in test_images for other in stored)


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


@pytest.mark.parametrize("seconds_between_checkpoints", [0.0, 1e6], ids=["in mid-epoch", "at an epoch's end"])
def test_a_run_killed_in_mid_epoch_resumes_to_the_same_weights(
    trained, data, tmp_path, monkeypatch, seconds_between_checkpoints
):
    output = tmp_path / "fabric.prn"
    train_epoch = loop.Run.train_epoch

    def killed(self, report):
        def report_until(loss):
            report(loss)
            # The third batch of five is done, but not saved.
            if self.epoch == 2 and self.batches == 3:
                raise KeyboardInterrupt

        train_epoch(self, report_until)

    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", seconds_between_checkpoints)
    monkeypatch.setattr(loop.Run, "train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        train(settings(data, output))
    assert not output.exists()
    monkeypatch.setattr(loop.Run, "train_epoch", train_epoch)
    resumed = train(settings(data, output, resume=True))
    # The best epoch is kept; both runs validate at the end only, as they are shorter than a minute.
    expected = trained.model().state_dict()
    for name, value in resumed.model().state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_the_same_settings_give_the_same_weights(trained, data, tmp_path):
    expected = trained.model().state_dict()
    for name, value in train(settings(data, tmp_path / "again.prn")).model().state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_resuming_with_other_settings_is_refused(data, tmp_path, monkeypatch):
    output = tmp_path / "fabric.prn"
    with pytest.raises(ConfigError, match="nothing to resume"):
        train(settings(data, output, resume=True))
    monkeypatch.setattr(loop.Run, "write_package", lambda self, missing: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        train(settings(data, output, recipe=dataclasses.replace(RECIPE, epochs=1)))
    with pytest.raises(ConfigError, match="seed=5, now it is 6"):
        train(settings(data, output, seed=6, resume=True, recipe=dataclasses.replace(RECIPE, epochs=1)))


@pytest.mark.parametrize(
    ("selection", "best", "settled", "expected"),
    [
        (0.81, 0.80, False, True),
        (0.79, 0.80, False, False),
        (0.79, 0.80, True, True),
        (0.76, 0.80, True, False),
        (0.0, -1.0, False, True),
        (float("nan"), -1.0, False, False),
        (float("nan"), -1.0, True, False),
    ],
)
def test_settled_weights_are_kept_unless_earlier_ones_were_clearly_better(selection, best, settled, expected):
    assert is_kept(selection, best, settled) is expected


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "resnet18"])
def test_a_frozen_backbone_is_folded_and_computes_the_same(backbone):
    torch.manual_seed(3)
    model = small_model(small_config(backbone=backbone), seed=3).double().train()
    module = FromBytes(model)
    assert dict(module.named_parameters()).keys() == {f"model.{key}" for key, _ in model.named_parameters()}
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in module.backbone[0].modules())
    side = model.config.image_size
    images = torch.randint(0, 256, (3, side, side, model.config.image_channels), dtype=torch.uint8)
    expected = model.logits(model.normalize(images))
    torch.testing.assert_close(module(images), expected, rtol=1e-9, atol=1e-9)


def test_a_backbone_with_weights_to_train_is_left_as_it_is():
    model = small_model(small_config(backbone="resnet18"))
    deepest = next(parameter for key, parameter in model.backbone.named_parameters() if key.startswith("layer4"))
    deepest.requires_grad_(True)
    side = model.config.image_size
    FromBytes(model)(torch.zeros(2, side, side, model.config.image_channels, dtype=torch.uint8)).sum().backward()
    assert deepest.grad is not None


def test_no_seen_anomalies_will_do(data, tmp_path):
    package = train(settings(data, tmp_path / "none.prn", seen=0, recipe=dataclasses.replace(RECIPE, epochs=1)))
    assert package.manifest["training"]["seen"] == []


def test_minutes_bound_a_run(data, tmp_path):
    package = train(
        settings(data, tmp_path / "short.prn", minutes=0.02, recipe=dataclasses.replace(RECIPE, epochs=500))
    )
    assert package.manifest["training"]["epochs"] < 100


def test_a_slow_validation_is_done_on_fewer_images(data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LEAST_VALIDATION_NORMALS", 1)
    monkeypatch.setattr(loop.Run, "estimate_validation", lambda self: 100.0)
    package = train(settings(data, tmp_path / "slow.prn", minutes=0.1, recipe=dataclasses.replace(RECIPE, epochs=500)))
    assert package.manifest["calibration"]["normals"] == 1
    assert package.validation().labels.tolist() == [0, 1]


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan")])
def test_impossible_minutes_are_refused(data, tmp_path, minutes):
    with pytest.raises(ConfigError, match="minutes"):
        train(settings(data, tmp_path / "a.prn", minutes=minutes))


def test_a_target_that_is_no_package_is_refused_before_training(data, tmp_path):
    with pytest.raises(PackageError, match=r"ends in \.prn"):
        train(settings(data, tmp_path / "a.zip"))
