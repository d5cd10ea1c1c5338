"""The record of a study: one JSON with every run's command, machine and figures; `record_schema.json` is its schema.

It names no path of a machine: data is named by its folder's name, and commands are those of the folder they ran in.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from prn_fast.errors import ConfigError, DataError
from prn_fast.files import replace_file
from prn_fast.json_text import json_text

SCHEMA, SCHEMA_VERSION = "prn-accuracy", 1
SCHEMA_PATH = Path(__file__).with_name("record_schema.json")
MAPS_FILE = "maps.json"  # of `maps.py`; it lies among the records and is none

Record = dict[str, Any]
Run = dict[str, Any]


def new_record(study: str, data: str) -> Record:
    """A record without runs; `data` is the name of the data's folder."""
    return {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "study": study, "data": data, "runs": []}


def read_record(path: Path) -> Record:
    """Read a record.

    Errors: DataError for a file that cannot be read, is no record, misses a figure or holds one that is not a number.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as the record of an accuracy study: {error}") from None
    if fault := _first_fault(record):
        raise DataError(f"{path}: is no record of an accuracy study ({fault}); record it again or remove it")
    return record


def read_records(folder: Path, study: str) -> dict[str, Record]:
    """All records of one study in a folder, by file name. Errors: as for `read_record`, for any of them."""
    records = {path.name: read_record(path) for path in sorted(folder.glob("*.json")) if path.name != MAPS_FILE}
    return {name: record for name, record in records.items() if record["study"] == study}


def write_record(record: Record, path: Path) -> None:
    """Write a record; an interruption leaves the one before. Errors: DataError for a record that would not be read."""
    if fault := _first_fault(record):
        raise DataError(f"{path}: not written, it would be no record of an accuracy study ({fault})")
    try:
        text = json_text(record)
    except ValueError as error:
        raise DataError(f"{path}: not written: {error}") from None
    replace_file(path, (text + "\n").encode())


def find_run(record: Record, variant: str, seed: int) -> Run | None:
    """The run of a variant and seed; there is at most one."""
    return next((run for run in record["runs"] if (run["variant"], run["seed"]) == (variant, seed)), None)


def put_run(record: Record, run: Run) -> None:
    """Add a run in place of the one of the same variant and seed."""
    record["runs"] = [
        other for other in record["runs"] if (other["variant"], other["seed"]) != (run["variant"], run["seed"])
    ] + [run]


def figure(run: Run, name: Sequence[str]) -> float:
    """A figure by its keys, such as ("test", "image", "auroc")."""
    value: Any = run
    for key in name:
        value = value[key]
    return float(value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no figure")


def _first_fault(record: object) -> str | None:
    """What the schema finds wrong first, with its place; None where all is well."""
    try:
        from jsonschema import Draft202012Validator
    except ImportError:
        raise ConfigError("jsonschema is not installed: pip install 'prn-fast[bench]'") from None
    validator = Draft202012Validator(json.loads(SCHEMA_PATH.read_text(encoding="utf-8")))
    error = next(iter(sorted(validator.iter_errors(record), key=lambda error: list(map(str, error.path)))), None)
    if error is None:
        return None
    message = error.message if len(error.message) < 120 else f"{error.message[:117]}..."
    return f"{'.'.join(map(str, error.path)) or 'the document'}: {message}"
