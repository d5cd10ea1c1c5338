"""prn-score in one process: rows, going on after an interruption, and what it refuses."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from prn_fast.archive import results, scorer
from prn_fast.archive.images import open_archive
from prn_fast.archive.scorer import Scorer, ScoringSettings
from prn_fast.cli.common import counted
from prn_fast.cli.score import main
from prn_fast.data.images import read_image, resize_image, write_image
from prn_fast.engine import open_engine
from prn_fast.errors import ConfigError, DataError, PackageError
from prn_fast.package import Package
from prn_fast.training.evaluation import predict
from tests.archive.conftest import BROKEN
from tests.linescan.webs import DarknessEngine


def score(package: Path, images: Path, output: Path, *more: str) -> int:
    return main([str(package), "--images", str(images), "--output", str(output), "--rows", "5", *more])


def names_of(folder: Path) -> list[str]:
    return [name for shard in open_archive(folder, 5).shards for name in shard.names]


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*.parquet"))}


@pytest.fixture(scope="module")
def scored(built_package_path, archive_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("scored") / "results"
    assert score(built_package_path, archive_folder, output) == 0
    return output


def test_each_image_has_one_row_with_the_verdict_of_prn_eval(scored, built_package_path, archive_folder):
    rows = parquet.read_table(scored).to_pylist()
    assert [row["path"] for row in rows] == names_of(archive_folder)
    paths = [archive_folder / row["path"] for row in rows if row["path"] not in BROKEN]
    package = Package.open(built_package_path)
    with open_engine(package, "openvino:fp32") as engine:
        wanted = list(predict(engine, paths, threshold=package.calibration("threshold")))
    found = [row for row in rows if row["path"] not in BROKEN]
    assert [row["verdict"] for row in found] == ["defect" if one.defect else "good" for one in wanted]
    # Batches are cut elsewhere.
    assert np.allclose([row["score"] for row in found], [one.score for one in wanted], atol=1e-5)
    assert all(row["reason"] is None and row["boxes"] is not None for row in found)
    assert {row["path"]: row["pages_left_out"] for row in rows if row["pages_left_out"]} == {"day0/two.tif": 1}
    assert next((row["width"], row["height"]) for row in rows if row["path"] == "day0/two.tif") == (70, 80)


def test_what_leaves_early_is_told(screened_package_path, archive_folder, tmp_path, capsys):
    assert score(screened_package_path, archive_folder, tmp_path / "out") == 0
    rows = [row for row in parquet.read_table(tmp_path / "out").to_pylist() if row["path"] not in BROKEN]
    package = Package.open(screened_package_path)
    pixels = [resize_image(read_image(archive_folder / row["path"], 1), package.config.image_size) for row in rows]
    with open_engine(package) as engine:
        wanted = engine.infer(np.stack(pixels)).exited
    assert [row["exited"] for row in rows] == wanted.tolist()
    assert 0 < wanted.sum() < len(wanted)
    assert f", {counted(int(wanted.sum()), 'image')} left early" in capsys.readouterr().out
    # What leaves is good by the package's thresholds, and so without boxes.
    gone = [row for row in rows if row["exited"]]
    assert {row["verdict"] for row in gone} == {"good"}
    assert not any(row["boxes"] for row in gone)


def test_below_the_packages_threshold_all_images_run_whole(screened_package_path, archive_folder, tmp_path):
    out = tmp_path / "out"
    assert score(screened_package_path, archive_folder, out, "--false-alarm-rate", "0.25") == 0
    plan = json.loads((out / "_plan.json").read_text())
    assert plan["threshold"] < Package.open(screened_package_path).calibration("threshold")
    assert plan["early exit"] is False
    assert not any(row["exited"] for row in parquet.read_table(out).to_pylist())


def test_broken_images_are_rows_with_their_reason(scored):
    rows = {row["path"]: row for row in parquet.read_table(scored).to_pylist() if row["verdict"] == "unreadable"}
    assert set(rows) == set(BROKEN)
    assert rows["day0/empty.png"]["reason"].startswith("is empty; replace it")
    assert all(
        row["score"] is row["exited"] is row["boxes"] is row["width"] is None and row["reason"] for row in rows.values()
    )


def test_what_was_passed_over_is_named(scored):
    with (scored / "_passed_over.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"path": "notes.txt", "why": ".txt"}]


def test_the_summary_counts_and_names(built_package_path, archive_folder, tmp_path, capsys):
    assert score(built_package_path, archive_folder, tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert "22 images: " in printed.out
    assert "3 unreadable" in printed.out
    assert "images/s" in printed.out
    assert "unreadable: day1/torn.png: " in printed.err
    assert "note: 1 further pages or frames" in printed.err


class Killed(BaseException):
    """A process that ends in the middle."""


def test_a_run_that_was_killed_goes_on_to_the_same_files(
    scored, built_package_path, archive_folder, tmp_path, monkeypatch, capsys
):
    output = tmp_path / "out"
    written = []

    def write_two(folder, number, rows):
        if len(written) == 2:
            raise Killed
        written.append(number)
        results.write_rows(folder, number, rows)

    monkeypatch.setattr("prn_fast.archive.run.write_rows", write_two)
    with pytest.raises(Killed):
        score(built_package_path, archive_folder, output)
    assert len(parts(output)) == 2
    # What a kill in the middle of writing leaves.
    (output / ".prn-partial-00000000").mkdir()
    (output / ".prn-partial-00000000" / "part-000002.parquet").write_bytes(b"PAR1")
    # One that is missing in the middle, as several actors leave it.
    (output / "part-000000.parquet").unlink()
    monkeypatch.undo()
    assert score(built_package_path, archive_folder, output) == 0
    assert "already scored: 5 of 22 images; the run continues" in capsys.readouterr().out
    assert parts(output) == parts(scored)
    assert not list(output.glob(".prn-partial-*"))


def test_a_run_that_has_ended_scores_nothing_again(scored, built_package_path, archive_folder, monkeypatch, capsys):
    monkeypatch.setattr(scorer.Scorer, "score", None)
    assert score(built_package_path, archive_folder, scored) == 0
    assert "already scored: 22 of 22 images" in capsys.readouterr().out


def test_images_inside_of_parquet_give_the_same_rows(scored, built_package_path, archive_folder, tmp_path):
    names = names_of(archive_folder)
    contents = [(archive_folder / name).read_bytes() for name in names]
    parquet.write_table(pyarrow.table({"path": names, "bytes": contents}), tmp_path / "in.parquet")
    assert score(built_package_path, tmp_path / "in.parquet", tmp_path / "out") == 0
    assert parts(tmp_path / "out") == parts(scored)


@pytest.mark.parametrize(
    ("more", "named"),
    [(["--rows", "6"], "files"), (["--min-area", "4"], "min area"), (["--engine", "optimized"], "engine")],
)
def test_results_of_another_run_are_kept(scored, built_package_path, archive_folder, capsys, more, named):
    before = parts(scored)
    assert score(built_package_path, archive_folder, scored, *more) == 2
    assert f"holds results of another run ({named}: " in capsys.readouterr().err
    assert parts(scored) == before


def test_a_damaged_file_of_results_is_named(built_package_path, archive_folder, tmp_path, capsys):
    output = tmp_path / "out"
    assert score(built_package_path, archive_folder, output) == 0
    part = output / "part-000001.parquet"
    whole = part.read_bytes()
    for content in (whole[:100], (output / "part-000000.parquet").read_bytes()):
        part.write_bytes(content)
        assert score(built_package_path, archive_folder, output) == 2
        assert "part-000001.parquet: is damaged; remove it" in capsys.readouterr().err
    part.unlink()
    assert score(built_package_path, archive_folder, output) == 0
    assert part.read_bytes() == whole


def test_a_folder_of_other_parquet_files_is_no_output(built_package_path, archive_folder, tmp_path, capsys):
    (tmp_path / "part-000000.parquet").write_bytes(b"theirs")
    assert score(built_package_path, archive_folder, tmp_path) == 2
    assert "holds Parquet files of something else" in capsys.readouterr().err
    (tmp_path / "part-000000.parquet").unlink()
    (tmp_path / "_plan.json").write_text("[")
    assert score(built_package_path, archive_folder, tmp_path) == 2
    assert "_plan.json: is damaged" in capsys.readouterr().err


@pytest.fixture
def darkness(monkeypatch, tmp_path):
    """A scorer whose engine finds what is dark, and the folder of its archive."""
    engine = DarknessEngine()
    monkeypatch.setattr(scorer, "_open_engine", lambda settings: engine)
    root = tmp_path / "images"
    root.mkdir()
    settings = ScoringSettings(Path("none.prn"), "", "darkness", threshold=0.5, pixel_threshold=0.5)
    return engine, root, settings


def test_boxes_are_in_pixels_of_the_image(darkness):
    _, root, settings = darkness
    image = np.full((128, 256), 150, np.uint8)
    cv2.rectangle(image, (40, 20), (79, 49), 10, -1)
    cv2.rectangle(image, (200, 100), (239, 119), 10, -1)
    write_image(root / "a.png", image)
    (row,) = Scorer(settings, root).score(open_archive(root, 5).shards[0])
    assert row.verdict == "defect"
    found = np.array([(box.left, box.top, box.width, box.height) for box in row.boxes])
    assert found == pytest.approx(np.array([(40, 20, 40, 30), (200, 100, 40, 20)]), abs=8)
    assert row.boxes[0].area == pytest.approx(1200, rel=0.4)


def test_tiled_images_have_boxes_in_their_own_pixels(darkness):
    _, root, settings = darkness
    image = np.full((100, 200), 150, np.uint8)
    image[30:50, 90:120] = 10
    write_image(root / "a.png", image)
    tiled = ScoringSettings(**{**vars(settings), "tile_overlap": 16})
    (row,) = Scorer(tiled, root).score(open_archive(root, 5).shards[0])
    (box,) = row.boxes
    assert (box.left, box.top) == (pytest.approx(90, abs=2), pytest.approx(30, abs=2))
    assert (box.width, box.height) == (pytest.approx(30, abs=3), pytest.approx(20, abs=3))


def test_an_engine_whose_output_is_no_number_ends_the_run(darkness):
    engine, root, settings = darkness
    write_image(root / "a.png", np.full((64, 64), 150, np.uint8))
    engine.broken_from = 1
    with pytest.raises(Exception, match="NaN"):
        Scorer(settings, root).score(open_archive(root, 5).shards[0])


def test_an_archive_that_is_lost_in_the_middle_ends_the_run(darkness):
    _, root, settings = darkness
    write_image(root / "a.png", np.full((64, 64), 150, np.uint8))
    archive = open_archive(root, 5)
    (root / "a.png").unlink()
    with pytest.raises(DataError, match="is not there any more"):
        Scorer(settings, root).score(archive.shards[0])
    # Where the archive is there, a file that is missing is a row.
    (root / "other.png").touch()
    (row,) = Scorer(settings, root).score(archive.shards[0])
    assert (row.verdict, row.reason) == ("unreadable", "file not found; check the path")


def test_another_package_than_the_runs_is_refused(built_package_path, tmp_path):
    settings = ScoringSettings(built_package_path, "0" * 64, "optimized", threshold=0.5, pixel_threshold=0.5)
    with pytest.raises(PackageError, match="is another package"):
        Scorer(settings, tmp_path)


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="threshold"):
        ScoringSettings(Path("a.prn"), "", "optimized", threshold=0.5, pixel_threshold=1.0)


def test_the_plan_says_what_the_results_rest_on(scored, built_package_path):
    plan = json.loads((scored / "_plan.json").read_text())
    assert plan["digest of the package"] == Package.open(built_package_path).digest
    assert (plan["images"], plan["files"], plan["engine"]) == (22, 5, "openvino:fp32")
