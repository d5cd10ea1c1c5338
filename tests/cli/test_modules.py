"""Every command also runs as `python -m prn_fast.cli.NAME`."""

import pkgutil
import subprocess
import sys

import pytest

from prn_fast import cli

# What commands share; everything else in the folder is a command.
SHARED = {"common", "console", "outputs", "rates"}
MODULES = sorted({module.name for module in pkgutil.iter_modules(cli.__path__)} - SHARED)


def test_the_commands_are_all_here() -> None:
    assert MODULES == [
        "bench", "build_engine", "calibrate", "evaluate", "inspect", "list_engines", "package", "review", "score",
        "serve", "train", "update",
    ]  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_a_module_runs_as_its_command(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", f"prn_fast.cli.{module}", "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: prn-")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_without_arguments_is_bad_input(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", f"prn_fast.cli.{module}"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the following arguments are required: ")
