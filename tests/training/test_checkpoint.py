"""The state of an unfinished run: the one saved last is kept, whatever happens to the next."""

import json
import os
import stat
from pathlib import Path

import pytest
import torch

from prn_fast.errors import ConfigError, StorageError
from prn_fast.training.checkpoint import IDENTITY, STATE, Checkpoint
from tests.faults import full_disk, run_to_fault

pytestmark = pytest.mark.usefixtures("no_syncing")
STATE_BYTES = 4 << 20


def state(number: int) -> dict[str, torch.Tensor]:
    return {"weights": torch.full((STATE_BYTES // 4,), number, dtype=torch.int32)}


def number_of(checkpoint: Checkpoint) -> int:
    """Which state is loaded, after checking that it is whole."""
    (weights,) = checkpoint.load().values()
    assert len(set(weights.tolist())) == 1
    return int(weights[0])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """With the state 1."""
    made = Checkpoint(tmp_path / "a.prn", {"seed": 0})
    made.save(state(1))
    return made


def test_a_full_disk_is_one_line_and_the_last_state_is_kept(checkpoint: Checkpoint) -> None:
    message = r"state\.pt: cannot be written .*MB free\), the state before is kept; .*--resume$"
    with full_disk(STATE_BYTES // 2), pytest.raises(StorageError, match=message) as caught:
        checkpoint.save(state(2))
    assert "\n" not in str(caught.value)
    assert number_of(checkpoint) == 1
    assert {file.name for file in checkpoint.folder.iterdir()} == {"state.pt", "settings.json"}
    checkpoint.save(state(3))
    assert number_of(checkpoint) == 3


@pytest.mark.parametrize("how", ["EIO", "kill"])
def test_whatever_fails_the_last_state_or_the_new_one_is_kept(tmp_path: Path, how: str) -> None:
    seen = set()
    for number in range(100):
        checkpoint = Checkpoint(tmp_path / str(number) / "a.prn", {"seed": 0})
        checkpoint.save({"weights": torch.full((3,), 1)})
        failed = run_to_fault(lambda one=checkpoint: one.save({"weights": torch.full((3,), 2)}), number, how)
        seen.add(number_of(checkpoint))
        checkpoint.save({"weights": torch.full((3,), 3)})
        assert {file.name for file in checkpoint.folder.iterdir()} == {"state.pt", "settings.json"}
        if not failed:
            break
    assert seen == {1, 2}


@pytest.mark.parametrize("how", ["EIO", "kill"])
def test_the_state_of_another_run_is_never_taken_for_one_of_this(tmp_path: Path, how: str) -> None:
    seen = set()
    for number in range(100):
        output = tmp_path / str(number) / "a.prn"
        before, now = Checkpoint(output, {"seed": 0}), Checkpoint(output, {"seed": 1})
        before.save({"weights": torch.full((3,), 1)})
        failed = run_to_fault(lambda one=now: one.save({"weights": torch.full((3,), 2)}), number, how)
        for checkpoint, expected in ((before, 1), (now, 2)):
            try:
                found = number_of(checkpoint)
            except ConfigError:
                continue
            assert found == expected
            seen.add(found)
        if not failed:
            break
    assert seen == {1, 2}


def test_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        checkpoint = Checkpoint(tmp_path / "a.prn", {"seed": 0})
        checkpoint.save({})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in checkpoint.folder.iterdir()} == {0o640}
    assert json.loads((checkpoint.folder / "settings.json").read_text()) == {"seed": 0}


def test_a_place_that_cannot_be_written_is_told_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="not a folder"):
        Checkpoint(tmp_path / "file" / "a.prn", {})
    with pytest.raises(StorageError, match="choose a shorter name"):
        Checkpoint(tmp_path / f"{'n' * 248}.prn", {})


def test_a_checkpoint_can_be_renamed_with_its_output(checkpoint: Checkpoint) -> None:
    other = Checkpoint(checkpoint.folder.with_name("b.prn"), {"seed": 0})
    with pytest.raises(ConfigError, match=r"nothing to resume; but there is .*a.prn.training: .*--output .*a\.prn, or"):
        other.check()
    checkpoint.folder.rename(other.folder)
    assert other.load()["weights"][0] == 1


@pytest.mark.parametrize(
    "content", [b"", b'{"seed": ', b"[]", b"7", b"\xff\x00", b"[" * 100_000], ids=lambda c: str(c[:9])
)
def test_settings_that_cannot_be_read_are_named(checkpoint: Checkpoint, content: bytes) -> None:
    (checkpoint.folder / IDENTITY).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{IDENTITY}: .*run without --resume"):
        checkpoint.load()


def test_missing_settings_and_others_are_named(checkpoint: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="seed=0, now it is 6"):
        Checkpoint(checkpoint.folder.with_name("a.prn"), {"seed": 6}).check()
    (checkpoint.folder / IDENTITY).unlink()
    with pytest.raises(ConfigError, match=IDENTITY):
        checkpoint.check()


def test_a_state_that_cannot_be_read_is_named(checkpoint: Checkpoint) -> None:
    (checkpoint.folder / STATE).write_bytes(b"junk")
    with pytest.raises(ConfigError, match=f"{STATE}: cannot be read"):
        checkpoint.load()
