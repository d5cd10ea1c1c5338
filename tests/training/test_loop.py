import dataclasses
import io

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode

from prn_fast.data.images import write_image
from prn_fast.data.layouts.mvtec import load as load_mvtec
from prn_fast.data.samples import draw_seen, load_samples
from prn_fast.data.synthetic import write_synthetic_surfaces
from prn_fast.errors import ConfigError, PackageError
from prn_fast.kernels import FUSED, OPTIMIZED
from prn_fast.kernels.anomaly_score.reference import map_statistics
from prn_fast.package import Package
from prn_fast.training import finish, image_size, judging, loop, settle, small_start
from prn_fast.training.checkpoint import STATE
from prn_fast.training.image_score import fit_score
from prn_fast.training.learned_map import Views, fit_map, view_images
from prn_fast.training.loop import FromBytes, is_kept
from prn_fast.training.recipe import QUICK
from prn_fast.training.settings import MEMORY, TrainingSettings
from prn_fast.training.train import prepare_run, train
from tests.small_package import SIDE, small_config, small_model

RECIPE = dataclasses.replace(QUICK, epochs=4, batch=8, ema=0.9, screen=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("surfaces") / "set"
    return write_synthetic_surfaces(root, side=SIDE, train=30, good=4, defects=8, materials=("woven_fabric",))


def settings(data, output, **changes) -> TrainingSettings:
    values = {"data": data, "output": output, "image_size": SIDE, "seen": 3, "seed": 5, "recipe": RECIPE}
    return TrainingSettings(**(values | changes))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    return train(settings(data, tmp_path_factory.mktemp("trained") / "fabric.prn"))


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


def test_workers_are_used_by_default_where_a_gpu_computes(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(16)))
    assert loop.loader_workers(None, torch.device("cpu")) == 0
    assert loop.loader_workers(None, torch.device("cuda")) == 8
    assert loop.loader_workers(2, torch.device("cuda")) == 2


def test_a_gpu_trains_with_triton_kernels_unless_told_otherwise(data, tmp_path, monkeypatch):
    built = []

    class Stop(Exception):
        pass

    def network(config, ops):
        built.append(ops)
        raise Stop

    monkeypatch.setattr(loop, "PRN", network)
    for optimized in (False, True):
        monkeypatch.setattr(loop, "launch", lambda precision: FabricOnGPU())
        with pytest.raises(Stop):
            loop.prepare_run(settings(data, tmp_path / "fabric.prn", optimized=optimized))
    assert built == [FUSED, OPTIMIZED]


class FabricOnGPU:
    """What preparing a run asks of Fabric before the network is built."""

    is_global_zero, world_size, device = True, 1, torch.device("cuda")


@pytest.mark.long
def test_the_same_settings_give_the_same_weights(trained, data, tmp_path):
    expected = trained.model().state_dict()
    for name, value in train(settings(data, tmp_path / "again.prn")).model().state_dict().items():
        assert torch.equal(value, expected[name]), name


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


def test_no_seen_anomalies_will_do(data, tmp_path):
    package = train(settings(data, tmp_path / "none.prn", seen=0, recipe=dataclasses.replace(RECIPE, epochs=1)))
    assert package.manifest["training"]["seen"] == []


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


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan")])
def test_impossible_minutes_are_refused(data, tmp_path, minutes):
    with pytest.raises(ConfigError, match="minutes"):
        train(settings(data, tmp_path / "a.prn", minutes=minutes))


def test_a_target_that_is_no_package_is_refused_before_training(data, tmp_path):
    with pytest.raises(PackageError, match=r"ends in \.prn"):
        train(settings(data, tmp_path / "a.zip"))


@pytest.mark.long
def test_a_network_learns_its_map_and_its_image_score(data, tmp_path):
    trained = train(settings(data, tmp_path / "learned.prn", score="learned", lost=0))
    config, model = trained.config, trained.model(OPTIMIZED)
    assert (config.map, config.score, config.memory) == ("learned", "learned", MEMORY)
    assert model.learned_map.memory.patches.shape == (MEMORY, 152)
    assert model.learned_map.memory.patches.square().sum(1).min() > 0
    validation, calibration = trained.validation(), trained.manifest["calibration"]
    seen = draw_seen(load_mvtec(data).test, 3, 5)[0]
    seen_images, seen_masks = load_samples(seen, config.image_size, config.image_channels)

    @torch.no_grad()
    def views(images):
        logits, features, residuals = model.examine(model.normalize(torch.from_numpy(images)))
        return Views(logits[:, 0].numpy(), model.learned_map.views(features, residuals).numpy())

    @torch.no_grad()
    def statistics(images):
        return map_statistics(model.learned_map(*model.examine(model.normalize(torch.from_numpy(images))))).numpy()

    found = views(validation.images), validation.labels, validation.masks, views(seen_images), seen_masks
    weights = torch.cat([model.learned_map.weights, model.learned_map.intercept])
    assert (weights != torch.tensor([1.0, 0.0, 0.0])).any()
    names = model.learned_map.names
    torch.testing.assert_close(torch.from_numpy(fit_map(*found, names)), weights, rtol=1e-2, atol=1e-3)
    fitted = fit_score(statistics(validation.images), validation.labels, statistics(seen_images), 5)
    torch.testing.assert_close(torch.from_numpy(fitted.weights[:-1]), model.learned_score.weights, rtol=1e-2, atol=1e-3)
    # A threshold is set by scores of images that the weights were fitted without, so that it holds for others.
    normals = fitted.held_out[validation.labels == 0]
    assert calibration["highest_scores"][0] == pytest.approx(normals.max(), abs=1e-3)
    with torch.no_grad():
        scores, maps = model.detect(torch.from_numpy(validation.images))
    assert not torch.allclose(scores, maps.flatten(1).topk(100).values.mean(1), atol=1e-2)


@pytest.mark.long
def test_a_learned_map_reads_the_screen_that_is_trained_behind_the_network(data, tmp_path):
    recipe = dataclasses.replace(RECIPE, screen=True, screen_steps=10)
    trained = train(settings(data, tmp_path / "screen.prn", score="learned", memory=0, recipe=recipe, lost=0))
    model = trained.model(OPTIMIZED)
    assert trained.config.screen_width == model.learned_map.screen.width > 0
    assert model.learned_map.names == ("network", "screen")
    assert model.learned_map.weights[1] != 0
    # It is the one that images leave by.
    leaving = trained.screen().state_dict()
    own = model.learned_map.screen.state_dict()
    assert all(torch.equal(value, leaving[name]) for name, value in own.items() if name != "level_weights")
    validation, calibration = trained.validation(), trained.manifest["calibration"]
    with torch.no_grad():
        scores, _ = model.detect(torch.from_numpy(validation.images))
    median = float(scores[validation.labels == 0].median())
    assert median == pytest.approx(calibration["normal_score_quantiles"]["0.5"], abs=0.02)
    # The screen weighs nothing where no time is left for it.
    hurried = train(
        settings(data, tmp_path / "hurried.prn", score="learned", recipe=recipe, lost=0, minutes=0.02, resume=False)
    )
    assert not hurried.model().learned_map.weights[-1]


def test_with_few_seen_defects_the_map_is_learned_and_the_score_where_asked_for(data, tmp_path):
    def kinds(**changes):
        run, _ = prepare_run(settings(data, tmp_path / "other.prn", **changes), Console(quiet=True))
        model = run.model
        assert (model.learned_score is None) == (model.config.score == "published")
        assert (model.learned_map is None) == (model.config.map == "published")
        return model.config.map, model.config.score

    assert kinds() == ("learned", "published")
    assert kinds(tiles=True) == ("published", "published")
    assert kinds(map="published", score="learned") == ("published", "learned")


@pytest.mark.parametrize(("map_kind", "looked_at"), [("learned", 3), ("published", 0)])
def test_seen_defects_are_looked_at_where_something_is_fitted_to_them(data, tmp_path, monkeypatch, map_kind, looked_at):
    run, _ = prepare_run(settings(data, tmp_path / "other.prn", map=map_kind), Console(quiet=True))
    counts = []

    def count(model, images):
        counts.append(len(images))
        return view_images(model, images)

    monkeypatch.setattr(judging, "view_images", count)
    judging.judge_validation(run.model, run.split, 0)
    assert counts == [len(run.split.validation.images), looked_at]


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
