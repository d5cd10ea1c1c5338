"""Imports only point down CONTRIBUTING's table of rooms."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SECTION = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Rooms")[2].partition("\n## ")[0]
# Each room with its folders and files, lowest first.
ROOMS = [re.findall(r"`([^`]+)`", line.split("|")[1]) for line in SECTION.splitlines() if line.startswith("| `")]
# Installed inside prn_fast, and imported from there.
TOP_FOLDERS = ("kernels", "build", "bench")
FILES = sorted(
    path.relative_to(ROOT).as_posix() for folder in ("prn_fast", *TOP_FOLDERS) for path in (ROOT / folder).rglob("*.py")
)


def room_of(file: str) -> int:
    """Place in the table of what holds a file, such as "prn_fast/model/prn.py"."""
    rooms = [(len(place), number) for number, places in enumerate(ROOMS) for place in places if file.startswith(place)]
    # A file that the table names has left its folder's room.
    length, room = max(rooms, default=(0, -1))
    found = sum(one == length for one, _ in rooms)
    assert found == 1, f"{file} is in {found} rooms of CONTRIBUTING.md"
    return room


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """All modules of prn_fast that a file imports anywhere in it, also in functions and for types only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            # `from prn_fast import package` means a module, `from prn_fast.package import Package` names one.
            names = [f"prn_fast.{one.name}" for one in node.names] if node.module == "prn_fast" else [str(node.module)]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] == "prn_fast")


def file_of(module: str) -> str:
    """The file of a module, such as "prn_fast.build.verify"."""
    path = module.replace(".", "/")
    if path.startswith(tuple(f"prn_fast/{folder}" for folder in TOP_FOLDERS)):
        path = path.removeprefix("prn_fast/")
    return f"{path}.py" if (ROOT / f"{path}.py").is_file() else f"{path}/__init__.py"


def test_imports_point_down() -> None:
    upward = [
        f"{file} imports {module}"
        for file in FILES
        for module in imported_modules(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        if room_of(file_of(module)) > room_of(file)
    ]
    assert upward == []


def test_every_place_of_the_table_is_there() -> None:
    assert ROOMS, "the table is missing"
    assert [place for places in ROOMS for place in places if not (ROOT / place).exists()] == []


def test_no_folder_of_the_bench_has_more_than_twelve_files() -> None:
    folders = [folder for folder in (ROOT / "bench").rglob("*") if folder.is_dir() and "results" not in folder.parts]
    counts = {
        folder.relative_to(ROOT).as_posix(): sum(file.is_file() for file in folder.iterdir())
        for folder in (ROOT / "bench", *folders)
        if folder.name != "__pycache__"
    }
    assert len(counts) > 5
    assert {folder: count for folder, count in counts.items() if count > 12} == {}
