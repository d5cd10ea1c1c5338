"""Parts as a user has named them: by a table, by a pattern, and what is wrong with either."""

from pathlib import Path

import pytest

from prn_fast.data.parts import PartNames, numbered_names
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


def strips(parts: int, pictures: int, name: str = "{part:04}_03_t{picture:02}.png") -> list[str]:
    return [f"train/good/{name.format(part=part, picture=each)}" for part in range(parts) for each in range(pictures)]


@pytest.mark.parametrize("name", ["{part:04}_03_t{picture:02}.png", "strip {part}-{picture}.jpg"])
def test_names_of_parts_with_several_pictures_are_noted_with_a_pattern_that_finds_them(name: str) -> None:
    made = inspection(*strips(9, 4, name))
    told = numbered_names(made)
    assert told is not None
    assert "the 36 normal images may be pictures of 9 parts" in told
    pattern = told.partition("--parts '")[2].removesuffix("'")
    found = PartNames.read(pattern).of_set(made)
    assert len(set(found.values())) == 9


@pytest.mark.parametrize(
    "names",
    [
        [f"train/good/{number:03}.png" for number in range(40)],
        [f"train/good/normal-{number}.jpg" for number in range(40)],
        strips(4, 10),
        strips(40, 1),
        [*strips(9, 4), "train/good/extra.png"],
        [*strips(9, 4), *(f"train/good/other_{number}.png" for number in range(9))],
    ],
    ids=["numbers", "one series", "few series", "one picture each", "another name", "a large series"],
)
def test_other_names_are_not(names: list[str]) -> None:
    assert numbered_names(inspection(*names)) is None


def test_no_pattern_is_proposed_that_training_would_refuse() -> None:
    train = inspection(*strips(9, 4)).train
    defect = Sample(ROOT / "test/hole/broken.png", 1, "hole")
    assert numbered_names(InspectionSet(ROOT, train, ())) is not None
    assert numbered_names(InspectionSet(ROOT, train, (defect,))) is None
