"""Image scores on the maps of a trained package, and which validation ranks them as the test does."""

import copy
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from prn_fast.bench.accuracy import __main__ as command
from prn_fast.bench.accuracy import scores
from prn_fast.bench.accuracy.record import SCORES_FILE
from prn_fast.data.synthetic import write_synthetic_surfaces
from prn_fast.package import Package
from prn_fast.training.recipe import QUICK
from tests.small_package import SIDE, small_model, write_package

DIRTY = ("--allow-dirty",)


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package, its data and its figures."""
    folder = tmp_path_factory.mktemp("scores")
    data = write_synthetic_surfaces(folder / "wood", side=SIDE, train=10, good=3, defects=4, materials=("wood",))
    seen = next(path for path in sorted((data / "test").rglob("*.png")) if path.parent.name != "good")
    training = {
        "data": str(data),
        "layout": "auto",
        "seen": [seen.relative_to(data).as_posix()],
        "epochs": 1,
        "recipe": dataclasses.replace(QUICK, screen_steps=2).to_dict(),
    }
    write_package(folder / "small.prn", training=training, screen=True)
    assert command.main(["scores", str(folder / "small.prn"), "--output", str(folder / SCORES_FILE), *DIRTY]) == 0
    return folder


def test_every_score_is_taken_on_seen_and_generated_anomalies_and_the_test(taken: Path) -> None:
    (one,) = json.loads((taken / SCORES_FILE).read_text())["packages"]
    assert (one["data"], one["epochs"], one["seen"], one["held_out_normals"], one["test_images"]) == (
        "wood",
        1,
        1,
        12,
        6,
    )
    with_screen = [name for name in scores.LEARNED if "screen" in name]
    assert set(one["scores"]) == {
        *scores.CANDIDATES,
        *(name + scores.UNSEEN for name in scores.LEARNED),
        *(name + scores.KNOWN for name in with_screen),
    }
    assert set(one["scores"]["learned: map, screen"]) == {scores.CROSS_FIT, "generated", "test"}
    assert set(one["rules"]["published"]) == {scores.CROSS_FIT, "seen", "generated", "test"}
    for figures in (*one["scores"].values(), *one["rules"].values()):
        assert all(0 <= value <= 1 for value in figures.values())
    text = scores.scores_table(taken)
    assert f"| **{scores.choose_score([one])}** |" in text
    assert "Seen defects and held-out normal images: wood 1 and 12." in text
    assert scores.scores_table(taken / "nowhere") == scores.predictors_table(taken / "nowhere") == ""


def test_what_is_taken_is_not_taken_again(taken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "score_package", lambda path: pytest.fail("taken again"))
    assert scores.main([str(taken / "small.prn"), "--output", str(taken / SCORES_FILE), *DIRTY]) == 0


def package_figures(data: str, **seen: float) -> dict[str, Any]:
    """Figures of a package: some scores on seen defects, 0.5 elsewhere; tests that say the opposite."""
    found = {name: seen.get(name.split(":")[0], 0.5) for name in scores.CANDIDATES}
    others = {"seen": 0.5, "generated": 0.5}
    return {
        "data": data,
        "scores": {name: {scores.CROSS_FIT: value, **others, "test": 1 - value} for name, value in found.items()},
    }


def test_each_product_counts_once_however_many_packages_it_has() -> None:
    packages = [
        package_figures("tile", published=0.9, learned=0.6),
        package_figures("tile", published=0.9, learned=0.8),
        package_figures("cloth", published=0.5, learned=0.9),
    ]
    assert scores.mean_figures(packages, "published")[scores.CROSS_FIT] == pytest.approx(0.7)
    assert scores.mean_figures(packages, "learned: map")[scores.CROSS_FIT] == pytest.approx(0.8)
    assert scores.choose_score(packages) == "learned: map"


@pytest.mark.parametrize(("learned", "chosen"), [(0.805, "published"), (0.815, "learned: map"), (0.7, "published")])
def test_the_cheapest_is_chosen_within_the_noise(learned: float, chosen: str) -> None:
    assert scores.choose_score([package_figures("tile", published=0.8, learned=learned)]) == chosen


def test_fitted_scores_of_noise_are_validated_at_chance() -> None:
    rng = np.random.default_rng(0)
    statistics = {
        part: rng.normal(0, 1, (count, len(scores.NAMES))).astype(np.float32)
        for part, count in (("validation", 80), ("seen", 10), ("test", 40))
    }
    labels = {"validation": np.repeat([0, 1], 40), "test": np.repeat([0, 1], 20)}
    found = scores._learned(statistics, statistics, statistics, labels, scores.NAMES)
    assert found[scores.CROSS_FIT] < 0.6
    assert found["generated"] < 0.6


def test_an_average_takes_statistics_in_units_of_good_images() -> None:
    statistics = {part: np.zeros((4, len(scores.NAMES)), np.float32) for part in ("validation", "seen", "test")}
    pixels, memory = (scores.NAMES.index(name) for name in scores.AVERAGES["average: map, memory"])
    statistics["validation"][:2, pixels], statistics["validation"][:2, memory] = (-1, 1), (90, 110)
    statistics["test"][:, pixels], statistics["test"][:, memory] = (0, 3, 0, 3), (100, 100, 130, 130)
    labels = {"validation": np.array([0, 0, 1, 1])}
    found = scores._average(statistics, labels, scores.AVERAGES["average: map, memory"])
    np.testing.assert_allclose(found["test"], [0, 1.5, 1.5, 3])


def test_what_cannot_be_validated_is_named(taken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = Package.open(taken / "small.prn").manifest["training"]
    output = ("--output", str(tmp_path / SCORES_FILE), *DIRTY)
    write_package(tmp_path / "plain.prn", training=training)
    assert scores.main([str(tmp_path / "plain.prn"), *output]) == 2
    assert "has no screen; add one: prn-train --add-screen" in capsys.readouterr().err
    write_package(tmp_path / "unseen.prn", training={**training, "seen": []})
    assert scores.main([str(tmp_path / "unseen.prn"), *output]) == 2
    assert "has seen no defect" in capsys.readouterr().err
    assert not (tmp_path / SCORES_FILE).exists()


def test_a_changed_checkout_records_nothing(
    taken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scores, "commit", lambda: "0123456789ab-dirty")
    assert scores.main([str(taken / "small.prn"), "--output", str(tmp_path / SCORES_FILE)]) == 2
    assert "commit them, or give --allow-dirty" in capsys.readouterr().err


def test_what_ranks_as_the_test_does_has_a_correlation_of_one(taken: Path, tmp_path: Path) -> None:
    one = json.loads((taken / SCORES_FILE).read_text())["packages"][0]
    for number, rule in enumerate(one["rules"].values()):
        rising = 0.5 + 0.01 * number
        rule.update({"generated": 0.9 - 0.01 * number, "seen": rising, scores.CROSS_FIT: rising})
        rule["test"] = 0.6 + 0.02 * number
    other = copy.deepcopy(one) | {"seed": 1}
    (tmp_path / SCORES_FILE).write_text(json.dumps({"packages": [one, other]}))
    text = scores.predictors_table(tmp_path)
    last = list(one["rules"])[-1]
    assert "| generated | -1.00 | -1.00 | -1.00 | published: 0.600 |" in text
    largest = f"{0.6 + 0.02 * (len(one['rules']) - 1):.3f}"
    for kind in ("seen", scores.CROSS_FIT):
        assert f"| {kind} | 1.00 | 1.00 | 1.00 | {last}: {largest} |" in text


def test_records_of_earlier_versions_are_chosen_by_the_packages_screen(taken: Path, tmp_path: Path) -> None:
    one = json.loads((taken / SCORES_FILE).read_text())["packages"][0]
    for figures in (*one["scores"].values(), *one["rules"].values()):
        figures.pop(scores.CROSS_FIT)
    for name in scores.CANDIDATES:
        one["scores"][name]["seen"] = 0.9 if name == "learned: map" else 0.5
    for name in one["scores"]:
        one["scores"][name].setdefault("seen", 0.5)
    assert scores.choose_score([one]) == "learned: map"
    (tmp_path / SCORES_FILE).write_text(json.dumps({"packages": [one]}))
    assert "| **learned: map** | 0.900 / " in scores.scores_table(tmp_path)
    assert scores.CROSS_FIT not in scores.predictors_table(tmp_path)


def test_a_file_of_another_kind_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / SCORES_FILE).write_text("[]")
    assert scores.main(["some.prn", "--output", str(tmp_path / SCORES_FILE), *DIRTY]) == 2
    assert "holds no figures of image scores" in capsys.readouterr().err


def test_a_package_whose_score_reads_its_screen_is_measured_like_others(tmp_path: Path) -> None:
    package = write_package(tmp_path / "small.prn", screen=True)
    learned = dataclasses.replace(package.config, score="learned", screen_width=8)
    default = SimpleNamespace(
        config=learned, calibration_images=package.calibration_images, model=lambda: small_model(learned)
    )
    images, screen = package.calibration_images()[:2], package.screen()
    _, statistics, others = scores.measure(scores.with_memory(default), screen, images, [screen, screen, screen])
    assert statistics.shape == (2, len(scores.NAMES))
    assert others.shape == (3, 2, len(scores.SCREEN_STATISTICS))
    np.testing.assert_array_equal(others[1], statistics[:, -3:])


def test_seen_defects_are_told_by_screens_that_have_not_seen_them_and_tests_by_the_packages_own() -> None:
    labels = {"validation": np.array([0, 0, 1, 1]), "test": np.array([0, 1])}
    known = {"validation": np.array([0.0, 0, 1, 1]), "seen": np.array([1.0, 1]), "test": np.array([0.0, 1])}
    blind = {"validation": np.array([1.0, 1, 1, 1]), "seen": np.array([0.0, 0])}
    assert scores._found(known, blind, labels) == {scores.CROSS_FIT: 0.0, "seen": 1.0, "generated": 1.0, "test": 1.0}


def test_a_learned_score_is_fitted_to_one_kind_of_statistics_and_judged_by_another() -> None:
    labels = {"validation": np.repeat([0, 1], 10), "test": np.array([0, 1])}
    column = scores.NAMES.index(scores.SCREEN_STATISTICS[0])

    def statistics(normal: float, generated: float, seen: float) -> dict[str, np.ndarray]:
        values = {"validation": np.repeat([normal, generated], 10), "seen": np.full(10, seen), "test": [0.0, 1.0]}
        made = {part: np.zeros((len(one), len(scores.NAMES)), np.float32) for part, one in values.items()}
        for part, one in values.items():
            made[part][:, column] = one
        return made

    known, blind = statistics(0, 1, 1), statistics(0, 1, -1)
    names = scores.LEARNED["learned: map, screen"]
    assert scores._learned(known, known, known, labels, names)[scores.CROSS_FIT] == 1.0
    figures = scores._learned(known, known, blind, labels, names)
    # Fitted to a screen that knows the seen defects, which others give a lower value than good images.
    assert (figures[scores.CROSS_FIT], figures["test"]) == (0.0, 1.0)
