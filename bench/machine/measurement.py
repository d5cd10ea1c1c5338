"""What a command that measures one thing leaves: its figures, with the command, the machine and the commit beside them.

Kept below bench/results/DEVICE, `measured` makes text of them again.
"""

import argparse
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prn_fast.bench.machine.environment import describe_environment, require_clean
from prn_fast.errors import ConfigError
from prn_fast.files import replace_file, reporting, require_writable
from prn_fast.json_text import json_text

# Of an argument that is a path or brings one, as in dir:/data/web; not of a URL.
_FOLDERS = re.compile(r"(^|[:=])/(?!/)(?:[^/?]+/)*")


def add_record_options(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """`--json FILE`, and `--allow-dirty`."""
    parser.add_argument("--json", type=Path, required=required, metavar="FILE", help="record to write")
    add_allow_dirty(parser)


def add_allow_dirty(parser: argparse.ArgumentParser) -> None:
    """`--allow-dirty`."""
    parser.add_argument(
        "--allow-dirty",
        action="store_true",
        help="record from a checkout with changes that are in no commit; the record says so, and no page shows it",
    )


class Measurement:
    """One measurement, from before it begins, when load and commit are taken, until its record is left.

    Args:
        module: that was run by `python -m`.
        argv: its arguments.
        file: of the record; None only prints it.
        allow_dirty: record from a changed checkout, too.
    Raises:
        ConfigError: a record of a changed checkout.
        StorageError: the file cannot be written.
    """

    def __init__(self, module: str, argv: Sequence[str], file: Path | None, allow_dirty: bool = False) -> None:
        self._file = file
        self._told: dict[str, Any] = {
            "command": command_line(module, argv),
            "load_average": os.getloadavg()[0],
            "environment": describe_environment(),
        }
        if file is not None:
            require_clean(self._told["environment"]["commit"], allow_dirty)
            require_writable(file.parent)

    def leave(self, figures: Mapping[str, Any]) -> None:
        """Print the figures as JSON, with command and machine, and write them to the file.

        Args:
            figures: JSON-ready.
        """
        text = json_text({**self._told, **figures})
        print(text)
        if self._file is not None:
            with reporting(self._file):
                self._file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._file, (text + "\n").encode())


def command_line(module: str, argv: Sequence[str]) -> str:
    """The command as records keep it: absolute paths, which are this machine's, by their last part."""
    return shlex.join(["python", "-m", module, *(_FOLDERS.sub(r"\1", one) for one in argv)])


def measured(files: str, make: Callable[[Mapping[str, Any]], str], results: Path) -> str:
    """What `make` says of each kept measurement, with its command, machine and commit; empty where there is none.

    Args:
        files: pattern of the files below each device's folder.
        results: the folder of all devices.
    Raises:
        ConfigError: a file that holds no such measurement.
    """
    parts = []
    for path in sorted(results.glob(f"*/{files}")):
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            machine, commit = run["environment"]["machine"], run["environment"]["commit"]
            parts.append(
                f"{make(run)}\n\n`{run['command']}` on {machine['cpu']}, {machine['usable_cores']} cores, load average "
                f"{run['load_average']:.1f} before, commit {commit}."
            )
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{path}: is no run that was recorded; record it again or remove it") from None
    return "\n\n".join(parts)
