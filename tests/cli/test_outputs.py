"""Output paths are tried before the work, and left as they were."""

from pathlib import Path

import pytest

from prn_fast.cli.outputs import try_outputs
from prn_fast.errors import ConfigError


def test_what_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "there.json").write_text("before")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "new.json")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    files = [None, "there.json", "new.json", "a/b/new.json", "a/c.json", "link", "name [red] \udcff.json"]
    folders = [None, "folder", "folder/new", "d/e"]
    try_outputs([name and tmp_path / name for name in files], [name and tmp_path / name for name in folders])
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there.json").read_text() == "before"
    assert (tmp_path / "link").is_symlink()


def test_devices_are_written_to_as_they_are() -> None:
    try_outputs([Path("/dev/null"), Path("/dev/null")])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("folder", "is a folder"),
        ("file/new.json", "file is a file"),
        ("/proc/none/new.json", "No such file"),
        ("n" * 300, "name too long"),
        ("loop", "symbolic links"),
    ],
)
def test_a_file_that_cannot_be_written_is_named_with_the_reason(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=reason) as raised:
        try_outputs([tmp_path / "first/fine.json", tmp_path / name])
    assert str(raised.value).startswith(str(tmp_path / name))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file", "is a file"),
        ("file/new", "file is a file"),
        ("/proc/none", "No such file"),
        ("a/" + "n" * 300, "name too long"),
    ],
)
def test_a_folder_that_cannot_be_written_into_is_named_with_the_reason(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=reason) as raised:
        try_outputs(folders=[tmp_path / name])
    assert str(raised.value).startswith(str(tmp_path / name))
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_one_file_for_two_outputs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a.json")
    with pytest.raises(ConfigError, match="two outputs"):
        try_outputs([tmp_path / "a.json", tmp_path / "link"])
