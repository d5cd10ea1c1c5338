"""Parts as a user has named them: by a table, by a pattern, and what is wrong with either."""

from pathlib import Path

import pytest

from prn_fast.data.parts import PartNames
from prn_fast.data.samples import InspectionSet, Sample
from prn_fast.errors import ConfigError, DataError

ROOT = Path("/set")


def inspection(*names: str) -> InspectionSet:
    return InspectionSet(ROOT, tuple(Sample(ROOT / name, 0, "good") for name in names), ())


def table(tmp_path: Path, *lines: str) -> PartNames:
    path = tmp_path / "parts.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return PartNames.read(str(path))


def test_a_pattern_finds_the_part_in_the_path() -> None:
    names = PartNames.read(r"part(\d+)_")
    found = names.of_set(inspection("train/good/part7_a.png", "train/good/part7_b.png", "train/good/part12_a.png"))
    assert list(found.values()) == ["7", "7", "12"]
    assert PartNames.read("good/(.*?)/").of_name("train/good/7/a.png") == "7"


def test_a_table_names_images_by_path_or_by_name(tmp_path: Path) -> None:
    names = table(tmp_path, "Image,Part", "train/good/1.png, A", "", "2.png,B", "test/good/1.png,B")
    found = names.of_set(inspection("train/good/1.png", "train/good/2.png", "test/good/1.png"))
    assert list(found.values()) == ["A", "B", "B"]
    assert names.text == str(tmp_path / "parts.csv")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), "names no image"),
        (("1.png,A", "2.png"), r"line 2: must hold an image and its part"),
        (("1.png,A", "1.png,B"), r"line 2: 1.png shows A by a line above"),
        (("1.png,",), "line 1: must hold"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        table(tmp_path, *lines)


def test_a_table_of_other_text(tmp_path: Path) -> None:
    (tmp_path / "parts.csv").write_bytes(b"caf\xe9.png,1\n")
    with pytest.raises(DataError, match="cannot be read as a table"):
        PartNames.read(str(tmp_path / "parts.csv"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("parts.csv", "one group.*none"), (r"(\d)(\d)", "one group.*2"), ("(", "no such file, and no regular")],
)
def test_what_is_neither_a_file_nor_a_pattern(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PartNames.read(text)


def test_every_image_needs_a_part(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b\.png: .* does not say which part it shows, nor of 1 other"):
        table(tmp_path, "a.png,1").of_set(inspection("a.png", "b.png", "c.png"))
    with pytest.raises(DataError, match=r"b1\.png: a\(\.\*\) does not say"):
        PartNames.read("a(.*)").of_set(inspection("a1.png", "b1.png"))


def test_a_name_that_two_images_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png may be train/a\.png or test/a\.png"):
        table(tmp_path, "a.png,1").of_set(inspection("train/a.png", "test/a.png"))
