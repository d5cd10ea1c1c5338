"""A skip that nobody expected fails the run; skips are decided before a test has started anything; all are found."""

import ast
import fnmatch
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SUITE = """
import pytest

@pytest.mark.skipif(True, reason="there is no CUDA device")
def test_skipped():
    pass

def test_run():
    pass
"""


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
@pytest.mark.parametrize(("expected", "code"), [("there is no CUDA device\n", 0), ("another reason\n", 1), ("", 1)])
def test_only_expected_skips_pass(expected: str, code: int, workers: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "test_small.py").write_text(SUITE)
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_addoption, pytest_configure\n")
    (tmp_path / "skips.txt").write_text(expected)
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", tmp_path, "-c", "/dev/null", *workers]
    done = subprocess.run(
        [*command, "--expected-skips", tmp_path / "skips.txt", "test_small.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(TESTS.parent), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert ("unexpected skip: test_small.py::test_skipped: there is no CUDA device" in done.stdout) == bool(code)


def test_pytest_goes_into_every_folder_of_the_tests(request: pytest.FixtureRequest) -> None:
    """Its own list of folders to pass over names build and dist."""
    passed_over = request.config.getini("norecursedirs")
    folders = {path.parent for path in TESTS.rglob("test_*.py")}
    assert TESTS / "build" in folders
    for folder in folders:
        for name in folder.relative_to(TESTS.parent).parts:
            assert not any(fnmatch.fnmatch(name, pattern) for pattern in passed_over), folder


def test_skips_are_marks() -> None:
    """`pytest.skip` inside a test or fixture may leave behind what was started before it."""
    calls = [
        f"{path.relative_to(TESTS)}:{node.lineno}"
        for path in sorted(TESTS.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr in ("skip", "importorskip")
        and isinstance(node.value, ast.Name)
        and node.value.id == "pytest"
    ]
    assert calls == [], "use a mark of tests/needs.py"
