"""The picture of the worst: which images, from which engine, and how large."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prn_fast.bench.accuracy import failures
from prn_fast.bench.accuracy.failures import failure_figures, write_failures
from prn_fast.bench.accuracy.run import StudySettings
from prn_fast.data.images import write_image
from prn_fast.data.samples import Sample
from prn_fast.errors import ConfigError, DataError
from prn_fast.training.sheet import draw_sheet
from tests.bench.accuracy.conftest import COMMIT


@pytest.fixture
def package(trained: StudySettings) -> Path:
    return next((trained.folder / COMMIT).glob("*.prn"))


@pytest.fixture
def evaluation(trained: StudySettings, tmp_path: Path) -> Path:
    source = next((trained.folder / COMMIT).glob("*-eval/evaluation.json"))
    return Path(shutil.copy(source, tmp_path / "evaluation.json"))


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_worst_come_first_in_a_small_picture(
    package: Path, evaluation: Path, trained: StudySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def draw(title, lines, note, rows):
        drawn.append((title, rows))
        return draw_sheet(title, lines, note, rows)

    monkeypatch.setattr(failures, "draw_sheet", draw)
    picture = tmp_path / "failures.jpg"
    assert "images, " in write_failures(package, evaluation, trained.data, picture)
    assert picture.stat().st_size <= failures.MAX_BYTES
    assert Image.open(picture).format == "JPEG"
    ((title, rows),) = drawn
    result = json.loads(evaluation.read_text())
    assert title == f"{package.name} on wood, optimized, commit {result['commit']}"
    good = sorted((image["score"] for image in result["images"] if not image["label"]), reverse=True)
    heading, first = next(iter(rows.items()))
    alarms = result["confusion"]["false_alarms"]
    assert heading == f"good: {alarms} of {len(good)} are false alarms; the highest scores"
    assert [shown.scored.score for shown in first] == good[: failures.PER_KIND]
    assert sum(len(images) for images in rows.values()) == len(result["images"])


def test_one_part_does_not_fill_a_row(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    surfaces = [rng.integers(0, 256, (48, 48, 1), np.uint8) for _ in range(3)]
    parts = {"a0": 0, "a1": 0, "a2": 0, "b0": 1, "b1": 1, "c0": 2}
    samples, images = {}, []
    for position, (name, part) in enumerate(parts.items()):
        write_image(tmp_path / f"{name}.png", surfaces[part])
        samples[name] = Sample(tmp_path / f"{name}.png", 1, "crack")
        images.append({"path": name, "kind": "crack", "label": 1, "score": 0.1 * position})
    chosen = failures._worst({"images": images}, "crack", samples)
    assert [image["path"] for image in chosen] == ["a0", "b0", "c0"]
    chosen = failures._worst({"images": images[:4]}, "crack", samples)
    assert [image["path"] for image in chosen] == ["a0", "a1", "b0"]


def test_another_package_or_other_scores_are_refused(
    package: Path, evaluation: Path, trained: StudySettings, tmp_path: Path
) -> None:
    picture = tmp_path / "failures.jpg"
    images = json.loads(evaluation.read_text())["images"]
    change(evaluation, images=[image | {"raw_score": 1 - image["raw_score"]} for image in images])
    with pytest.raises(ConfigError, match="gives scores that differ"):
        write_failures(package, evaluation, trained.data, picture)
    change(evaluation, images=[image | {"path": f"elsewhere/{image['path']}"} for image in images])
    with pytest.raises(DataError, match="holds no test image elsewhere"):
        write_failures(package, evaluation, trained.data, picture)
    change(evaluation, package={"digest": "0"})
    with pytest.raises(ConfigError, match="another package"):
        write_failures(package, evaluation, trained.data, picture)
    assert not picture.exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"package": {}}'])
def test_what_is_no_evaluation_is_refused(text: str, package: Path, trained: StudySettings, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"other\.json: cannot be read as a result of prn-eval"):
        write_failures(package, path, trained.data, tmp_path / "failures.jpg")


def test_a_noisy_picture_is_compressed_until_it_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "MAX_BYTES", 60_000)
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    failures._write_jpeg(noise, tmp_path / "noise.jpg")
    assert (tmp_path / "noise.jpg").stat().st_size <= 60_000


def test_the_page_shows_the_picture_once_there_is_one(tmp_path: Path) -> None:
    picture = tmp_path / "accuracy-failures.jpg"
    assert failure_figures(picture) == ""
    picture.touch()
    assert failure_figures(picture).endswith("](accuracy-failures.jpg)")
