"""Files and folders are replaced at once, whoever else writes to the same place."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from prn_fast import files
from prn_fast.errors import PRNError, StorageError
from prn_fast.files import (
    STAGING_PREFIX,
    locked,
    place_folder,
    replace_file,
    replacing,
    require_writable,
    staging_folder,
)
from tests.faults import as_user_without_rights, in_child, run_to_fault

pytestmark = pytest.mark.usefixtures("no_syncing")


@pytest.mark.parametrize("how", ["EIO", "ENOSPC", "kill"])
def test_a_file_is_the_old_or_the_new_one_wherever_it_fails(tmp_path: Path, how: str) -> None:
    path, seen = tmp_path / "a.json", set()
    for number in range(100):
        path.write_text("old")
        failed = run_to_fault(lambda: replace_file(path, b"new, and longer"), number, how)
        seen.add(path.read_text())
        replace_file(path, b"next")
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
        if not failed:
            break
    assert seen == {"old", "new, and longer"}


def test_a_block_that_fails_keeps_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def write(error: type[BaseException]) -> None:
        with replacing(path) as partial:
            partial.write_text("half")
            raise error

    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error):
            write(error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_umask_is_followed_and_symlinks_are_too(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "file")
    before = os.umask(0o026)
    try:
        with replacing(tmp_path / "link") as partial:
            partial.touch(mode=0o600)
        replace_file(tmp_path / "plain", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "link").is_symlink()
    assert stat.S_IMODE((tmp_path / "deep" / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == 0o640


def test_living_writers_of_one_file_leave_each_other_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with replacing(path) as partial:
        partial.write_text("mine")
        assert in_child(lambda: replace_file(path, b"of another process")) == 0
        assert path.read_text() == "of another process"
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_what_dead_writers_leave_is_removed_and_nothing_else(tmp_path: Path) -> None:
    dead = tmp_path / f"{STAGING_PREFIX}0"
    (dead / "deep").mkdir(parents=True)
    (dead / "deep" / "half").write_text("x")
    (tmp_path / "outside").mkdir()
    (tmp_path / f"{STAGING_PREFIX}link").symlink_to(tmp_path / "outside")
    (tmp_path / f"{STAGING_PREFIX}file").write_text("x")
    with staging_folder(tmp_path) as mine:
        assert {entry.name for entry in tmp_path.iterdir()} == {
            mine.name,
            "outside",
            f"{STAGING_PREFIX}link",
            f"{STAGING_PREFIX}file",
        }


def test_where_folders_cannot_be_locked_nothing_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(handle: int, operation: int) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    with staging_folder(tmp_path) as first, staging_folder(tmp_path) as second:
        assert first.is_dir()
        assert second.is_dir()


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, can_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:
        monkeypatch.setattr(files, "exchange", lambda one, other: False)
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    place_folder(tmp_path / "new", tmp_path / "old")
    assert [entry.name for entry in (tmp_path / "old").iterdir()] == ["new"]
    place_folder(tmp_path / "old", tmp_path / "elsewhere")
    assert [entry.name for entry in (tmp_path / "elsewhere").iterdir()] == ["new"]


def test_a_lock_goes_to_one_at_a_time_though_the_file_is_replaced(tmp_path: Path) -> None:
    path, rounds = tmp_path / "count", 60
    path.write_text("0")
    children = []
    for _ in range(3):
        if (child := os.fork()) == 0:
            code = 1
            try:
                for _ in range(rounds):
                    with locked(path):
                        replace_file(path, str(int(path.read_text()) + 1).encode())
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert path.read_text() == str(3 * rounds)


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: replace_file(folder / "file" / "a.json", b""),
        lambda folder: replace_file(folder / "none" / "a.json", b""),
        lambda folder: replace_file(folder, b""),
        lambda folder: replace_file(folder / ("n" * 300), b""),
        lambda folder: require_writable(folder / "file" / "deep"),
        lambda folder: require_writable(folder / ("n" * 300)),
    ],
)
def test_what_cannot_be_written_is_one_line(tmp_path: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written") as caught:
        write(tmp_path)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, PRNError)
    assert isinstance(caught.value, OSError)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_folder_without_permission_is_named() -> None:
    def use() -> None:
        with pytest.raises(StorageError, match=r"^/usr: .*choose a place where you may write$"):
            require_writable(Path("/usr"))

    assert as_user_without_rights(use) == 0
