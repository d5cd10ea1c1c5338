import json
import shutil

import numpy as np
import pytest

from prn_fast.data.images import write_image
from prn_fast.errors import ConfigError, DataError
from prn_fast.linescan.defects import Defect, Severity
from prn_fast.linescan.sinks import CropSink
from prn_fast.review.pictures import proposed_mask
from prn_fast.review.predictions import Rectangle, read_predictions
from tests import needs
from tests.review.folders import SCORES, SPOTS, write_images


def test_the_worst_come_first_and_images_are_where_the_run_says(folder, images):
    found = read_predictions(folder)
    assert [one.name for one in found.items] == ["a/2.png", "b/1.png", "a/1.png", "b/3.png", "b/2.png"]
    assert all(one.path == images / one.name and one.path.is_file() for one in found.items)
    assert [one.score for one in found.items] == sorted(SCORES.values(), reverse=True)
    assert (found.pixel_threshold, found.notes) == (0.4, ())


def test_images_that_moved_are_named_by_hand(folder, images, tmp_path):
    images.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="no such folder; give the folder of the images with --images"):
        read_predictions(folder)
    assert all(not one.reason for one in read_predictions(folder, tmp_path / "elsewhere").items)
    with pytest.raises(DataError, match="file not found, like all 5 images"):
        read_predictions(folder, folder)


def test_an_image_that_is_gone_comes_last_with_the_reason(folder, images):
    (images / "a/2.png").unlink()
    last = read_predictions(folder).items[-1]
    assert (last.name, last.reason) == ("a/2.png", "file not found")


def test_a_folder_of_an_earlier_version_says_what_it_does_not_know(folder, images):
    (folder / "run.json").unlink()
    with pytest.raises(ConfigError, match="does not say where its images are; give their folder with --images"):
        read_predictions(folder)
    found = read_predictions(folder, images)
    assert found.pixel_threshold == 0.5
    assert "outlines are drawn at 0.5" in found.notes[0]


def test_the_half_line_of_a_killed_run_is_no_error_and_a_damaged_one_is(folder):
    file = folder / "predictions.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]) + lines[-1][:20])
    assert len(read_predictions(folder).items) == len(SPOTS) - 1
    file.write_text("{]\n" + "".join(lines))
    with pytest.raises(DataError, match="line 1: is not a prediction"):
        read_predictions(folder)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": ""}, "is not a prediction"),
        ({"score": 0.5}, "is not a prediction"),
        ({"path": "../a/1.png", "score": 0.5}, "outside of its folder"),
        ({"path": "a/3.png", "score": 0.5, "map": "/etc/hosts"}, "outside of its folder"),
        ({"path": "a/3.png", "score": 0.5, "map": "../x.png"}, "outside of its folder"),
        ({"path": "a/1.png", "score": float("nan")}, "score nan"),
        ({"path": "a/1.png", "score": 7}, "score 7"),
        ({"path": "a/1.png", "score": "0.5"}, "score 0.5"),
        ({"path": "a/2.png", "score": 0.5}, "two predictions of a/2.png"),
    ],
)
def test_a_row_that_makes_no_sense_is_refused(folder, row, message):
    file = folder / "predictions.jsonl"
    file.write_text(json.dumps(row) + "\n" + file.read_text())
    with pytest.raises(DataError, match=message):
        read_predictions(folder)


def test_a_folder_of_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        read_predictions(tmp_path / "none")
    with pytest.raises(DataError, match="no predictions and no pictures of defects"):
        read_predictions(tmp_path)


@needs.library("pyarrow", "linescan")
def test_rows_of_an_archive_are_read_with_their_boxes(tmp_path, images):
    import pyarrow.parquet

    box = {"left": 40, "top": 30, "width": 30, "height": 20, "area": 600, "peak": 0.9}
    rows = [
        {"path": "a/1.png", "score": 0.8, "verdict": "defect", "reason": None, "boxes": [box]},
        {"path": "a/2.png", "score": None, "verdict": "unreadable", "reason": "is empty", "boxes": None},
        {"path": "b/1.png", "score": 0.9, "verdict": "defect", "reason": None, "boxes": []},
    ]
    folder = tmp_path / "archive"
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[:2]), folder / "part-000000.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[2:]), folder / "part-000001.parquet")
    items = read_predictions(folder, images).items
    assert [one.name for one in items] == ["b/1.png", "a/1.png", "a/2.png"]
    assert items[1].boxes == (Rectangle(40, 30, 30, 20),)
    assert items[2].reason == "is empty"
    mask = proposed_mask(items[1], 0.5)
    assert mask[30:50, 40:70].all()
    assert mask.sum() == 600


def test_pictures_of_a_line_come_by_severity_with_their_box(tmp_path):
    sink = CropSink(tmp_path / "crops")
    levels = np.zeros((20 + 32, 30 + 32), np.uint8)
    levels[20:30, 20:40] = 200
    for number, severity in enumerate((Severity.MINOR, Severity.CRITICAL, Severity.MAJOR)):
        crop = np.full((20 + 32, 30 + 32, 1), 120, np.uint8)
        crop_map = levels if severity == Severity.MINOR else None  # earlier versions wrote none
        sink.defect(Defect(number, 100 * number, 5, 20, 30, 500, 0.9, severity, crop=crop, crop_map=crop_map))
    write_image(tmp_path / "crops" / "other.png", np.zeros((8, 8), np.uint8))
    items = read_predictions(tmp_path / "crops").items
    assert [one.verdict for one in items] == ["critical", "major", "minor"]
    assert items[0].boxes == (Rectangle(16, 16, 30, 20),)
    assert proposed_mask(items[0], 0.5).sum() == 600
    assert np.array_equal(proposed_mask(items[2], 0.5), levels > 0)


def test_the_proposal_is_the_map_at_its_threshold_at_the_size_of_the_picture(folder):
    items = {one.name: one for one in read_predictions(folder).items}
    mask = proposed_mask(items["a/1.png"], 0.4)
    assert mask.shape == (120, 160)
    left, top, wide, high = SPOTS["a/1.png"]
    assert mask[top + 3 : top + high - 3, left + 3 : left + wide - 3].all()
    assert mask.sum() < 1.5 * wide * high
    assert not proposed_mask(items["b/2.png"], 0.4).any()


def test_large_images_are_shown_smaller(tmp_path, folder, images):
    from prn_fast.review import pictures

    shutil.rmtree(images)
    write_images(images, height=1000, width=2400)
    item = read_predictions(folder).items[0]
    assert pictures.shown_size(item.path) == (667, 1600)
    painted = np.zeros((667, 1600), bool)
    painted[100:200, 300:500] = True
    full = pictures.decode_mask(pictures.encode_mask(painted), item)
    assert full.shape == (1000, 2400)
    assert full.mean() == pytest.approx(painted.mean(), rel=0.02)
    again = pictures.at_shown_size(full, item)
    assert again.mean() == pytest.approx(painted.mean(), rel=0.02)
