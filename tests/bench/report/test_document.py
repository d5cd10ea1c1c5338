"""The JSON document, its schema and its warnings."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from prn_fast.bench.report.document import SCHEMA_PATH, read_json, write_json
from prn_fast.bench.report.markdown import as_markdown, early_exit_rows
from prn_fast.bench.report.sections import bench_sections
from prn_fast.errors import DataError
from tests.bench.reports import make_report


def warnings_of(report: dict[str, Any], engine: str) -> str:
    return "; ".join(next(result["warnings"] for result in report["results"] if result["engine"] == engine))


def test_a_report_fits_the_schema_and_survives_the_file(tmp_path: Path) -> None:
    report = make_report()
    path = tmp_path / "new" / "report.json"
    write_json(report, path)
    jsonschema.Draft202012Validator.check_schema(json.loads(SCHEMA_PATH.read_text()))
    jsonschema.validate(json.loads(path.read_text()), json.loads(SCHEMA_PATH.read_text()))
    assert read_json(path) == report


def test_figures() -> None:
    results = {(result["engine"], result["batch"]): result for result in make_report()["results"]}
    eager, fast = results["eager", 1], results["openvino:int8", 1]
    assert eager["scenario"] == "single-stream"
    assert results["eager", 8]["scenario"] == "multi-stream"
    assert eager["latency_ms"]["p50"] == pytest.approx(20.0, rel=0.02)
    assert eager["speedup"] == {"ratio": 1.0, "interval": None}
    assert fast["speedup"]["ratio"] == pytest.approx(4.0, rel=0.02)
    low, high = fast["speedup"]["interval"]
    assert low <= fast["speedup"]["ratio"] <= high
    assert fast["images_per_second"] == pytest.approx(200, rel=0.02)
    assert fast["roofline"]["flop_per_second"] == pytest.approx(5e9 * fast["images_per_second"])
    assert fast["roofline"]["share_of_matrix_rate"] == pytest.approx(5e9 * fast["images_per_second"] / 9e11)
    # int8: one byte a value, weights once a batch.
    assert fast["roofline"]["bytes_per_second"] == pytest.approx((5e7 + 2e7) * fast["images_per_second"])
    assert fast["samples"] == sum(map(len, fast["rounds_ms"]))
    assert fast["latency_ms"]["p999"] is None


def test_a_failed_engine_has_faults_and_no_result() -> None:
    report = make_report(faults=["the maps do not depend on the image"])
    assert not report["passed"]
    assert {result["engine"] for result in report["results"]} == {"eager"}
    assert [engine["status"] for engine in report["engines"]] == ["passed", "failed"]
    jsonschema.validate(report, json.loads(SCHEMA_PATH.read_text()))


def test_an_unavailable_engine_is_shown_and_fails_nothing() -> None:
    report = make_report(unavailable={"tensorrt-rtx:fp16": "TensorRT-RTX is not installed"})
    assert report["passed"]
    assert report["engines"][-1]["status"] == "unavailable"
    jsonschema.validate(report, json.loads(SCHEMA_PATH.read_text()))


def test_scenarios_fit_the_schema_and_say_what_was_found() -> None:
    report = make_report(scenarios=True)
    jsonschema.validate(report, json.loads(SCHEMA_PATH.read_text()))
    found = {(entry["engine"], entry["scenario"]): entry for entry in report["scenarios"]}
    assert found["openvino:int8", "offline"]["images_per_second"] == 201.0
    assert found["eager", "offline"]["interval"] is None
    assert found["openvino:int8", "server"]["held"]["rate"] == 30.0
    assert "120 ms" in found["eager", "server"]["reason"]
    camera = found["openvino:int8", "line-camera"]
    assert camera["verdict"] == "holds 4096 px at 12 kHz, overlap 32, p99 41.0 ms of 350 strips, 0 lines lost"
    # Half the line rate of the first camera, of the same width.
    assert camera["cameras"][0]["share"] == pytest.approx(0.5)
    assert "no line rate shown to be held at 4096 px" in found["eager", "line-camera"]["verdict"]
    assert report["profiles"][0]["engine"] == "eager"


def test_early_exit_stands_below_the_same_engine_run_whole() -> None:
    report = make_report(scenarios=True)
    assert early_exit_rows(report) == []
    whole = next(one for one in report["engines"] if one["name"] == "openvino:int8")
    exits = {"good": 32, "good_left": 30, "flagged": 20, "lost": 0}
    report["engines"].append({**whole, "name": "openvino:int8/early", "early_exit": exits})
    for entry in [entry for entry in report["scenarios"] if entry["engine"] == "openvino:int8"]:
        mix = {"images": 1000, "defects": 10, "left": 950, "lost": 0}
        if entry["scenario"] == "line-camera":
            mix |= {"defects": 20, "left": 0}
        faster = {**entry, "engine": "openvino:int8/early", "mix": mix}
        if entry["scenario"] == "offline":
            faster["images_per_second"] = 4 * entry["images_per_second"]
        report["scenarios"].append(faster)
    jsonschema.validate(report, json.loads(SCHEMA_PATH.read_text()))
    first, second = early_exit_rows(report)
    assert first[:3] == ["`openvino:int8`", "–", "–"]
    assert second[:5] == ["`openvino:int8/early`", "30 of 32", "0 of 20", "1.0%", "95.0%"]
    assert second[5].endswith("(4.00 x)")
    assert second[6:8] == ["2.0%", "0.0%"]
    assert second[8].endswith("(1.00 x)")
    assert "With and without early exit" in as_markdown(report)
    assert "30 of 32" in next(section.html for section in bench_sections(report) if section.title == "Early exit")


def test_other_load_warns_in_every_scenario() -> None:
    report = make_report(scenarios=True, others_share=0.5)
    assert all("other processes used 50%" in "; ".join(entry["warnings"]) for entry in report["scenarios"])


def test_a_quiet_run_has_no_warnings() -> None:
    assert [result["warnings"] for result in make_report()["results"]] == [[], [], [], []]


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"noise": 0.3}, "spreads over"),
        ({"tail": 2.0}, "times the median"),
        ({"drift": 0.4}, "drifted by"),
        ({"others_share": 0.5}, "other processes used 50%"),
        ({"steady": False}, "not steady"),
        ({"rounds": 3}, "rounds: 3, too few"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_doubtful_run_warns(change: dict[str, Any], warning: str) -> None:
    assert warning in warnings_of(make_report(**change), "openvino:int8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[1]", "is not a bench report"),
        ('{"schema": "prn-bench", "schema_version": 99}', "update prn_fast"),
        ('{"schema": "prn-bench", "schema_version": 1}', "measure again"),
    ],
    ids=["missing", "broken", "other-json", "newer", "older"],
)
def test_a_file_that_is_no_report(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_json(path)
