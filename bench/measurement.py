"""What a command that measures one thing leaves: its figures, with the command and the machine beside them."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prn_fast.bench.environment import describe_environment


def leave_measurement(module: str, argv: Sequence[str], figures: Mapping[str, Any], file: Path | None) -> None:
    """Print a measurement as JSON, and write it to a file if one is given.

    Args:
        module: that was run by `python -m`.
        argv: its arguments.
        figures: JSON-ready.
    """
    report = {
        "command": shlex.join(["python", "-m", module, *argv]),
        "load_average": os.getloadavg()[0],
        "environment": describe_environment(),
        **figures,
    }
    text = json.dumps(report, indent=2)
    print(text)
    if file is not None:
        file.write_text(text + "\n", encoding="utf-8")
