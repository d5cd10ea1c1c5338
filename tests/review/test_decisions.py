import os
from pathlib import Path

import numpy as np
import pytest

from prn_fast.data.images import read_image
from prn_fast.data.layouts import load_inspection_set
from prn_fast.data.masks import read_mask
from prn_fast.errors import ConfigError, DataError, StorageError
from prn_fast.review.decisions import Decisions, Mark
from prn_fast.review.predictions import Predicted, read_predictions
from tests.review.folders import HEIGHT, SPOTS, WIDTH, draw


def mask_of(name: str) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    left, top, wide, high = SPOTS[name] or (5, 5, 10, 10)
    mask[top : top + high, left : left + wide] = True
    return mask


def files(folder: Path) -> list[str]:
    """All but the log and the painted masks."""
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(one for one in found if not one.startswith(("decisions.jsonl", "masks/")))


@pytest.fixture
def items(folder):
    return read_predictions(folder).items


@pytest.fixture
def output(tmp_path):
    return tmp_path / "reviewed"


@pytest.fixture
def decisions(output, items):
    one = Decisions(output, items)
    yield one
    one.close()


def decide_all(decisions: Decisions) -> None:
    decisions.decide("a/1.png", Mark.DEFECT, "scratch", mask_of("a/1.png"))
    decisions.decide("a/2.png", Mark.DEFECT, "hole", mask_of("a/2.png"))
    decisions.decide("b/1.png", Mark.GOOD)
    decisions.decide("b/2.png", Mark.GOOD)
    decisions.decide("b/3.png", Mark.UNCLEAR)


ALL = [
    "ground_truth/hole/a__2_mask.png",
    "ground_truth/scratch/a__1_mask.png",
    "test/hole/a__2.png",
    "test/scratch/a__1.png",
    "train/good/b__1.png",
    "train/good/b__2.png",
]


def test_the_output_is_a_data_set_of_copies(decisions, output, images):
    before = {path: path.read_bytes() for path in images.rglob("*.png")}
    decide_all(decisions)
    assert files(output) == ALL
    assert decisions.counts() == {"good": 2, "defect": 2, "unclear": 1}
    found = load_inspection_set(output)
    assert [sample.path.name for sample in found.train] == ["b__1.png", "b__2.png"]
    assert [(sample.kind, sample.path.name) for sample in found.test] == [("hole", "a__2.png"), ("scratch", "a__1.png")]
    for sample in found.test:
        name = sample.path.name.replace("__", "/")
        assert np.array_equal(read_image(sample.path, 1), draw(name))
        assert np.array_equal(read_mask(sample.mask), mask_of(name))
    assert {path: path.read_bytes() for path in images.rglob("*.png")} == before
    assert not (output / "train/good/b__1.png").samefile(images / "b/1.png")


def test_decisions_are_kept_and_undone_one_by_one_also_later(decisions, output, items):
    decide_all(decisions)
    decisions.close()
    again = Decisions(output, items)
    assert {name: str(one.mark) for name, one in again.current().items()} == {
        "a/1.png": "defect",
        "a/2.png": "defect",
        "b/1.png": "good",
        "b/2.png": "good",
        "b/3.png": "unclear",
    }
    assert [again.undo() for _ in range(3)] == ["b/3.png", "b/2.png", "b/1.png"]
    assert files(output) == ALL[:4]
    assert [again.undo() for _ in range(3)] == ["a/2.png", "a/1.png", None]
    assert files(output) == []
    again.close()


def test_another_decision_replaces_the_one_before_and_its_undo_brings_that_back(decisions, output):
    decisions.decide("a/1.png", Mark.DEFECT, "scratch", mask_of("a/1.png"))
    smaller = mask_of("a/1.png")
    smaller[:40] = False
    decisions.decide("a/1.png", Mark.DEFECT, "hole", smaller)
    assert files(output) == ["ground_truth/hole/a__1_mask.png", "test/hole/a__1.png"]
    decisions.decide("a/1.png", Mark.GOOD)
    assert files(output) == ["train/good/a__1.png"]
    decisions.undo()
    assert np.array_equal(read_mask(output / "ground_truth/hole/a__1_mask.png"), smaller)
    decisions.undo()
    assert files(output) == ["ground_truth/scratch/a__1_mask.png", "test/scratch/a__1.png"]
    assert np.array_equal(read_mask(output / "ground_truth/scratch/a__1_mask.png"), mask_of("a/1.png"))
    assert decisions.of("a/1.png").kind == "scratch"


@pytest.mark.parametrize("lost", ["test/hole/a__2.png", "ground_truth/hole/a__2_mask.png", "train/good/b__1.png"])
def test_what_a_killed_process_left_undone_is_done_at_the_next_start(decisions, output, items, lost):
    decide_all(decisions)
    decisions.close()
    (output / lost).unlink()
    Decisions(output, items).close()
    assert files(output) == ALL


def test_copies_of_a_decision_taken_back_go_at_the_next_start(decisions, output, items):
    decide_all(decisions)
    decisions.close()
    with (output / "decisions.jsonl").open("a") as log:
        log.write('{"mark": "undo", "name": "b/3.png", "time": ""}\n{"mark": "undo", "name": "b/2.png", "time": ""}\n')
        log.write('{"mark": "good", "na')  # killed while it wrote
    Decisions(output, items).close()
    assert files(output) == ALL[:-1]


def test_files_of_others_are_left_alone_and_never_overwritten(output, items):
    theirs = output / "train" / "good" / "b__1.jpg"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    decisions = Decisions(output, items)
    decisions.decide("b/1.png", Mark.GOOD)
    (copy,) = [one for one in files(output) if one != "train/good/b__1.jpg"]
    assert copy.startswith("train/good/b__1-")
    decisions.undo()
    assert files(output) == ["train/good/b__1.jpg"]
    assert theirs.read_bytes() == b"theirs"
    decisions.close()


def test_names_that_fold_to_one_get_two_copies(tmp_path, images, output):
    names = ["a/1.png", "a__1.png", "A/1.PNG", "x_mask.png"]
    items = []
    for name in names:
        path = tmp_path / "more" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((images / "a/1.png").read_bytes())
        items.append(Predicted(name, path, 0.5, "defect"))
    decisions = Decisions(output, items)
    for name in names:
        decisions.decide(name, Mark.DEFECT, "scratch", mask_of("a/1.png"))
    decisions.close()
    assert len(load_inspection_set_of(output)) == 4
    assert len({Path(one).stem.casefold() for one in files(output) if one.startswith("test/")}) == 4


def load_inspection_set_of(output: Path) -> list:
    (output / "train" / "good").mkdir(parents=True)
    (output / "train" / "good" / "one.png").write_bytes((next(output.rglob("test/*/*"))).read_bytes())
    return list(load_inspection_set(output).test)


@pytest.mark.parametrize(
    ("name", "mark", "kind", "mask", "message"),
    [
        ("none.png", Mark.GOOD, "", None, "none.png: is none of these predictions"),
        ("a/1.png", Mark.DEFECT, "good", mask_of("a/1.png"), "'good' cannot name a kind"),
        ("a/1.png", Mark.DEFECT, "../up", mask_of("a/1.png"), "cannot name a kind"),
        ("a/1.png", Mark.DEFECT, "", mask_of("a/1.png"), "cannot name a kind"),
        ("a/1.png", Mark.DEFECT, "hole", None, "mark where the defect is"),
        ("a/1.png", Mark.DEFECT, "hole", np.zeros((HEIGHT, WIDTH), bool), "mark where the defect is"),
        ("a/1.png", Mark.DEFECT, "hole", np.ones((HEIGHT, WIDTH), bool), "covers the whole image"),
        ("a/1.png", Mark.DEFECT, "hole", np.eye(5, dtype=bool), r"the mask has \(5, 5\) pixels"),
    ],
)
def test_a_decision_that_makes_no_sense_is_refused_and_changes_nothing(
    decisions, output, name, mark, kind, mask, message
):
    with pytest.raises((ConfigError, DataError), match=message):
        decisions.decide(name, mark, kind, mask)
    assert decisions.current() == {}
    assert files(output) == []


def test_an_image_that_cannot_be_read_is_not_called_good(decisions, images, output):
    (images / "b/1.png").write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        decisions.decide("b/1.png", Mark.GOOD)
    assert files(output) == []


def test_a_decision_that_cannot_be_written_is_none(decisions, output):
    decisions.decide("a/1.png", Mark.GOOD)
    (output / "test").write_text("in the way")
    with pytest.raises(StorageError):
        decisions.decide("a/1.png", Mark.DEFECT, "hole", mask_of("a/1.png"))
    assert decisions.of("a/1.png").mark == Mark.GOOD
    assert files(output) == ["test", "train/good/a__1.png"]


def test_one_process_at_a_time(decisions, output, items):
    with pytest.raises(ConfigError, match="another prn-review works there"):
        Decisions(output, items)


def test_an_output_among_the_images_is_refused(images, items):
    for output in (images, images.parent, images / "a"):
        with pytest.raises(ConfigError, match="the images lie in it"):
            Decisions(output, items)


@pytest.mark.parametrize(
    "line",
    [
        '{"mark": "fine", "name": "a/1.png", "kind": "", "file": "a__1.png", "time": ""}',
        '{"mark": "good", "name": "a/1.png", "kind": "", "file": "../../a.png", "time": ""}',
        '{"mark": "defect", "name": "a/1.png", "kind": "../up", "file": "a.png", "time": ""}',
        '{"mark": "undo", "name": "a/1.png", "time": ""}',
        "[]",
        "{}",
        "what",
    ],
)
def test_a_log_that_makes_no_sense_is_refused_whole(output, items, line):
    output.mkdir()
    (output / "decisions.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=r"decisions\.jsonl: is damaged"):
        Decisions(output, items)
    assert os.listdir(output) == ["decisions.jsonl"]


def test_decisions_about_other_images_are_kept_and_said(decisions, output, items):
    decide_all(decisions)
    decisions.close()
    (output / "train/good/b__1.png").unlink()
    other = Decisions(output, items[:1])
    assert "1 decisions concern images that are not among these predictions" in other.notes[0]
    assert other.counts()["good"] == 2
    other.close()
