"""C++ hosts, built outside the repository against the installed wheel."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest

from prn_fast.drift import WINDOW
from prn_fast.errors import ConfigError, EngineError
from prn_fast.linescan import DEFAULT_DEPTH, embedding
from prn_fast.linescan.cmake_dir import cmake_dir
from prn_fast.linescan.core import LineRing
from prn_fast.linescan.embedding import Host
from prn_fast.linescan.inspection import Inspection
from prn_fast.linescan.inspector import InspectionSettings, Inspector, open_inspector
from prn_fast.model.config import TILE_OVERLAP
from tests import needs
from tests.linescan.webs import DarknessEngine, ListSource, blocks, make_inspector
from tests.small_package import SIDE, textured_images

REPOSITORY = Path(__file__).parents[2]
WIDTH, LINES, OVERLAP = 96, 200, 32


def test_options_of_the_header_have_the_defaults_of_the_library():
    text = (REPOSITORY / "prn_fast/linescan/native/include/prn_fast/inspector.hpp").read_text()
    options = text[text.index("struct InspectorOptions") : text.index("struct Block")]
    defaults = dict(re.findall(r"uint32_t (\w+) = (\w+);", options))
    found = {name: int(defaults[name]) for name in ("drift_window", "overlap", "depth")}
    assert found == {"drift_window": WINDOW, "overlap": TILE_OVERLAP, "depth": DEFAULT_DEPTH}


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run away from the repository, so that only what is installed is found."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= options.pop("env", {})
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment, timeout=240, **options
    )


def checked(*command: object, **options: object) -> str:
    done = run(*command, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_wheel(folder: Path, **environment: str) -> Path:
    """A wheel of this tree, built from a copy of its sources."""
    sources = folder / "sources"
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("prn_fast", "kernels", "build", "bench"):
        shutil.copytree(REPOSITORY / name, sources / name, ignore=ignored)
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, sources)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    checked(*pip, "--wheel-dir", folder, sources, env=environment)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed_python(tmp_path_factory) -> Path:
    """The Python of a fresh environment with the wheel; what prn_fast depends on is borrowed from the one at work."""
    folder = tmp_path_factory.mktemp("installed")
    wheel = build_wheel(folder, CFLAGS="-O0")
    checked(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    checked(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    site = checked(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture(scope="module")
def web() -> np.ndarray:
    return np.ascontiguousarray(textured_images(1, 1, seed=7, side=256)[0, :LINES, :WIDTH, 0])


def build_host(sources: Path, folder: Path, python: Path) -> Path:
    """Build a host outside the repository as its maker would; its program's path."""
    shutil.copytree(sources, folder / "sources")
    package = checked(python, "-m", "prn_fast.linescan.cmake_dir", cwd=folder).strip()
    assert not Path(package).is_relative_to(REPOSITORY)
    configure = ("cmake", "-S", folder / "sources", "-B", folder / "build", f"-Dprn_fast_DIR={package}")
    checked(*configure, f"-DPython3_EXECUTABLE={python}", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror")
    checked("cmake", "--build", folder / "build", "--parallel", "2")
    (program,) = (path for path in (folder / "build").iterdir() if path.is_file() and os.access(path, os.X_OK))
    return program


def python_defects(package: Path, web: np.ndarray) -> list[dict[str, object]]:
    """What the Python inspector finds."""
    inspector = open_inspector(package, WIDTH, engine="eager", settings=InspectionSettings(overlap=OVERLAP))
    ring = LineRing(WIDTH, tile=SIDE, overlap=OVERLAP, depth=64)
    ring.push(web)
    ring.finish()
    found = []
    while (strip := ring.pop()) is not None:
        found += inspector.inspect(strip)
    return [one.to_dict() for one in found + inspector.finish()]


@pytest.mark.long
@needs.cpp_compiler
@needs.cmake
@needs.embeddable_python
def test_the_example_finds_what_python_finds(installed_python, built_package_path, web, tmp_path):
    program = build_host(REPOSITORY / "examples" / "cpp_camera", tmp_path, installed_python)
    (tmp_path / "lines.raw").write_bytes(web.tobytes())
    output = checked(program, built_package_path, tmp_path / "lines.raw", WIDTH, "eager", cwd=tmp_path)
    *defects, ledger = map(json.loads, output.splitlines())
    assert ledger == {"lines": LINES, "inspected": LINES}
    expected = python_defects(built_package_path, web)
    assert len(defects) == len(expected) > 3
    for one, other in zip(defects, expected, strict=True):
        assert one == {name: pytest.approx(other[name], abs=1e-3) if name == "peak" else other[name] for name in one}

    missing = run(program, tmp_path / "no.prn", tmp_path / "lines.raw", WIDTH, cwd=tmp_path)
    assert missing.returncode == 2
    assert "no.prn" in missing.stderr


@pytest.mark.long
@needs.cpp_compiler
@needs.cmake
@needs.embeddable_python
def test_in_a_process_that_has_an_interpreter(installed_python, built_package_path, tmp_path):
    """Both faults of holding the interpreter's lock, and exceptions: each would show as a missing line."""
    program = build_host(Path(__file__).parent / "native", tmp_path, installed_python)
    output = checked(program, installed_python, built_package_path, WIDTH, cwd=tmp_path, env={"OMP_NUM_THREADS": "1"})
    assert output.splitlines() == [
        "CHECK errors of opening",
        "CHECK a failing engine ends the inspection",
        "CHECK a failing callback ends nothing",
        "CHECK grabbing goes on while Python is busy",
        "CHECK late strips are dropped and counted",
        "CHECK destroying with the lock held",
    ]


@needs.cpp_compiler
@needs.cmake
def test_the_host_in_the_docs_compiles(tmp_path):
    text = (REPOSITORY / "docs" / "embedding.md").read_text()
    source = tmp_path / "host.cpp"
    source.write_text(text.split("```cpp\n", 1)[1].split("```", 1)[0])
    include = cmake_dir().parent / "include"
    checked("g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{include}", source, cwd=tmp_path)


def test_without_a_compiler_all_else_installs_and_says_what_is_missing(tmp_path):
    wheel = build_wheel(tmp_path, CC="false", CXX="false")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert "prn_fast/engine/base.py" in names
    assert not any(name.endswith(".so") for name in names)
    script = "import prn_fast.linescan.core"
    importing = run(sys.executable, "-c", script, env={"PYTHONPATH": str(tmp_path / "site")}, cwd=tmp_path)
    assert importing.returncode == 1
    assert "LinescanError: the native line ring is not installed" in importing.stderr


@pytest.mark.parametrize(
    "options",
    [
        *({"budget_ms": value} for value in (float("nan"), float("inf"), -1.0)),
        *({"threshold": value} for value in (float("nan"), float("inf"), -0.1, 1.0)),
        *({"pixel_mm": value, "line_mm": 1.0} for value in (float("nan"), float("inf"), -1.0, 0.0)),
        {"pixel_mm": 1.0},
        {"overlap": -1},
    ],
    ids=str,
)
def test_options_of_a_host_that_cannot_work_are_refused(built_package_path, options):
    given = {"width": WIDTH, "pixel_format": 0x01080001, "overlap": OVERLAP, "engine": "eager"}
    with pytest.raises(ConfigError):
        Host(str(built_package_path), **given | options)


def host_with(inspector: Inspector, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host of an inspector; it takes a `LineRing` where a C++ program gives a capsule."""
    monkeypatch.setattr(embedding, "open_inspector", lambda *_, **__: inspector)
    monkeypatch.setattr(embedding.LineRing, "from_capsule", staticmethod(lambda ring: ring), raising=False)
    return Host("demo.prn", width=WIDTH, pixel_format=0x01080001, overlap=16)


def test_a_closing_host_drops_what_waits_and_reports_no_error(monkeypatch):
    """With one strip in all: a second reader would find the place taken, or take it."""
    web = np.full((200, WIDTH), 150, np.uint8)
    host = host_with(make_inspector(ListSource(WIDTH, blocks(web, [200])), DarknessEngine()), monkeypatch)
    ring = LineRing(WIDTH, tile=host.tile, overlap=16, depth=1)
    ring.push(web[:64])
    errors = []

    def is_closing() -> bool:
        closing = ring.ledger().inspected > 0
        if closing and not ring.finished:
            ring.push(web[64:])
            ring.finish()
        return closing

    host.run(ring, lambda *_: None, errors.append, is_closing)
    ledger = ring.ledger()
    assert errors == []
    assert ledger.waiting == 0
    assert ledger.inspected == 64
    assert ledger.dropped["closed"] > 0
    assert ledger.dropped["closed"] + ledger.dropped["queue_full"] == 200 - 64


def test_both_loops_drop_what_follows_an_engine_s_error(monkeypatch):
    """`Inspection` and `Host` on one web, with an engine that fails on its third strip."""
    web = np.full((200, WIDTH), 150, np.uint8)
    web[70:90, 20:40] = 10
    source = ListSource(WIDTH, blocks(web, [200]))
    inspection = Inspection(source, make_inspector(source, DarknessEngine(broken_from=4)), depth=16)
    with pytest.raises(EngineError, match="NaN"):
        inspection.run()
    expected = inspection.snapshot()

    host = host_with(make_inspector(source, DarknessEngine(broken_from=4)), monkeypatch)
    ring = LineRing(WIDTH, tile=host.tile, overlap=16, depth=1 + len(web) // 48)
    ring.push(web)
    ring.finish()
    found, errors = [], []
    host.run(ring, lambda *fields: found.append(fields[:2]), errors.append)
    ledger = ring.ledger()
    assert ledger.waiting == 0
    assert ledger.inspected == expected.inspected == 64 + 48
    assert sum(ledger.dropped.values()) == sum(expected.dropped.values()) == 200 - 112
    assert ledger.dropped["engine_error"] == 200 - 112
    (error,) = errors
    assert error.startswith("lines 112 to 159: EngineError: ")
    assert found == [(one.number, one.first_line) for one in expected.recent]
