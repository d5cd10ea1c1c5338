"""A folder of reports over time."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prn_fast.bench.report.document import write_json
from prn_fast.bench.report.history import history_sections, read_history
from prn_fast.bench.report.page import render_page
from prn_fast.errors import DataError
from tests.bench.report.test_page import outline
from tests.bench.reports import make_report


def test_reports_are_read_in_the_order_of_time_and_others_are_named(tmp_path: Path) -> None:
    for day, slower in (("2026-02-02", 1.5), ("2026-01-01", 1.0), ("2026-03-03", 2.0)):
        write_json(
            make_report(slower=slower) | {"created": f"{day}T00:00:00+00:00"}, tmp_path / "cpu" / f"{slower}.json"
        )
    (tmp_path / "other.json").write_text("[1]")
    (tmp_path / "old.json").write_text(json.dumps({"schema": "prn-bench", "schema_version": 1}))
    reports, skipped = read_history(tmp_path)
    assert [report["created"][:10] for report in reports] == ["2026-01-01", "2026-02-02", "2026-03-03"]
    assert len(skipped) == 2
    parsed = outline(render_page("history", history_sections(reports)))
    text = " ".join(parsed.text)
    assert "resnet18 on" in text
    assert "batch 8" in text
    assert "2026-03-03" in text


def test_a_folder_without_reports(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_history(tmp_path / "none")
    with pytest.raises(DataError, match="holds no bench report"):
        read_history(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda report: report.pop("schema_version"),
        lambda report: report.update(schema_version="2"),
        lambda report: report["environment"].update(machine=[]),
        lambda report: report["environment"].update(gpus=[{}]),
        lambda report: report["package"].update(config={}),
        lambda report: report["results"][0].pop("latency_ms"),
        lambda report: report["results"][0]["latency_ms"].update(p50=0.0),
        lambda report: report["results"][0]["latency_ms"].update(p50_interval=[1.0]),
        lambda report: report.update(created=None),
    ],
    ids=["no version", "version", "machine", "gpus", "config", "no latency", "zero", "interval", "created"],
)
def test_one_odd_report_does_not_end_a_history(tmp_path: Path, change: Callable[[Any], None]) -> None:
    write_json(make_report(), tmp_path / "good.json")
    odd = make_report()
    change(odd)
    write_json(odd, tmp_path / "odd.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "nan.json").write_text(json.dumps(make_report()).replace("0.5,", "NaN,"))
    reports, skipped = read_history(tmp_path)
    assert len(reports) == 1
    assert [reason.partition(": ")[0] for reason in skipped] == [
        str(tmp_path / f"{name}.json") for name in ("deep", "folder", "nan", "odd")
    ]
    render_page("history", history_sections(reports))
