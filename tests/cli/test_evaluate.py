"""prn-eval on small real packages (untrained) and synthetic surfaces."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prn_fast.cli.evaluate import main
from prn_fast.data.duplicates import Fingerprint
from prn_fast.data.images import read_image, resize_image
from prn_fast.data.layouts.mvtec import load as load_mvtec
from prn_fast.data.samples import load_samples
from prn_fast.data.synthetic import write_synthetic_surfaces
from prn_fast.engine import open_engine
from prn_fast.files import held
from prn_fast.package import Package, ValidationSet, serialize_manifest
from prn_fast.paths import shown_path
from prn_fast.training.calibration import calibrate
from prn_fast.training.test_time_augmentation import FlipAveragedEngine
from tests.small_package import SIDE, small_config, small_model, write_package

SEEN = 2


@pytest.fixture(scope="module")
def surfaces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "surfaces"
    return write_synthetic_surfaces(folder, side=96, train=16, good=5, defects=9, materials=["brushed_metal"])


@pytest.fixture(scope="module")
def package(surfaces: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    normals, masks = load_samples(load_mvtec(surfaces).train, SIDE, 1)
    defects = [sample for sample in load_mvtec(surfaces).test if sample.label]
    return Package.create(
        tmp_path_factory.mktemp("package") / "metal.prn",
        small_model(small_config()),
        calibration_images=normals,
        validation=ValidationSet(normals, np.zeros(len(normals), np.int64), masks),
        calibration={"threshold": 0.5, "pixel_threshold": 0.5},
        training={
            "data": str(surfaces),
            "seen": [sample.path.relative_to(surfaces).as_posix() for sample in defects[:SEEN]],
        },
    )


def rewritten(package: Package, target: Path, **changes: dict) -> Path:
    """A copy of the package with other fields in its manifest."""
    shutil.copytree(package.path, target)
    (target / "manifest.json").write_bytes(serialize_manifest({**package.manifest, **changes}))
    return target


def test_evaluation_of_the_training_data(package: Package, surfaces: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(package.path)]) == 0
    output = package.path.parent / "metal-eval"
    result = json.loads((output / "evaluation.json").read_text())
    assert result["engine"] == "optimized"
    assert result["package"]["digest"] == package.digest
    assert result["command"] == f"prn-eval {package.path}"
    assert result["data"] == str(surfaces)
    assert result["commit"]
    assert result["date"].startswith("20")
    assert result["seen"] == {"listed": SEEN, "left_out": SEEN, "near_duplicates": 0}

    scored = {image["path"]: image for image in result["images"]}
    assert len(scored) == 5 + 9 - SEEN
    assert result["unseen_parts"] == {"good": 5, "image_auroc": result["image"]["auroc"]}
    assert not set(package.manifest["training"]["seen"]) & set(scored)
    # The scores are the engine's, of the very files that the result names.
    samples = [sample for sample in load_mvtec(surfaces).test if sample.path.relative_to(surfaces).as_posix() in scored]
    images, _ = load_samples(samples, SIDE, 1)
    with open_engine(package, "eager") as engine:
        expected = engine.infer(images)
    found = [scored[sample.path.relative_to(surfaces).as_posix()] for sample in samples]
    np.testing.assert_allclose([image["score"] for image in found], expected.scores, rtol=1e-4)
    np.testing.assert_allclose([image["raw_score"] for image in found], expected.raw_scores, rtol=1e-5)
    assert [image["defect"] for image in found] == expected.defective.tolist()

    with Image.open(output / "sheet.png") as sheet:
        assert sheet.width > 1000
    printed = capsys.readouterr().out
    assert f"left out: {SEEN} anomalies that training has seen" in printed
    assert "false alarms" in printed
    for row in result["kinds"]:
        assert row["kind"] in printed


def test_paths_of_results_can_be_chosen(package: Package, surfaces: Path, tmp_path: Path) -> None:
    json_file, sheet_file = tmp_path / "a" / "figures.json", tmp_path / "b" / "pictures.png"
    arguments = ["--data", str(surfaces), "--engine", "eager", "--output", str(tmp_path / "out")]
    assert main([str(package.path), *arguments, "--json", str(json_file), "--sheet", str(sheet_file)]) == 0
    assert json.loads(json_file.read_text())["image_size"] == SIDE
    assert sheet_file.is_file()
    assert not list((tmp_path / "out").iterdir())


def test_copy_of_the_data_elsewhere_leaves_the_seen_out_too(
    package: Package, surfaces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(surfaces, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    assert main([str(package.path), "--data", "./copy", "--output", "out"]) == 0
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert result["seen"] == {"listed": SEEN, "left_out": SEEN, "near_duplicates": 0}
    assert all(image["path"].startswith("test/") for image in result["images"])


def test_other_pictures_of_a_seen_part_and_of_a_training_part_are_told(
    package: Package, surfaces: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = Path(shutil.copytree(surfaces, tmp_path / "copy"))
    seen = data / package.manifest["training"]["seen"][0]
    again = seen.with_name("900.png")
    shutil.copy(seen, again)
    masks = data / "ground_truth" / seen.parent.name
    shutil.copy(masks / f"{seen.stem}_mask.png", masks / "900_mask.png")
    shutil.copy(min((data / "train" / "good").iterdir()), data / "test" / "good" / "900.png")
    assert main([str(package.path), "--data", str(data), "--output", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert result["seen"] == {"listed": SEEN, "left_out": SEEN, "near_duplicates": 1}
    assert again.relative_to(data).as_posix() not in {image["path"] for image in result["images"]}
    assert result["unseen_parts"]["good"] == 5
    scores = {label: [row["score"] for row in result["images"] if row["label"] == label] for label in (0, 1)}
    scores[0] = [row["score"] for row in result["images"] if not row["label"] and not row["path"].endswith("900.png")]
    pairs = [(bad > good) + 0.5 * (bad == good) for bad in scores[1] for good in scores[0]]
    assert result["unseen_parts"]["image_auroc"] == pytest.approx(np.mean(pairs))
    printed = " ".join(capsys.readouterr().out.split())
    assert f"left out: {SEEN} anomalies that training has seen, and other pictures of the same parts: 1" in printed
    assert "good images of parts that no training image shows: 5 of 6; with these alone, AUROC" in printed


def test_renamed_copies_are_left_out_where_the_package_keeps_fingerprints(
    package: Package, surfaces: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = Path(shutil.copytree(surfaces, tmp_path / "copy"))
    samples = {sample.path.relative_to(data).as_posix(): sample for sample in load_mvtec(data).test}
    training = package.manifest["training"]
    seen = [samples[name] for name in training["seen"]]
    kept = [Fingerprint.of(sample).to_dict() for sample in seen]
    path = rewritten(package, tmp_path / "kept.prn", training={**training, "seen_fingerprints": kept})
    for number, sample in enumerate(seen):
        sample.path.rename(sample.path.with_stem(f"90{number}"))
        sample.mask.rename(sample.mask.with_stem(f"90{number}_mask"))
    assert main([str(path), "--data", str(data), "--output", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert result["seen"] == {"listed": SEEN, "left_out": 0, "near_duplicates": SEEN}
    left_out = {row["path"]: row["why"] for row in result["left_out"]}
    assert set(left_out.values()) == {"near duplicate of a seen one"}
    assert {Path(name).stem for name in left_out} == {f"90{number}" for number in range(SEEN)}
    assert len(result["images"]) == 5 + 9 - SEEN
    assert "looked for under other names" in " ".join(capsys.readouterr().out.split())


@pytest.mark.long
def test_flips_are_scored_by_a_calibration_of_their_own(surfaces: Path, tmp_path: Path) -> None:
    package = write_package(tmp_path / "small.prn")
    arguments = [str(package.path), "--data", str(surfaces), "--engine", "eager", "--flips"]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    flips = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert flips["engine"] == "eager, flips"
    validation = package.validation()
    with open_engine(package, "eager") as engine:
        mirrored = FlipAveragedEngine(engine)
        expected = calibrate(mirrored.infer(validation.images), validation)
        samples = [surfaces / image["path"] for image in flips["images"]]
        images = np.stack([resize_image(read_image(path, 1), SIDE) for path in samples])
        scores = mirrored.infer(images).raw_scores
    assert flips["threshold"] == pytest.approx(expected["threshold"], rel=1e-4)
    assert flips["pixel_threshold"] == pytest.approx(expected["pixel_threshold"], rel=1e-4)
    np.testing.assert_allclose([image["raw_score"] for image in flips["images"]], scores, rtol=1e-4)


def test_seen_anomalies_that_are_not_found_are_reported(
    package: Package, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = write_synthetic_surfaces(
        tmp_path / "other", seed=1, side=96, train=1, good=2, defects=2, materials=["wood"]
    )
    assert main([str(package.path), "--data", str(other), "--output", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert result["seen"] == {"listed": SEEN, "left_out": 0, "near_duplicates": 0}
    assert f"the package lists {SEEN}" in " ".join(capsys.readouterr().out.split())


def test_prediction_on_a_plain_folder(package: Package, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "camera"
    (folder / "line 2").mkdir(parents=True)
    for name, shape in {"part.png": (70, 90), "part.jpg": (64, 64, 3), "line 2/part.png": (200, 64)}.items():
        Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(folder / name)
    output = tmp_path / "out"
    assert main([str(package.path), "--images", str(folder), "--output", str(output)]) == 0

    lines = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == ["line 2/part.png", "part.jpg", "part.png"]
    with (output / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = ("score", "raw_score")
    assert [{**row, **{name: float(row[name]) for name in numbers}} for row in rows] == lines
    for line in lines:
        assert line["verdict"] == ("defect" if line["score"] >= 0.5 else "good")
        values = np.asarray(Image.open(output / line["map"]))
        assert values.shape == (SIDE, SIDE)
        # The score is the mean of the 100 largest pixels; the picture has 256 levels.
        assert np.sort(values, axis=None)[-100:].mean() / 255 == pytest.approx(line["raw_score"], abs=0.5 / 255)
    assert len({line["map"] for line in lines}) == 3
    assert "3 images" in capsys.readouterr().out


def test_prediction_on_names_of_all_kinds(package: Package, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, output = tmp_path / "camera", tmp_path / "out"
    long = "é" * 123 + ".png"
    names = ["a.png", "a.png.png/b.png", "[red] 1.png", long, "caf\udce9.png", "scan.tif", "picture.webp", "grey.pgm"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (40, 40), 90).save(folder / name)
    pages = [Image.new("L", (40, 40), level) for level in (1, 2, 3)]
    pages[0].save(folder / "scan.tif", save_all=True, append_images=pages[1:])
    (folder / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "notes.txt").touch()
    assert main([str(package.path), "--images", str(folder), "--output", str(output)]) == 0
    lines = [json.loads(line) for line in (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["path"] for line in lines} == {*names} - {"caf\udce9.png"} | {r"caf\xe9.png"}
    maps = [path for path in (output / "maps").rglob("*") if path.is_file()]
    assert sorted(shown_path(path, output) for path in maps) == sorted(line["map"] for line in lines)
    assert len(maps) == len(names)
    captured = capsys.readouterr()
    assert f"{len(names)} images" in captured.out
    told = "passed over: 2 further pages, 1 dangling link, 1 .txt, 1 FIFO: gone.png, pipe.png, scan.tif"
    assert captured.err == f"{folder}: {told}\n"
    with (output / "passed_over.csv").open(newline="") as file:
        rows = [(row["path"], row["why"]) for row in csv.DictReader(file)]
    assert rows == [
        ("gone.png", "dangling link"),
        ("notes.txt", ".txt"),
        ("pipe.png", "FIFO"),
        ("scan.tif", "further page"),
        ("scan.tif", "further page"),
    ]


def test_maps_are_not_written_where_a_link_among_the_images_leads(
    package: Package, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, output = tmp_path / "camera", tmp_path / "out"
    for path in (folder / "a.png", output / "maps" / "a.png.png"):
        path.parent.mkdir(parents=True)
        Image.new("L", (40, 40), 90).save(path)
    (folder / "link").symlink_to(output)
    error = error_of([str(package.path), "--images", str(folder), "--output", str(output)], capsys)
    assert "a link in" in error


def test_named_parts_decide_what_is_left_out(
    package: Package, surfaces: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    names = [
        path.relative_to(surfaces).as_posix() for side in ("train", "test") for path in (surfaces / side).rglob("*.png")
    ]
    part_of = dict(zip(names, names, strict=True))
    seen = package.manifest["training"]["seen"]
    other = min(name for name in names if name.startswith("test/") and "/good/" not in name and name not in seen)
    trained = min(name for name in names if name.startswith("train/"))
    good = min(name for name in names if name.startswith("test/good/"))
    part_of |= {seen[0]: "A", other: "A", trained: "B", good: "B"}
    table = tmp_path / "parts.csv"
    table.write_text("".join(f"{name},{part}\n" for name, part in part_of.items()))
    assert main([str(package.path), "--parts", str(table), "--output", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert result["parts_told_by"] == "names"
    assert result["seen"] == {"listed": SEEN, "left_out": SEEN, "near_duplicates": 1}
    assert result["left_out"][-1] == {"path": other, "why": "near duplicate of a seen one"}
    assert result["unseen_parts"]["good"] == 4
    assert "shows" not in capsys.readouterr().err
    table.write_text("".join(f"{name},{part}\n" for name, part in part_of.items() if name != good))
    arguments = [str(package.path), "--parts", str(table), "--output", str(tmp_path / "out")]
    assert "does not say which part it shows" in error_of(arguments, capsys)


def test_an_evaluation_asks_for_the_parts_where_likeness_says_nothing(
    package: Package, surfaces: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = Path(shutil.copytree(surfaces, tmp_path / "copy"))
    # Every training image shows the same, a little darker from one to the next: parts of one mould.
    pictures = sorted((data / "train" / "good").iterdir())
    first = read_image(pictures[0], 1)[:, :, 0]
    for number, path in enumerate(pictures):
        Image.fromarray((first * (1 - number / 100)).astype(np.uint8)).save(path)
    (data / "test" / "good" / "left.gif").touch()
    assert main([str(package.path), "--data", str(data), "--output", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert result["parts_told_by"] == "copies"
    assert result["seen"] == {"listed": SEEN, "left_out": SEEN, "near_duplicates": 0}
    assert result["unseen_parts"] == {"good": None, "image_auroc": None}
    assert {"path": "test/good/left.gif", "why": ".gif"} in result["passed_over"]
    captured = capsys.readouterr()
    assert "\nnote: only copies of files count as pictures of one part: likeness cannot decide" in captured.out
    assert " ".join(captured.out.split()).count("name the parts with --parts") == 1
    assert "1 .gif" in captured.err


def test_prediction_stands_beside_the_package_by_default(package: Package, surfaces: Path) -> None:
    assert main([str(package.path), "--images", str(surfaces / "test" / "good")]) == 0
    output = package.path.parent / "metal-predictions"
    assert len((output / "predictions.jsonl").read_text().splitlines()) == 5


def error_of(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert len(captured.err.splitlines()) == 1
    return captured.err


def test_unreadable_image(package: Package, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "camera"
    folder.mkdir()
    (folder / "torn.png").write_bytes(b"not an image")
    error = error_of([str(package.path), "--images", str(folder), "--output", str(tmp_path / "out")], capsys)
    assert "torn.png" in error


def test_image_without_mask(package: Package, surfaces: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(surfaces, tmp_path / "copy")
    next((tmp_path / "copy" / "ground_truth").rglob("*.png")).unlink()
    assert "no mask for this image" in error_of([str(package.path), "--data", str(tmp_path / "copy")], capsys)


@pytest.mark.parametrize("removed", ["good", "defects"])
def test_test_images_of_one_class(
    package: Package, surfaces: Path, tmp_path: Path, capsys: pytest.CaptureFixture, removed: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(surfaces, copy)
    if removed == "good":
        shutil.rmtree(copy / "test" / "good")
    else:
        shutil.rmtree(copy / "ground_truth")
        for folder in (copy / "test").iterdir():
            if folder.name != "good":
                shutil.rmtree(folder)
    assert "figures need both" in error_of([str(package.path), "--data", str(copy)], capsys)


def test_training_data_that_is_gone(package: Package, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    training = {"data": str(tmp_path / "gone"), "seen": []}
    assert "give --data" in error_of([str(rewritten(package, tmp_path / "a.prn", training=training))], capsys)


def test_package_that_does_not_say_what_it_saw(
    package: Package, surfaces: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = rewritten(package, tmp_path / "a.prn", training={"data": str(surfaces)})
    assert "'seen'" in error_of([str(path)], capsys)


@pytest.mark.parametrize("option", ["--data", "--images"])
def test_package_without_threshold(
    package: Package, surfaces: Path, tmp_path: Path, capsys: pytest.CaptureFixture, option: str
) -> None:
    path = rewritten(package, tmp_path / "a.prn", calibration={})
    assert "calibration.threshold is missing" in error_of([str(path), option, str(surfaces)], capsys)


def test_an_output_that_another_process_writes_is_refused(
    package: Package, surfaces: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    arguments = [str(package.path), "--images", str(surfaces / "test" / "good"), "--output", str(output)]
    with held(output, "prn-eval"):
        assert "another prn-eval writes there" in error_of(arguments, capsys)
        assert not (output / "predictions.csv").exists()
    assert main(arguments) == 0
    # No trace of a progress bar, which a pipe cannot take back.
    assert capsys.readouterr().out.startswith("5 images, ")


def test_the_wanted_false_alarm_rate_sets_the_threshold(package: Package, tmp_path: Path, capsys) -> None:
    tail = {"level": -1.0, "share": 0.25, "mean_excess": 0.5}
    calibration = {"threshold": 0.5, "pixel_threshold": 0.5, "normal_tail": tail, "normals": 76}
    path = rewritten(package, tmp_path / "tail.prn", calibration=calibration)
    assert main([str(path), "--false-alarm-rate", "0.02", "--shift", "5000"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "5,000 good images: 100 false alarms (2.00%, estimated from 76 held-out normal images)" in printed
    threshold = json.loads((tmp_path / "tail-eval/evaluation.json").read_text())["threshold"]
    # -1 + 0.5 ln(0.25 / 0.02), a logit.
    assert threshold == pytest.approx(1 / (1 + np.exp(1 - 0.5 * np.log(12.5))))
    assert main([str(path), "--false-alarm-rate", "0.6"]) == 2
    assert "--false-alarm-rate must be above 0" in capsys.readouterr().err


def test_more_false_alarms_than_the_calibration_allows_are_told(package: Package, tmp_path: Path, capsys) -> None:
    assert main([str(package.path), "--output", str(tmp_path / "out")]) == 0
    images = json.loads((tmp_path / "out" / "evaluation.json").read_text())["images"]
    good = sorted(image["raw_score"] for image in images if image["label"] == 0)
    for name, threshold, told in (("low", good[0], True), ("usual", good[-1], False)):
        calibration = {
            "threshold": threshold,
            "pixel_threshold": 0.5,
            "normals": 99,
            "highest_scores": [threshold, *np.linspace(0.9 * threshold, 0.5 * threshold, 24).tolist()],
            "normal_tail": {"level": -9.0, "share": 0.25, "mean_excess": 0.5},
        }
        path = rewritten(package, tmp_path / f"{name}.prn", calibration=calibration)
        capsys.readouterr()
        assert main([str(path)]) == 0
        printed = capsys.readouterr()
        assert "200 false alarms (2.00%" in " ".join(printed.out.split())
        note = "5 false alarms among 5 good images are more than bad luck explains"
        assert (note in printed.err) is told
        assert (f"prn-calibrate {shown_path(path)} --good DIR" in printed.err) is told


def test_a_package_without_the_tail_of_its_normals_says_so(package: Package, capsys) -> None:
    assert main([str(package.path), "--false-alarm-rate", "0.01"]) == 2
    assert "train the package again" in capsys.readouterr().err


def odd_names(folder: Path) -> list[str]:
    """Images by names that break what takes names for text, for markup or for short ones."""
    names = ["[red]a :smile: [/].png", os.fsdecode(b"caf\xe9.png"), f"{'n' * 250}.png", "b.png", "b.png.png/c.png"]
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)).save(folder / name)
    return names


def test_odd_names_are_predicted_on_printed_and_written(
    package: Package, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    names, output = odd_names(tmp_path / "camera"), tmp_path / "[bold]out"
    assert main([str(package.path), "--images", str(tmp_path / "camera"), "--output", str(output)]) == 0
    assert f"results: {output}" in capsys.readouterr().out
    lines = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    assert sorted(line["path"] for line in lines) == sorted(map(shown_path, names))
    with (output / "predictions.csv").open(encoding="utf-8", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [line["path"] for line in lines]
    assert len({line["map"] for line in lines}) == len(names)
    assert all((output / line["map"]).is_file() for line in lines)


def test_odd_names_are_evaluated(
    package: Package, surfaces: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = Path(shutil.copytree(surfaces, tmp_path / "[x]"))
    odd_names(data / "test" / "good")
    shutil.rmtree(data / "test" / "good" / "b.png.png")
    kind = next(folder for folder in (data / "test").iterdir() if folder.name != "good").name
    odd_kind = os.fsdecode(b"[red]sp\xe4n")
    for part in ("test", "ground_truth"):
        (data / part / kind).rename(data / part / odd_kind)
    output = tmp_path / os.fsdecode(b"aus\xff")
    assert main([str(package.path), "--data", str(data), "--output", str(output)]) == 0
    result = json.loads((output / "evaluation.json").read_text())
    assert shown_path(odd_kind) in {row["kind"] for row in result["kinds"]}
    assert (output / "sheet.png").is_file()
    assert "[red]sp" in capsys.readouterr().out


def test_predictions_until_an_error_are_kept(package: Package, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "camera"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)).save(folder / f"{number:02}.png")
    (folder / "39.png").write_bytes(b"torn")
    assert "39.png" in error_of([str(package.path), "--images", str(folder), "--output", str(tmp_path / "out")], capsys)
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    assert (
        [line["path"] for line in lines] == [row["path"] for row in rows] == [f"{n:02}.png" for n in range(len(rows))]
    )
    assert len(rows) >= 8


@pytest.mark.parametrize(
    ("option", "output"),
    [
        ("--data", "--output /proc/none"),
        ("--data", "--json /proc/none/a.json"),
        ("--data", "--sheet /proc/none/a.png"),
        ("--images", "--output /proc/none"),
    ],
)
def test_an_output_that_cannot_be_written_is_told_before_an_engine_is_opened(
    package: Package,
    surfaces: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    output: str,
) -> None:
    def opened(*arguments: object) -> None:
        raise AssertionError("an engine was opened")

    monkeypatch.setattr("prn_fast.engine.open_engine", opened)
    assert "/proc/none" in error_of([str(package.path), option, str(surfaces), *output.split()], capsys)


def test_a_rate_that_the_calibration_cannot_promise_is_told(
    package: Package, surfaces: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tail = {"level": -1.0, "share": 0.25, "mean_excess": 0.5}
    calibration = {
        "threshold": 0.5,
        "pixel_threshold": 0.5,
        "normal_tail": tail,
        "normals": 4,
        "false_alarm_rate": 0.01,
    }
    path = rewritten(package, tmp_path / "few.prn", calibration=calibration)
    images = ["--images", str(surfaces / "test" / "good"), "--output", str(tmp_path / "out")]
    assert main([str(path), *images]) == 0
    assert "note: 4 held-out normal images can promise no false-alarm rate below 0.2" in capsys.readouterr().err
    assert main([str(path), *images, "--false-alarm-rate", "0.21"]) == 0
    assert capsys.readouterr().err == ""
