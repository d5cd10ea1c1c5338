"""Names are printed as they are."""

import shutil
from pathlib import Path

import pytest
from rich.table import Table

from prn_fast.cli import bench
from prn_fast.cli.console import PlainConsole
from prn_fast.package import Package

NAME = "[red]line [3] :smile: [/]"


def test_brackets_and_colons_are_text_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    console = PlainConsole()
    table = Table(f"{NAME} heading", title=f"{NAME} title", caption=f"{NAME} caption")
    table.add_row(f"{NAME} cell")
    console.print(table)
    console.print(f"{NAME} dim", style="dim")
    console.say(f"{NAME} line {'long ' * 100}end")
    printed = capsys.readouterr().out
    for what in ("heading", "title", "caption", "cell", "dim", "line"):
        assert f"{NAME} {what}" in printed
    assert printed.endswith("long end\n")


def test_a_listed_package_keeps_its_name(package: Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shutil.copytree(package.path, tmp_path / "[a]" / "[red]x.prn")
    assert bench.main(["--list-engines", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "[a]/[red]x.prn" in "".join(printed.split())
    needs = {words[1]: " ".join(words[3:]) for line in printed.splitlines() if len(words := line.split()) > 3}
    assert "an NVIDIA GPU" in needs["fused"]
    assert "a CPU" in needs["eager"]


def test_a_name_that_is_no_text_is_listed_with_its_bytes(
    package: Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shutil.copytree(package.path, tmp_path / "caf\udce9.prn")
    assert bench.main(["--list-engines", str(path)]) == 0
    assert r"caf\xe9.prn" in "".join(capsys.readouterr().out.split())
