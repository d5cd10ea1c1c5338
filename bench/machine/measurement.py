"""What a command that measures one thing leaves: its figures, with the command and the machine beside them.

Kept below bench/results/DEVICE, `measured` makes text of them again.
"""

import json
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prn_fast.bench.machine.environment import describe_environment
from prn_fast.errors import ConfigError
from prn_fast.json_text import json_text

# Of an argument that is a path or brings one, as in dir:/data/web; not of a URL.
_FOLDERS = re.compile(r"(^|[:=])/(?!/)(?:[^/?]+/)*")


def leave_measurement(module: str, argv: Sequence[str], figures: Mapping[str, Any], file: Path | None) -> None:
    """Print a measurement as JSON, and write it to a file if one is given.

    Args:
        module: that was run by `python -m`.
        argv: its arguments.
        figures: JSON-ready.
    """
    report = {
        "command": command_line(module, argv),
        "load_average": os.getloadavg()[0],
        "environment": describe_environment(),
        **figures,
    }
    text = json_text(report)
    print(text)
    if file is not None:
        file.write_text(text + "\n", encoding="utf-8")


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
