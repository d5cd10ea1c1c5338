"""Defaults of the commands: each is typed once, and help says the one that holds."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from prn_fast.build.profiles import DEFAULT_PROFILE
from prn_fast.cli.build_engine import make_parser

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(
    file
    for folder in ("prn_fast/cli", "bench", "kernels")
    for file in (ROOT / folder).rglob("*.py")
    # Its default is a text of its own, see below.
    if "add_argument(" in file.read_text() and file.name != "build_engine.py"
)
TYPED = re.compile(r"default:? \d")


def options(file: Path) -> Iterator[ast.Call]:
    """Its calls of `add_argument`."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            yield node


@pytest.mark.parametrize("file", COMMANDS, ids=lambda file: str(file.relative_to(ROOT)))
def test_help_types_no_default_again(file: Path) -> None:
    for call in options(file):
        name = ast.unparse(call.args[0]) if call.args else ast.unparse(call)
        for keyword in call.keywords:
            if keyword.arg == "help":
                text = "".join(
                    one.value
                    for one in ast.walk(keyword.value)
                    if isinstance(one, ast.Constant) and isinstance(one.value, str)
                )
                assert not TYPED.search(text), f"{name}: write %(default)s, or the constant in braces: {text}"


def test_help_names_the_batch_that_tensorrt_is_tuned_for() -> None:
    # Only its text is there: the builders take seconds to import.
    assert f"(default: {DEFAULT_PROFILE})" in " ".join(make_parser().format_help().split())
