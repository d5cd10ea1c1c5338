"""prn-score on a real Ray cluster of this machine, in processes of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prn_fast.cli.score import main
from tests import needs
from tests.processes import running

# Starting Ray takes some twenty seconds, and more on a busy machine.
pytestmark = [needs.library("ray", "ray"), pytest.mark.timeout(900)]


def command(package: Path, images: Path, output: Path, *more: str) -> list[str]:
    code = "import sys; from prn_fast.cli.score import main; sys.exit(main())"
    arguments = [package, "--images", images, "--output", output, "--rows", "5", *more]
    return [sys.executable, "-c", code, *map(str, arguments)]


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*.parquet"))}


def run(arguments: list[str], folder: Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; through files, which a process of Ray's that lags behind cannot keep open."""
    with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as error:
        code = subprocess.run(arguments, stdout=out, stderr=error, check=False).returncode
    return code, (folder / "stdout").read_text(), (folder / "stderr").read_text()


@pytest.mark.long
def test_two_actors_write_what_one_process_writes(screened_package_path, archive_folder, tmp_path):
    ray = ("--ray", "local", "--actors", "2")
    code, out, error = run(command(screened_package_path, archive_folder, tmp_path / "ray", *ray), tmp_path)
    assert code == 0, error
    assert "3 unreadable" in out
    assert " left early" in out
    # What Ray says of itself is not for whoever scores images; one line comes from below Python.
    known = ("unreadable: ", "note: ", str(archive_folder))
    assert [line for line in error.splitlines() if not line.startswith(known) and "core_worker.cc" not in line] == []
    options = ["--images", str(archive_folder), "--output", str(tmp_path / "one"), "--rows", "5", "--threads", "1"]
    assert main([str(screened_package_path), *options]) == 0
    assert parts(tmp_path / "ray") == parts(tmp_path / "one")


@pytest.mark.long
def test_a_run_on_ray_that_is_killed_goes_on_to_the_same_files(built_package_path, archive_folder, tmp_path):
    ray = command(built_package_path, archive_folder, tmp_path / "ray", "--ray", "local", "--actors", "2")
    with running(ray, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 200
        while not parts(tmp_path / "ray") and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert len(parts(tmp_path / "ray")) > 0
    code, _, error = run(ray, tmp_path)
    assert code == 0, error
    assert (
        main([*map(str, (built_package_path, "--images", archive_folder, "--output", tmp_path / "one", "--rows", "5"))])
        == 0
    )
    assert parts(tmp_path / "ray") == parts(tmp_path / "one")


@pytest.mark.long
def test_an_error_of_an_actor_is_one_line(built_package_path, archive_folder, tmp_path):
    output = tmp_path / "out"
    options = ["--images", str(archive_folder), "--output", str(output), "--rows", "5"]
    assert main([str(built_package_path), *options]) == 0
    (output / "part-000001.parquet").unlink()
    (output / "part-000001.parquet").symlink_to(tmp_path / "nowhere" / "part")
    ray = ("--ray", "local", "--actors", "1")
    code, _, error = run(command(built_package_path, archive_folder, output, *ray), tmp_path)
    assert code == 2
    assert "part-000001.parquet: cannot be written" in error.splitlines()[-1]


def test_a_cluster_that_does_not_answer_is_explained(built_package_path, archive_folder, tmp_path, capsys):
    options = ["--images", str(archive_folder), "--output", str(tmp_path / "out"), "--ray", "nowhere"]
    assert main([str(built_package_path), *options]) == 2
    assert "error: --ray nowhere: no cluster can be used there" in capsys.readouterr().err
    assert os.listdir(tmp_path / "out")
