"""A folder of reports over time."""

from collections import defaultdict
from pathlib import Path

from prn_fast.bench.page import Section, render
from prn_fast.bench.plots import Series, timeline
from prn_fast.bench.report import Report, read_json
from prn_fast.errors import DataError


def read_history(folder: Path) -> tuple[list[Report], list[str]]:
    """Reports of a folder and of those in it, oldest first, and why other JSON files were skipped.

    Errors: DataError if there is no folder or no report in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    reports, skipped = [], []
    for path in sorted(folder.rglob("*.json")):
        try:
            reports.append(read_json(path))
        except DataError as error:
            skipped.append(str(error))
    if not reports:
        raise DataError(f"{folder}: holds no bench report that can be read; prn-bench --json writes one")
    return sorted(reports, key=lambda report: report["created"]), skipped


def history_sections(reports: list[Report]) -> list[Section]:
    """One section a machine and network; in it a plot a batch size, and the table of runs."""
    groups: dict[str, list[Report]] = defaultdict(list)
    for report in reports:
        machine = report["environment"]["machine"]
        device = ", ".join(gpu["name"] for gpu in report["environment"]["gpus"]) or machine["cpu"]
        groups[f"{report['package']['config']['backbone']} on {device}, {machine['usable_cores']} cores"].append(report)
    return [Section(title, render("history.html", **_figures(group))) for title, group in groups.items()]


def _figures(reports: list[Report]) -> dict[str, object]:
    batches = sorted({result["batch"] for report in reports for result in report["results"]})
    engines = sorted({result["engine"] for report in reports for result in report["results"]})
    plots = []
    for batch in batches:
        lines = []
        for position, engine in enumerate(engines):
            points = {
                index: (result["latency_ms"]["p50"], result["latency_ms"]["p50_interval"])
                for index, report in enumerate(reports)
                for result in report["results"]
                if (result["engine"], result["batch"]) == (engine, batch)
            }
            if points:
                lines.append((Series(engine, position), points))
        labels = [f"{report['created'][:10]} {report['environment']['commit'][:7]}" for report in reports]
        plots.append((batch, timeline(labels, lines)))
    return {"reports": reports, "plots": plots}
