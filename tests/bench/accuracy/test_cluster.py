"""A small study on a real Ray cluster of this machine."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from prn_fast.bench.accuracy import run as study_run
from prn_fast.bench.accuracy.record import Record, read_record
from prn_fast.bench.accuracy.run import StudySettings
from prn_fast.errors import ConfigError
from tests import needs
from tests.bench.accuracy.conftest import COMMIT

pytestmark = [needs.library("ray", "ray"), pytest.mark.timeout(900), pytest.mark.long]


def test_two_products_train_side_by_side_into_their_records(
    trained: StudySettings, recorded: Record, tmp_path: Path
) -> None:
    other = shutil.copytree(trained.data, tmp_path / "stone")
    arguments = ["run", "seen", "--data", str(trained.data), str(other), "--output", str(tmp_path / "output")]
    arguments += ["--seeds", "0", "--only", "1 seen", "--allow-dirty", "--ray", "local", "--", *trained.options]
    # As from a changed checkout, since whoever works on it may commit meanwhile.
    code = (
        "import sys; from prn_fast.bench.accuracy import __main__ as command, run; "
        f"run.commit = lambda: {COMMIT!r}; sys.exit(command.main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("wood", "stone"):
        (run,) = read_record(tmp_path / "output" / f"{name}-seen.json")["runs"]
        assert f"{name}: 1 seen, seed 0: image AUROC" in done.stdout
        (alone,) = recorded["runs"]
        assert run.keys() == alone.keys()
        assert run["commands"] == {what: text.replace("wood", name) for what, text in alone["commands"].items()}
        assert run["training"]["steps"] == alone["training"]["steps"]
        assert run["environment"]["threads"] == 1


def test_what_is_recorded_needs_no_cluster(trained: StudySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_run, "commit", lambda: COMMIT)
    said: list[str] = []
    assert study_run.run_on_ray([trained], said.append, "nowhere") == [{}]
    assert said == ["wood: 1 seen, seed 0: recorded"]
    with pytest.raises(ConfigError, match="--ray nowhere: no cluster can be used there"):
        study_run.run_on_ray([replace(trained, seeds=(1,))], said.append, "nowhere")
