"""The training loop: what it keeps, when it stops, and how it goes on after a kill."""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from prn_fast.errors import ConfigError
from prn_fast.training import finish, loop
from prn_fast.training.checkpoint import STATE
from prn_fast.training.loop import FromBytes, is_kept
from prn_fast.training.train import train
from tests.small_package import small_config, small_model
from tests.training.small_run import RECIPE, settings


@pytest.mark.long
@pytest.mark.parametrize(
    "is_due", [lambda run: True, lambda run: run.batches == 0], ids=["in mid-epoch", "at an epoch's end"]
)
def test_a_run_killed_in_mid_epoch_resumes_to_the_same_weights(trained, data, tmp_path, monkeypatch, is_due):
    output = tmp_path / "fabric.prn"
    train_epoch = loop.Run.train_epoch

    def killed(self, report):
        def report_until(loss):
            report(loss)
            # The third batch of five is done, but not saved.
            if self.epoch == 2 and self.batches == 3:
                raise KeyboardInterrupt

        train_epoch(self, report_until)

    monkeypatch.setattr(loop.Run, "is_checkpoint_due", is_due)
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


def test_checkpoints_are_written_by_time_not_by_epoch_and_no_step_waits_for_a_value(data, tmp_path, monkeypatch):
    class Waits(TorchDispatchMode):
        """Counts values that are read back: on a GPU each waits for all that is queued. Counters lie on the host."""

        count = 0

        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            if function.overloadpacket is torch.ops.aten._local_scalar_dense:
                self.count += arguments[0].dtype not in (torch.int64, torch.bool)
            return function(*arguments, **(options or {}))

    waits, saved = Waits(), []
    save, train_step, tick = loop.Run.save, loop.Run.train_step, loop.Clock.tick

    def under_watch(function):
        def watched(self, *arguments):
            with waits:
                return function(self, *arguments)

        return watched

    def step_without_optimizer(self, images, masks, rate):
        # Adam counts its steps on the host; a GPU is not asked.
        monkeypatch.setattr(self.optimizer, "step", lambda: None, raising=False)
        return under_watch(train_step)(self, images, masks, rate)

    monkeypatch.setattr(loop.Run, "save", lambda self: (saved.append(self.epoch), save(self)))
    monkeypatch.setattr(loop.Run, "train_step", step_without_optimizer)
    monkeypatch.setattr(loop.Clock, "tick", under_watch(tick))
    train(settings(data, tmp_path / "fabric.prn"))
    assert saved == [RECIPE.epochs]
    assert waits.count == 0


def test_resuming_with_other_settings_is_refused(data, tmp_path, monkeypatch):
    output = tmp_path / "fabric.prn"
    with pytest.raises(ConfigError, match="nothing to resume"):
        train(settings(data, output, resume=True))
    monkeypatch.setattr(finish, "write_package", lambda run, missing: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        train(settings(data, output, recipe=dataclasses.replace(RECIPE, epochs=1)))
    with pytest.raises(ConfigError, match="seed=5, now it is 6"):
        train(settings(data, output, seed=6, resume=True, recipe=dataclasses.replace(RECIPE, epochs=1)))
    torch.save({"model": {}}, output.with_name("fabric.prn.training") / STATE)
    with pytest.raises(ConfigError, match=f"{STATE}: is no state of this run"):
        train(settings(data, output, resume=True, recipe=dataclasses.replace(RECIPE, epochs=1)))


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


def test_minutes_bound_a_run(data, tmp_path):
    package = train(
        settings(data, tmp_path / "short.prn", minutes=0.02, recipe=dataclasses.replace(RECIPE, epochs=500))
    )
    assert package.manifest["training"]["epochs"] < 100


def test_a_run_without_a_step_says_so(data, tmp_path, capsys):
    package = train(settings(data, tmp_path / "none.prn", minutes=1e-6))
    assert package.manifest["training"]["steps"] == 0
    assert "note: nothing was trained" in capsys.readouterr().out


@pytest.mark.long
def test_a_slow_validation_is_done_on_fewer_images(data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "MIN_VALIDATION_NORMALS", 1)
    monkeypatch.setattr(loop.Run, "estimate_validation", lambda self: 100.0)
    package = train(settings(data, tmp_path / "slow.prn", minutes=0.1, recipe=dataclasses.replace(RECIPE, epochs=500)))
    assert package.manifest["calibration"]["normals"] == 1
    assert package.validation().labels.tolist() == [0, 1]
