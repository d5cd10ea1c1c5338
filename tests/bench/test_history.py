"""A folder of reports over time."""

import json
from pathlib import Path

import pytest

from prn_fast.bench.history import history_sections, read_history
from prn_fast.bench.page import render_page
from prn_fast.bench.report import write_json
from prn_fast.errors import DataError
from tests.bench.reports import make_report
from tests.bench.test_page import outline


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
