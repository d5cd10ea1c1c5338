"""The demo's bad input; `make demo` runs all of it."""

from pathlib import Path

import pytest

from prn_fast.demo import main


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "photos").mkdir()
    assert main(["--output", str(tmp_path)]) == 2
    assert "holds something else than an earlier demo" in capsys.readouterr().err
    assert (tmp_path / "photos").is_dir()


@pytest.mark.parametrize("option", ["--minutes=0", "--seconds=-1", "--minutes=nan"])
def test_times_are_above_zero(option: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--output", str(tmp_path / "demo"), option]) == 2
    assert "is not a number above 0" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
