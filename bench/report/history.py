"""Reports of many runs: a folder of them over time, and those that are recorded in bench/results/."""

from collections import defaultdict
from pathlib import Path

from markupsafe import Markup

from prn_fast.bench.report.document import Report, read_json
from prn_fast.bench.report.page import Section, table_section
from prn_fast.bench.report.plots import Series, timeline
from prn_fast.errors import ConfigError, DataError

# Where recorded runs lie: in a folder for each device, by their kind.
RESULTS = Path(__file__).resolve().parents[1] / "results"
PACKAGES, BASELINES = "packages", "baselines"


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


def latest_reports(results: Path, kind: str = PACKAGES) -> list[Report]:
    """The newest report of each package on each device, whole runs only, ordered by device and package.

    Args:
        kind: name of the folder below that of the device.
    """
    reports: dict[tuple[str, str], Report] = {}
    for folder in sorted(results.glob(f"*/{kind}")):
        found, broken = read_history(folder)
        if broken:
            raise ConfigError(f"{broken[0]} (in {folder}); record it again or remove it")
        for report in found:
            if report["passed"] and not report["interrupted"]:
                reports[folder.parent.name, report["package"]["name"]] = report
    return [reports[key] for key in sorted(reports)]


def study_records(results: Path) -> Path:
    """The folder of accuracy studies' records, beside that of all other results."""
    return results.parent / "accuracy" / "results"


def history_sections(reports: list[Report]) -> list[Section]:
    """One section for each machine and network: a plot for each batch size, and the table of runs."""
    groups: dict[str, list[Report]] = defaultdict(list)
    for report in reports:
        machine = report["environment"]["machine"]
        device = ", ".join(gpu["name"] for gpu in report["environment"]["gpus"]) or machine["cpu"]
        groups[f"{report['package']['config']['backbone']} on {device}, {machine['usable_cores']} cores"].append(report)
    columns = ("Run", "Commit", "Package", "Checks", "Command")
    return [
        table_section(title, columns, [_row(report) for report in group], plots=_plots(group), texts=len(columns))
        for title, group in groups.items()
    ]


def _row(report: Report) -> tuple[None, list[object]]:
    commit, package = report["environment"]["commit"][:12], report["package"]["sha256"][:12]
    checks = "passed" if report["passed"] else "failed"
    return None, [report["created"], *map(_code, (commit, package)), checks, _code(report["command"])]


def _code(text: str) -> Markup:
    return Markup("<code>{}</code>").format(text)


def _plots(reports: list[Report]) -> list[tuple[str, Markup]]:
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
        caption = f"Median latency at batch {batch}, ms, with its 95 % interval, run by run"
        plots.append((caption, timeline(labels, lines)))
    return plots
