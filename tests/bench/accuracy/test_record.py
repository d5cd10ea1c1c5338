"""Records: what is written is read again, and nothing else is read."""

import json
from pathlib import Path

import jsonschema
import pytest

from prn_fast.bench.accuracy.record import (
    MAPS_FILE,
    SCHEMA_PATH,
    Record,
    find_run,
    put_run,
    read_record,
    read_records,
    write_record,
)
from prn_fast.errors import DataError


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(SCHEMA_PATH.read_text()))


def test_a_record_survives_writing(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "tiles-seen.json"
    write_record(record, path)
    assert read_record(path) == record
    assert read_records(tmp_path, "seen") == {"tiles-seen.json": record}
    assert read_records(tmp_path, "recipe") == {}


def test_a_run_takes_the_place_of_the_one_before(record: Record) -> None:
    count = len(record["runs"])
    put_run(record, record["runs"][0] | {"commit": "later"})
    assert len(record["runs"]) == count
    assert find_run(record, "10 seen", 0)["commit"] == "later"
    assert find_run(record, "10 seen", 7) is None


def damage_nan(run: dict) -> None:
    run["test"]["pixel"]["pro"] = float("nan")


def damage_range(run: dict) -> None:
    run["test"]["image"]["auroc"] = 95.3


def damage_missing(run: dict) -> None:
    del run["commands"]["evaluate"]


def damage_type(run: dict) -> None:
    run["test"]["kinds"][0]["count"] = "many"


DAMAGE = {
    "nan": (damage_nan, "NaN is no figure"),
    "range": (damage_range, r"runs\.0\.test\.image\.auroc: 95\.3 is greater"),
    "missing": (damage_missing, "'evaluate' is a required property"),
    "type": (damage_type, "'many' is not of type 'integer'"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_what_is_no_record_is_refused(record: Record, tmp_path: Path, damage, message: str) -> None:
    path = tmp_path / "bad.json"
    damage(record["runs"][0])
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=rf"bad\.json: .*{message}"):
        read_record(path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"schema": "prn-bench"}'])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(DataError, match=r"other\.json"):
        read_records(tmp_path, "seen")


def test_figures_of_maps_lie_among_the_records_and_are_none(record: Record, tmp_path: Path) -> None:
    write_record(record, tmp_path / "tiles-seen.json")
    (tmp_path / MAPS_FILE).write_text('{"schema": "prn-maps", "packages": []}')
    assert read_records(tmp_path, "seen") == {"tiles-seen.json": record}
    # Under any other name they are refused.
    (tmp_path / MAPS_FILE).rename(tmp_path / "tiles-maps.json")
    with pytest.raises(DataError, match=r"tiles-maps\.json"):
        read_records(tmp_path, "seen")


@pytest.mark.parametrize("damage", [damage_nan, damage_range])
def test_no_broken_record_is_written_over_a_good_one(record: Record, tmp_path: Path, damage) -> None:
    path = tmp_path / "tiles-seen.json"
    write_record(record, path)
    before = path.read_text()
    damage(record["runs"][0])
    with pytest.raises(DataError, match="not written"):
        write_record(record, path)
    assert path.read_text() == before
