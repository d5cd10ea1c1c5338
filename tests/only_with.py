"""Runs cases, each in a process that can import no more than some requirements bring; tests/test_extras.py writes them.

    python -m tests.only_with CASES.json RESULTS.json

A case is {"requirements": [...], "code": "..."}; its result the exit status, and what was printed. Processes are forked
from one that has imported torch, which all of them may.
"""

import contextlib
import functools
import json
import os
import re
import signal
import sys
import tempfile
import traceback
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

# A case that takes longer hangs.
SECONDS = 120


def canonical(name: str) -> str:
    """A distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def brought_by(requirements: list[str]) -> set[str]:
    """Names of the distributions that requirements bring, with what those require in turn."""
    found: set[str] = set()
    waiting = [(Requirement(text), ("",)) for text in requirements]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while waiting:
        requirement, extras = waiting.pop()
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name, wanted = canonical(requirement.name), ("", *sorted(requirement.extras))
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            needed = distribution(requirement.name).requires or []
        except PackageNotFoundError:  # for another platform, or not installed here: then it is missing in the case, too
            continue
        found.add(name)
        waiting += [(Requirement(text), wanted) for text in needed]
    return found


# Looked for once, and not for each case.
distributions_of_modules = functools.cache(packages_distributions)


def hidden_modules(requirements: list[str]) -> set[str]:
    """Top-level modules of all installed distributions but those that requirements bring, and prn_fast's own."""
    allowed = brought_by(requirements) | {"prn-fast"}
    return {
        module
        for module, distributions in distributions_of_modules().items()
        if not any(canonical(name) in allowed for name in distributions)
    }


class Hiding:
    """A finder of modules as another, that knows nothing of some."""

    def __init__(self, finder: Any, hidden: set[str]) -> None:
        self.finder, self.hidden = finder, hidden

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return None if name.partition(".")[0] in self.hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)


def run_case(case: dict[str, Any], output: Path) -> int:
    """The exit status of a case in a process of its own, which prints into `output`."""
    hidden = hidden_modules(case["requirements"])
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(SECONDS)
    status = 1
    with contextlib.suppress(BaseException):
        sys.stdout = sys.stderr = output.open("w")
        sys.meta_path[:] = [Hiding(finder, hidden) for finder in sys.meta_path]
        for name in [name for name in sys.modules if name.partition(".")[0] in hidden]:
            del sys.modules[name]
        try:
            exec(case["code"], {"__name__": "case"})
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
    os._exit(status)


def main(cases: Path, results: Path) -> None:
    """Run all cases, one after the other."""
    import cv2  # noqa: F401
    import torch

    # A fork of a process with more has no use of them.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        found = []
        for case in json.loads(cases.read_text()):
            status = run_case(case, output)
            found.append({"status": status, "output": output.read_text()})
    results.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
