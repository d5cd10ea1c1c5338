"""Learned maps and image scores of a trained package, and which validation ranks them as the test does."""

import copy
import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from prn_fast.bench.accuracy import __main__ as command
from prn_fast.bench.accuracy import maps
from prn_fast.bench.accuracy.record import MAPS_FILE
from prn_fast.data.layouts import load_inspection_set
from prn_fast.data.samples import draw_seen
from prn_fast.data.synthetic import write_synthetic_surfaces
from prn_fast.model.learned_map import LearnedMap
from prn_fast.package import Package
from prn_fast.training.learned_map import Views, view_images
from prn_fast.training.recipe import QUICK
from tests.small_package import SIDE, small_config, small_model, write_package

DIRTY = ("--allow-dirty",)
COARSE = SIDE // 8


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package, its data and its figures."""
    folder = tmp_path_factory.mktemp("maps")
    data = write_synthetic_surfaces(folder / "wood", side=SIDE, train=10, good=3, defects=14, materials=("wood",))
    seen = draw_seen(load_inspection_set(data, "auto").test, 3, 0)[0]
    training = {
        "data": str(data),
        "layout": "auto",
        "seen": [sample.path.relative_to(data).as_posix() for sample in seen],
        "epochs": 1,
        "recipe": dataclasses.replace(QUICK, screen_steps=2).to_dict(),
    }
    write_package(folder / "small.prn", training=training, screen=True)
    assert command.main(["maps", str(folder / "small.prn"), "--output", str(folder / MAPS_FILE), *DIRTY]) == 0
    return folder


def test_every_candidate_is_judged_by_seen_and_generated_anomalies_and_the_test(taken: Path) -> None:
    (one,) = json.loads((taken / MAPS_FILE).read_text())["packages"]
    counts = [one[name] for name in ("data", "epochs", "seen", "unseen", "held_out_normals", "test_images")]
    assert counts == ["wood", 1, 3, 7, 12, 7]
    assert list(one["candidates"]) == list(maps.CANDIDATES)
    for kinds in one["candidates"].values():
        assert set(kinds) == {"generated", "seen", "unseen", "test"}
        assert all(0 <= value <= 1 for figures in kinds.values() for value in figures.values())
    text = maps.maps_table(taken)
    assert f"| **{maps.choose([one])}** |" in text
    assert "| wood, 3 seen, seed 0, 1 epochs | mean of products |" in text
    assert "Defects seen, defects that validate, and held-out normal images: wood 3, 7 and 12." in text
    assert maps.maps_table(taken / "nowhere") == maps.predictors_table(taken / "nowhere") == ""


def test_what_is_taken_is_not_taken_again(taken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "examine", lambda path: pytest.fail("taken again"))
    assert maps.main([str(taken / "small.prn"), "--output", str(taken / MAPS_FILE), *DIRTY]) == 0


def package_figures(data: str, **validated: float) -> dict[str, Any]:
    """Figures of a package: some maps' figures on unseen defects, 0.5 elsewhere; all others say the opposite."""
    candidates = {}
    for name in maps.CANDIDATES:
        value = validated.get(name.split(":")[0].split(", ")[-1], 0.5)
        found = {"generated": 1 - value, "seen": 1 - value, "unseen": value, "test": 1 - value}
        candidates[name] = {kind: dict.fromkeys(maps.FIGURES, one) for kind, one in found.items()}
    return {"data": data, "candidates": candidates}


def test_each_product_counts_once_however_many_packages_it_has() -> None:
    packages = [
        package_figures("tile", network=0.9, memory=0.6),
        package_figures("tile", network=0.9, memory=0.8),
        package_figures("cloth", network=0.5, memory=0.9),
    ]
    assert maps.validated_by(packages, "network: published") == pytest.approx(0.7)
    assert maps.validated_by(packages, "network, memory: published") == pytest.approx(0.8)
    assert maps.choose(packages) == "network, memory: learned"


@pytest.mark.parametrize(("memory", "chosen"), [(0.805, "network"), (0.815, "network, memory"), (0.7, "network")])
def test_the_cheapest_is_chosen_within_the_noise(memory: float, chosen: str) -> None:
    assert maps.choose([package_figures("tile", network=0.8, memory=memory)]) == f"{chosen}: learned"


@pytest.mark.parametrize(("figure", "counts"), [("image", False), ("pixel", True), ("pro", True), ("ap", False)])
def test_maps_are_judged_by_two_figures(figure: str, counts: bool) -> None:
    one = package_figures("tile")
    for score in ("published", "learned"):
        one["candidates"][f"network, memory: {score}"]["unseen"][figure] = 0.6
    assert maps.choose([one]).split(":")[0] == ("network, memory" if counts else "network")


@pytest.mark.parametrize(("learned", "chosen"), [(0.8, "learned"), (0.795, "learned"), (0.785, "published")])
def test_the_learned_score_is_chosen_unless_it_is_worse(learned: float, chosen: str) -> None:
    one = package_figures("tile", network=0.8)
    one["candidates"]["network: learned"]["unseen"]["image"] = learned
    assert maps.choose([one]) == f"network: {chosen}"


def test_the_network_and_its_views_are_those_of_the_package(taken: Path) -> None:
    package = Package.open(taken / "small.prn")
    images = package.calibration_images()
    model, own, screen = maps.with_learned_map(package), package.model().double(), package.screen().double()
    # As large as training makes it, and of these images.
    assert model.config.memory == 1000
    unlike = view_images(model, 255 - images[:9]).others[:, 0]
    assert view_images(model, images[:9]).others[:, 0].mean() < unlike.mean()
    views = view_images(model.double(), images[:9])
    frozen = own.frozen(torch.from_numpy(images[:9]))
    expected = own.logits(own.normalize(torch.from_numpy(images[:9]))), screen(*frozen)
    # Views are kept in float32.
    np.testing.assert_allclose(views.logits, expected[0][:, 0].numpy(), rtol=1e-6, atol=1e-6)
    assert views.others.shape == (9, 2, COARSE, COARSE)
    np.testing.assert_allclose(views.others[:, 1], expected[1][:, 0].numpy(), rtol=1e-6, atol=1e-6)
    weights = np.array([0.7, 0.4, 0.2, -0.3])
    logits = maps._weighed(model.learned_map, views, weights)
    told = model.detect(torch.from_numpy(images[:9]))[1]
    torch.testing.assert_close(torch.sigmoid(logits[:, 0]), told, rtol=0, atol=1e-6, check_dtype=False)


def test_the_learned_map_of_a_package_is_left_aside(tmp_path: Path) -> None:
    package = write_package(tmp_path / "small.prn", screen=True)
    learned = dataclasses.replace(package.config, map="learned", score="learned", memory=7, screen_width=16)
    trained = small_model(learned)
    default = SimpleNamespace(
        config=learned, calibration_images=package.calibration_images, model=lambda: trained, screen=package.screen
    )
    model = maps.with_learned_map(default)
    assert (model.config.memory, model.config.screen_width, model.config.score) == (1000, 8, "published")
    torch.testing.assert_close(model.decoder.out.weight, trained.decoder.out.weight, rtol=0, atol=0)


def made_images(rng: np.random.Generator, kinds: np.ndarray, column: int | None = None) -> maps.Images:
    """Images whose views are noise, but for one that tells where the defects are, and the other says the opposite."""
    masks = np.zeros((len(kinds), SIDE, SIDE), bool)
    for index in np.flatnonzero(kinds != maps.NORMAL):
        top, left = 8 * rng.integers(0, COARSE - 2, 2)
        masks[index, top : top + 16, left : left + 16] = True
    views = Views(
        rng.normal(0, 1, masks.shape).astype(np.float32),
        rng.normal(0, 1, (len(kinds), 2, COARSE, COARSE)).astype(np.float32),
    )
    if column is not None:
        views.others[:, column] += 6 * masks[:, 4::8, 4::8]
        views.others[:, 1 - column] -= 6 * masks[:, 4::8, 4::8]
    return maps.Images(views, kinds, masks)


@pytest.fixture(scope="module")
def learned_map() -> LearnedMap:
    return LearnedMap(dataclasses.replace(small_config(), map="learned", memory=4, screen_width=8))


KINDS = np.repeat([maps.NORMAL, maps.ANOMALOUS, maps.UNSEEN, maps.SEEN], 10)


def test_maps_of_the_view_that_tells_are_better_and_those_of_noise_are_at_chance(learned_map: LearnedMap) -> None:
    rng = np.random.default_rng(0)
    images = made_images(rng, KINDS, column=0)
    found = maps.judge(learned_map, images, images, made_images(rng, KINDS[:20], column=0))
    told = ("generated", "seen", "unseen", "test")
    for name in ("network, memory: published", "network, memory: learned"):
        for kind in told:
            assert found[name][kind]["image"] == 1
            assert found[name][kind]["pixel"] > 0.9
    for name in ("network, screen: published", "network, screen: learned"):
        for kind in told:
            assert found[name][kind]["pixel"] < 0.7
            assert found[name][kind]["image"] < 0.9
    for kind in told:
        assert found["network: published"][kind]["pixel"] == pytest.approx(0.5, abs=0.05)


def test_unseen_defects_are_told_by_the_own_screen_and_seen_ones_by_those_that_do_not_know_them(
    learned_map: LearnedMap,
) -> None:
    rng = np.random.default_rng(0)
    own, test = made_images(rng, KINDS, column=1), made_images(rng, KINDS[:20], column=1)
    # The other screens tell generated anomalies, to which weights are fitted, and nothing of defects.
    blind = dataclasses.replace(own, views=Views(own.views.logits, own.views.others.copy()))
    real = np.isin(KINDS, (maps.UNSEEN, maps.SEEN))
    blind.views.others[real, 1] = rng.normal(0, 1, (20, COARSE, COARSE))
    found = maps.judge(learned_map, own, blind, test)["network, screen: published"]
    assert found["generated"]["pixel"] > 0.9
    assert found["unseen"]["pixel"] > 0.9
    assert found["seen"]["pixel"] < 0.7


def test_weights_of_views_that_are_left_out_are_zero() -> None:
    images = made_images(np.random.default_rng(0), KINDS, column=0)
    assert maps.fit_weights(images, maps.Mix(())).tolist() == [1, 0, 0, 0]
    network, memory, screen, _ = maps.fit_weights(images, maps.Mix((0,)))
    assert memory > network
    assert screen == 0
    assert maps.fit_weights(images, maps.Mix((1,)))[1] == 0


def test_unseen_defects_are_not_fitted_to_and_the_prior_weighs_as_many_as_it_should() -> None:
    images = made_images(np.random.default_rng(0), KINDS, column=1)
    weights = maps.fit_weights(images, maps.Mix((0, 1)))
    for view in (images.views.logits, images.views.others):
        view[images.kinds == maps.UNSEEN] = np.nan
    np.testing.assert_array_equal(maps.fit_weights(images, maps.Mix((0, 1))), weights)
    assert weights[1] == 0
    some, alone = (maps.fit_weights(images, maps.Mix((0, 1), prior)) for prior in (5, math.inf))
    assert 0 < some[1] / some[2] < alone[1] / alone[2]


def test_each_image_is_told_by_weights_that_were_fitted_without_it(
    learned_map: LearnedMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = made_images(np.random.default_rng(0), KINDS)
    images.views.logits[:] = np.arange(len(KINDS), dtype=np.float32)[:, None, None]
    fits, told = [], []
    fit, weigh = maps.fit_weights, maps._weighed

    def fits_to(chosen, mix):
        fits.append(set(chosen.views.logits[:, 0, 0].astype(int)))
        return fit(chosen, mix)

    def tells(learned, views, weights):
        told.append(set(views.logits[:, 0, 0].astype(int)))
        return weigh(learned, views, weights)

    monkeypatch.setattr(maps, "fit_weights", fits_to)
    monkeypatch.setattr(maps, "_weighed", tells)
    maps.held_out_logits(learned_map, images, (images,), maps.Mix((0, 1)))
    everything = set(range(len(KINDS)))
    assert len(told) == 5
    assert set.union(*told) == everything
    for fitted, left_out in zip(fits, told, strict=True):
        assert fitted == everything - left_out
        # A normal image and the anomaly that was made of it.
        assert {index + 10 for index in left_out if index < 10} == {index for index in left_out if 10 <= index < 20}


def test_scores_are_of_weights_that_were_fitted_without_the_image() -> None:
    logits = torch.from_numpy(made_images(np.random.default_rng(0), KINDS).views.logits[:, None])
    weights, noise = maps._fit_score(logits, logits, KINDS, 0)
    statistics = maps.map_statistics(logits).numpy()
    in_sample = statistics @ weights[:-1] + weights[-1]
    fitted = KINDS != maps.UNSEEN
    labels = (KINDS != maps.NORMAL).astype(int)[fitted]
    assert maps.image_metrics(noise[fitted], labels).auroc < 0.5 < maps.image_metrics(in_sample[fitted], labels).auroc
    logits[KINDS == maps.SEEN] += 3
    raised = logits.clone()
    raised[KINDS == maps.UNSEEN] += 3
    scores = maps._fit_score(logits, raised, KINDS, 0)[1]
    for kind in (maps.SEEN, maps.UNSEEN):
        assert scores[np.isin(KINDS, kind)].min() > scores[KINDS == maps.NORMAL].max()


def test_figures_are_of_one_kind_of_anomaly_beside_normal_images() -> None:
    images = made_images(np.random.default_rng(0), KINDS)
    found_seen = np.where(KINDS == maps.SEEN, 0.9, 0.1)
    found = found_seen[:, None, None] * images.masks
    draws = [found_seen, np.full(40, 0.5)]
    # By the second draw at chance.
    assert maps._figures(draws, found, images, maps.SEEN) == {"image": 0.75, "pixel": 1, "pro": 1, "ap": 1}
    assert maps._figures(draws, found * (KINDS == maps.SEEN)[:, None, None], images, maps.ANOMALOUS)["image"] == 0.5


def test_what_cannot_be_validated_is_named(taken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = Package.open(taken / "small.prn").manifest["training"]
    output = ("--output", str(tmp_path / MAPS_FILE), *DIRTY)
    write_package(tmp_path / "plain.prn", training=training)
    assert maps.main([str(tmp_path / "plain.prn"), *output]) == 2
    assert "has no screen; add one: prn-train --add-screen" in capsys.readouterr().err
    drawn = draw_seen(load_inspection_set(Path(training["data"]), "auto").test, maps.DRAWN, 0)[0]
    everything = [sample.path.relative_to(training["data"]).as_posix() for sample in drawn]
    write_package(tmp_path / "other.prn", training={**training, "seen": everything}, screen=True)
    assert maps.main([str(tmp_path / "other.prn"), *output]) == 2
    assert "has seen all 10 defects that seed 0 draws" in capsys.readouterr().err
    assert not (tmp_path / MAPS_FILE).exists()


def test_a_changed_checkout_records_nothing(
    taken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(maps, "commit", lambda: "0123456789ab-dirty")
    assert maps.main([str(taken / "small.prn"), "--output", str(tmp_path / MAPS_FILE)]) == 2
    assert "commit them, or give --allow-dirty" in capsys.readouterr().err


def test_a_package_that_has_seen_no_defect_is_validated_by_all_that_were_drawn(taken: Path, tmp_path: Path) -> None:
    training = Package.open(taken / "small.prn").manifest["training"]
    write_package(tmp_path / "none.prn", training={**training, "seen": []}, screen=True)
    one = maps.examine(tmp_path / "none.prn")
    assert (one["seen"], one["unseen"]) == (0, 10)
    assert all(set(kinds) == {"generated", "unseen", "test"} for kinds in one["candidates"].values())
    other = json.loads((taken / MAPS_FILE).read_text())["packages"][0]
    (tmp_path / MAPS_FILE).write_text(json.dumps({"packages": [one, other]}))
    (row,) = [line for line in maps.predictors_table(tmp_path).splitlines() if line.startswith("| image AUROC, seen")]
    # The other package's rank is that of the means.
    _, absent, *ranks, _ = [cell.strip() for cell in row.strip("|").split("|")]
    assert absent == "–"
    assert ranks[0] == ranks[1]


def test_what_ranks_as_the_test_does_has_a_correlation_of_one(taken: Path, tmp_path: Path) -> None:
    one = json.loads((taken / MAPS_FILE).read_text())["packages"][0]
    for number, found in enumerate(one["candidates"].values()):
        found["generated"] = dict.fromkeys(maps.FIGURES, 0.9 - 0.01 * number)
        found["seen"] = dict.fromkeys(maps.FIGURES, 0.9)
        found["unseen"] = dict.fromkeys(maps.FIGURES, 0.5 + 0.01 * number)
        found["test"] = {**dict.fromkeys(maps.FIGURES, 0.6 + 0.02 * number), "pixel": 0.5}
    other = copy.deepcopy(one) | {"seed": 1}
    (tmp_path / MAPS_FILE).write_text(json.dumps({"packages": [one, other]}))
    text = maps.predictors_table(tmp_path)
    assert "| image AUROC, generated | -1.00 | -1.00 | -1.00 | network: published: 0.600 |" in text
    assert "| image AUROC, seen, cross-fit | – | – | – | network: published: 0.600 |" in text
    last, best = maps.CANDIDATES[-1], 0.6 + 0.02 * (len(maps.CANDIDATES) - 1)
    assert f"| image AUROC, not seen | 1.00 | 1.00 | 1.00 | {last}: {best:.3f} |" in text
    # Where the test tells no difference there is no rank.
    assert "| pixel AUROC, generated | – | – | – | network: published: 0.500 |" in text


@pytest.mark.parametrize("content", ["[]", '{"packages": [{"candidates": {}}]}', "{"])
def test_a_file_of_another_kind_is_named(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / MAPS_FILE).write_text(content)
    assert maps.main(["some.prn", "--output", str(tmp_path / MAPS_FILE), *DIRTY]) == 2
    assert "holds no figures of maps" in capsys.readouterr().err
