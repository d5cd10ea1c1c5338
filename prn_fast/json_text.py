"""JSON for files that people read and compare: short records stay on one line."""

import json
from typing import Any

# Records that are longer get a line for each entry.
_LINE_LENGTH = 110


def json_text(value: Any, depth: int = 0) -> str:
    """JSON with one entry on each line, except for lists of plain values and for short records of them.

    Args:
        value: JSON-ready.
        depth: of the place where the text stands: how far its lines are indented.
    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot represent.
    """
    entries = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    plain = not any(isinstance(entry, dict | list | tuple) for entry in entries)
    line = json.dumps(value, allow_nan=False) if plain else ""
    if plain and (not isinstance(value, dict) or len(line) + depth <= _LINE_LENGTH):
        return line
    indent = "\n" + " " * depth
    if isinstance(value, dict):
        parts = [f"{json.dumps(str(name))}: {json_text(entry, depth + 1)}" for name, entry in value.items()]
        return f"{{{indent} " + f",{indent} ".join(parts) + f"{indent}}}"
    return f"[{indent} " + f",{indent} ".join(json_text(entry, depth + 1) for entry in value) + f"{indent}]"
