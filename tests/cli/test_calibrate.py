"""prn-calibrate on a small package and images of a line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from prn_fast.cli.calibrate import main
from prn_fast.data.images import write_image
from prn_fast.engine import open_engine
from prn_fast.errors import ConfigError
from prn_fast.package import Package
from prn_fast.training.line_calibration import LineImages, calibrate_on_line
from tests.small_package import add_small_screen, textured_images

GOOD, DEFECTS = 60, 12


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of a line: good ones, and two kinds that stand for defects."""
    folder = tmp_path_factory.mktemp("line")
    images = textured_images(GOOD + DEFECTS, 1, 11)
    for number, image in enumerate(images):
        kind = "good" if number < GOOD else f"defects/{'dent' if number % 3 else 'hole'}"
        (folder / kind).mkdir(parents=True, exist_ok=True)
        write_image(folder / kind / f"{number:03}.png", image)
    return folder


def test_the_threshold_comes_from_the_images_of_the_line(package: Package, line: Path, capsys) -> None:
    files = dict(package.manifest["files"])
    before = package.manifest["calibration"]
    assert main([str(package.path), "--good", str(line / "good"), "--defects", str(line / "defects")]) == 0
    after = Package.open(package.path)
    entry = after.manifest["calibration"]
    assert after.manifest["files"] == files
    assert after.manifest["former_calibrations"] == [{"calibration": before}]
    assert entry["pixel_threshold"] == before["pixel_threshold"]
    assert (entry["normals"], entry["false_alarm_rate"], entry["promised_rate"]) == (GOOD, 2 / 61, 2 / 61)
    assert entry["source"] == str(line / "good")
    assert entry["date"]
    with open_engine(after) as engine:
        found = engine.infer(textured_images(GOOD + DEFECTS, 1, 11))
    assert found.defective[:GOOD].sum() == 1
    assert entry["threshold"] == np.nextafter(np.sort(found.raw_scores[:GOOD])[-2], np.float32(1))
    detected = int(found.defective[GOOD:].sum())
    assert sum(row["detected"] for row in entry["kinds"].values()) == detected
    assert {kind: row["defects"] for kind, row in entry["kinds"].items()} == {"dent": 8, "hole": 4}
    printed = " ".join(capsys.readouterr().out.split())
    assert f"detected: {detected} of {DEFECTS} defects" in printed
    page = (package.path.parent / "fresh-calibration.html").read_text()
    assert page.count("<svg") == 3
    assert "promise at most 3.28% false alarms" in page
    assert f"{GOOD - 1} called good" in page


def test_undo_brings_back_one_calibration_after_the_other(package: Package, line: Path, capsys) -> None:
    first = package.manifest["calibration"]
    assert main([str(package.path), "--good", str(line / "good")]) == 0
    second = Package.open(package.path).manifest["calibration"]
    assert main([str(package.path), "--good", str(line / "good"), "--false-alarm-rate", "0.1"]) == 0
    assert Package.open(package.path).calibration("threshold") < second["threshold"]
    for expected in (second, first):
        assert main([str(package.path), "--undo"]) == 0
        assert Package.open(package.path).manifest["calibration"] == expected
    assert main([str(package.path), "--undo"]) == 2
    assert "nothing to undo" in capsys.readouterr().err


def test_a_dry_run_writes_the_page_alone(package: Package, line: Path, tmp_path: Path) -> None:
    page = tmp_path / "deep" / "page.html"
    assert main([str(package.path), "--good", str(line / "good"), "--dry-run", "--html", str(page)]) == 0
    assert Package.open(package.path).digest == package.digest
    assert "Detection against false alarms" not in page.read_text()


@pytest.mark.parametrize(("rate", "needed"), [("0.01", "99"), ("0.001", "999")])
def test_a_rate_that_so_few_images_cannot_promise_is_refused(
    package: Package, line: Path, capsys, rate, needed
) -> None:
    assert main([str(package.path), "--good", str(line / "good"), "--false-alarm-rate", rate]) == 2
    told = capsys.readouterr().err
    assert f"60 good images can promise no false-alarm rate below 0.016; {rate} takes {needed} good images" in told
    assert Package.open(package.path).digest == package.digest


def test_too_few_images_for_any_rate_are_refused(package: Package, line: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "few").mkdir()
    for name in ("000.png", "001.png"):
        shutil.copy(line / "good" / name, tmp_path / "few" / name)
    # A copy says nothing new.
    shutil.copy(line / "good" / "000.png", tmp_path / "few" / "copy.png")
    assert main([str(package.path), "--good", str(tmp_path / "few")]) == 2
    assert "2 good images can promise no false-alarm rate below 0.33; it takes 9 for 10 %" in capsys.readouterr().err


def test_images_of_the_training_are_refused(package: Package, line: Path, tmp_path: Path, capsys) -> None:
    good = Path(shutil.copytree(line / "good", tmp_path / "good"))
    write_image(good / "trained.png", package.calibration_images()[0])
    assert main([str(package.path), "--good", str(good)]) == 2
    assert "trained.png: training has seen this image" in capsys.readouterr().err


def test_a_picture_that_is_good_and_defective_is_refused(package: Package, line: Path, tmp_path: Path, capsys) -> None:
    shutil.copy(line / "good" / "003.png", tmp_path / "dent.png")
    assert main([str(package.path), "--good", str(line / "good"), "--defects", str(tmp_path)]) == 2
    assert "which is given as good" in capsys.readouterr().err


def test_good_images_among_the_defects_are_refused(package: Package, line: Path, tmp_path: Path, capsys) -> None:
    test_side = Path(shutil.copytree(line / "defects", tmp_path / "test"))
    (test_side / "good").mkdir()
    write_image(test_side / "good" / "0.png", textured_images(1, 1, 12)[0])
    assert main([str(package.path), "--good", str(line / "good"), "--defects", str(test_side)]) == 2
    assert "test/good: holds good images by its name" in capsys.readouterr().err
    assert Package.open(package.path).digest == package.digest


def test_early_exit_is_switched_off_by_a_lower_threshold_and_comes_back(package: Package) -> None:
    add_small_screen(package)
    lower = {**package.manifest["calibration"], "threshold": package.calibration("threshold") / 2}
    opened = Package.open(package.path)
    before = opened.manifest["screen"]
    assert before["cut"] is not None
    assert opened.recalibrate(lower)
    assert json.loads((package.path / "manifest.json").read_text())["screen"]["cut"] is None
    opened.undo_calibration()
    assert opened.manifest["screen"] == before
    higher = {**package.manifest["calibration"], "threshold": 0.99}
    assert not opened.recalibrate(higher)
    assert opened.manifest["screen"] == before


def test_images_that_would_leave_early_set_the_threshold_by_the_networks_scores(package: Package, line: Path) -> None:
    """A screen's score says nothing of where the network's threshold should be."""
    add_small_screen(package)
    package = Package.open(package.path)
    images = textured_images(GOOD + DEFECTS, 1, 11)[:GOOD]
    with open_engine(package) as engine:
        assert engine.leaves_early
        assert engine.infer(images).exited.sum() > GOOD // 10
    assert main([str(package.path), "--good", str(line / "good"), "--false-alarm-rate", "0.2"]) == 0
    entry = Package.open(package.path).manifest["calibration"]
    with open_engine(package, early_exit=False) as engine:
        scores = np.sort(engine.infer(images).raw_scores)[::-1]
    np.testing.assert_allclose(entry["highest_scores"], scores[: len(entry["highest_scores"])], atol=1e-5)
    assert entry["reference"]["score"][0] == pytest.approx(scores[-1], abs=1e-4)


def test_an_engine_that_lets_images_leave_calibrates_nothing(package: Package, line: Path) -> None:
    add_small_screen(package)
    package = Package.open(package.path)
    images = LineImages(tuple(sorted((line / "good").iterdir())))
    with open_engine(package) as engine, pytest.raises(ConfigError, match=r"the screen's scores .*early_exit=False"):
        calibrate_on_line(package, engine, images, None, "here")


def test_the_reference_says_whose_scores_it_holds(package: Package, line: Path) -> None:
    """Scores of an int8 engine are not those of float32: drift compares them with their own kind only."""
    images = LineImages(tuple(sorted((line / "good").iterdir())))
    with open_engine(package) as engine:
        for name, kind in (("optimized", "fp32"), ("openvino:int8", "int8")):
            engine.name = name
            assert calibrate_on_line(package, engine, images, None, "here").entry["reference"]["precision"] == kind
