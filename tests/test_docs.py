"""What the pages say can be done: links lead somewhere, and commands, modules, targets and files exist."""

import argparse
import importlib.util
import itertools
import re
import shlex
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import entry_points, metadata
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(page for page in REPOSITORY.glob("docs/*.md") if not page.is_symlink())])
COMMANDS = {entry.name: entry.value for entry in entry_points(group="console_scripts") if entry.name.startswith("prn-")}

# What records tell of their own commands is history: those commands were true when they ran.
_FIGURES = re.compile(r"<!-- figures:([\w-]+) -->.*?<!-- /figures:\1 -->", re.DOTALL)
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FILE = re.compile(r"(?:prn_fast|kernels|build|bench|docs|tests|examples)/[\w./-]+")


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def without_figures(page: Path) -> str:
    return _FIGURES.sub("", page.read_text(encoding="utf-8"))


def fences(text: str, language: str) -> Iterator[str]:
    """The fenced blocks of a language."""
    return (body for _, found, body in _FENCE.findall(text) if found == language)


def inline_code(text: str) -> list[str]:
    """What stands between backticks; a line end within counts as a space."""
    return [" ".join(code.split()) for code in _INLINE.findall(_FENCE.sub("", text))]


def shell_lines(text: str) -> list[list[str]]:
    """The words of each line in sh blocks, without comments."""
    lines = "\n".join(fences(text, "sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> list[str]:
    dead = []
    for link in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    return dead


class Parsed(BaseException):
    """A command has taken its arguments."""


def refusal(main: Callable[[list[str]], int], words: list[str], capsys: pytest.CaptureFixture[str]) -> str | None:
    """What a command says against its arguments, None if it takes them. It does nothing else."""
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, *arguments: Any, **options: Any) -> None:
        parse(parser, *arguments, **options)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        try:
            main(words)
        except Parsed:
            return None
    return f"{shlex.join(words)}: {capsys.readouterr().err.strip()}"


def main_of(place: str) -> Callable[[list[str]], int]:
    module, function = place.split(":")
    return getattr(import_module(module), function)


def make_targets() -> set[str]:
    """Everything that the Makefile has a rule for."""
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    variables = dict(re.findall(r"^(\w+) \??= (\S+)$", text, re.MULTILINE))
    rules = re.findall(r"^([\w$(){}./-]+):", text, re.MULTILINE)
    return {re.sub(r"\$\((\w+)\)", lambda found: variables.get(found[1], found[0]), rule) for rule in rules}


def module_exists(name: str) -> bool:
    """Whether `python -m NAME` finds something to run; placeholders in capitals are not looked for."""
    try:
        found = importlib.util.find_spec(name)
        if found is not None and found.submodule_search_locations is not None:
            found = importlib.util.find_spec(f"{name}.__main__")
    except ModuleNotFoundError:
        return False
    return found is not None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_take_the_arguments_that_pages_give_them(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = []
    for words in shell_lines(without_figures(page)):
        if words[0].startswith("prn-"):
            assert words[0] in COMMANDS, f"there is no command {words[0]}"
            refused.append(refusal(main_of(COMMANDS[words[0]]), words[1:], capsys))
        elif "-m" in words and (module := words[words.index("-m") + 1]).startswith("prn_fast.cli."):
            refused.append(refusal(main_of(f"{module}:main"), words[words.index(module) + 1 :], capsys))
    assert [told for told in refused if told] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules_and_targets_exist(page: Path) -> None:
    text = without_figures(page)
    lines = [*shell_lines(text), *(code.split() for code in inline_code(text))]
    modules = {re.sub(r"[^\w.].*", "", after) for words in lines for after in _following(words, "-m")}
    targets = {words[1] for words in lines if words[0] == "make" and len(words) > 1}
    assert sorted(name for name in modules if name.startswith("prn_fast") and not module_exists(name)) == []
    assert sorted(targets - make_targets() - {"X"}) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_pages_name_exist(page: Path) -> None:
    named = {
        code for code in inline_code(without_figures(page)) if _FILE.fullmatch(code) and not re.search("[A-Z]{2}", code)
    }
    assert sorted(file for file in named if not (REPOSITORY / file).exists()) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_extras_that_pages_install_exist(page: Path) -> None:
    wanted = [word for words in shell_lines(without_figures(page)) if "pip" in words for word in words]
    named = {extra for word in wanted for extras in re.findall(r"\[([\w,]+)\]", word) for extra in extras.split(",")}
    assert sorted(named - set(metadata("prn-fast").get_all("Provides-Extra", []))) == []


def test_the_checks_see_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One two\n[a](#one-two) [b](#three) [c](gone.md) [d](page.md#one-two)\n")
    assert dead_links(page) == ["#three", "gone.md"]
    said = refusal(main_of(COMMANDS["prn-eval"]), ["tiles.prn", "--warp"], capsys)
    assert said is not None
    assert "unrecognized arguments: --warp" in said
    assert refusal(main_of(COMMANDS["prn-bench"]), ["compare", "a.json", "b.json"], capsys) is None
    assert {"demo", "test", ".build/triton-3.6"} <= make_targets()
    assert "warp" not in make_targets()
    assert module_exists("prn_fast.kernels")
    assert not module_exists("prn_fast.engine")
    assert shell_lines("```sh\nmake test  # all\nprn-eval \\\n  a.prn\n```\n") == [
        ["make", "test"],
        ["prn-eval", "a.prn"],
    ]


def test_one_version_everywhere() -> None:
    """The package, its citation and the list of changes name the same version."""
    import prn_fast

    assert f'version="{prn_fast.__version__}"' in (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    assert f"\nversion: {prn_fast.__version__}\n" in (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {prn_fast.__version__}" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


def _following(words: list[str], option: str) -> list[str]:
    return [after for word, after in itertools.pairwise(words) if word == option]
