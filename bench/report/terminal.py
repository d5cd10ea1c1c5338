"""The report on a terminal."""

from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from prn_fast.bench.engines.profile import PARTS
from prn_fast.bench.report.document import Report
from prn_fast.bench.report.formatting import ABSENT, describe_memory, finding, number, signed
from prn_fast.bench.report.markdown import EARLY_EXIT_COLUMNS, early_exit_rows

STATUS_STYLES = {"passed": "green", "failed": "bold red", "unavailable": "yellow"}
PARITY_COLUMNS = {
    "score_max_error": "score error\nmax",
    "map_mean_error": "map error\nmean",
    "map_max_error": "map error\nmax",
    "relative_error": "map error\nrelative",
}
LATENCY_COLUMNS = {"p50": "p50", "p90": "p90", "p99": "p99", "p999": "p99.9", "max": "max"}


def show(report: Report, console: Console) -> None:
    """Print the tables, faults and warnings of a report, and where it was taken."""
    console.print(as_renderable(report))


def as_renderable(report: Report) -> RenderableType:
    """Everything that `show` prints."""
    parts: list[RenderableType] = [_agreement(report)]
    if report["results"]:
        parts.append(_speed(report))
    if report["scenarios"]:
        parts.append(_scenarios(report))
    if exits := early_exit_rows(report):
        table = plain_table("With and without early exit, on the mixture of images that was fed")
        for column in EARLY_EXIT_COLUMNS:
            table.add_column(column, no_wrap=column == EARLY_EXIT_COLUMNS[0])
        for row in exits:
            table.add_row(row[0].strip("`"), *row[1:])
        parts.append(table)
    if report["profiles"]:
        parts.append(_profiles(report))
    if report["interrupted"]:
        parts.append(Text("interrupted: these are the figures up to then", style="bold yellow"))
    for engine in report["engines"]:
        style = STATUS_STYLES[engine["status"]]
        parts += [Text(f"{engine['name']} {engine['status']}: {fault}", style=style) for fault in engine["faults"]]
    for result in (*report["results"], *report["scenarios"]):
        if result["warnings"]:
            where = f"{result['engine']}, {where_of(result)}"
            parts.append(Text(f"warning: {where}: {'; '.join(result['warnings'])}", style="yellow"))
    if report["conditions"]:
        parts += [Text(f"warning: {warning}", style="yellow") for warning in report["conditions"]["warnings"]]
    parts += [Text(f"note: {note}", style="yellow") for note in report["notes"]]
    environment = report["environment"]
    machine = environment["machine"]
    parts.append(
        Text(
            f"{machine['cpu']}, {machine['usable_cores']} cores; {environment['system']}; "
            f"commit {environment['commit']}; package {report['package']['sha256'][:12]}",
            style="dim",
        )
    )
    return Group(*parts)


def _agreement(report: Report) -> Table:
    package = report["package"]
    table = plain_table(
        f"Agreement with float32 eager on {package['images']} validation images ({package['anomalies']} anomalous)"
    )
    table.add_column("engine", no_wrap=True)
    table.add_column("checks", no_wrap=True)
    for column in (*PARITY_COLUMNS.values(), "image\nAUROC", "change"):
        table.add_column(column, justify="right", no_wrap=True)
    for engine in report["engines"]:
        parity = engine["parity"] or {}
        auroc = parity.get("image_auroc")
        table.add_row(
            engine["name"],
            Text(engine["status"], style=STATUS_STYLES[engine["status"]]),
            *(number(parity.get(key), 2) for key in PARITY_COLUMNS),
            ABSENT if auroc is None else f"{auroc:.4f}",
            signed(parity.get("image_auroc_change")),
        )
    return table


def _speed(report: Report) -> Table:
    table = plain_table("Latency of one call in ms, and throughput (95 % intervals in brackets)")
    table.add_column("engine", no_wrap=True)
    for column in ("batch", *LATENCY_COLUMNS.values(), "calls", "images/s", "x eager", "peak\nMB"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in report["results"]:
        latency, speedup = result["latency_ms"], result["speedup"] or {"ratio": None, "interval": None}
        table.add_row(
            result["engine"],
            str(result["batch"]),
            _with_interval(latency["p50"], latency["p50_interval"]),
            *(number(latency[name]) for name in LATENCY_COLUMNS if name != "p50"),
            str(result["samples"]),
            number(result["images_per_second"]),
            _with_interval(speedup["ratio"], speedup["interval"]),
            describe_memory(result["memory"]),
        )
    return table


def where_of(result: dict[str, Any]) -> str:
    """Which measurement of an engine this is: its scenario, and the batch size of a closed loop."""
    return f"batch {result['batch']}" if "rounds_ms" in result else result["scenario"]


def _scenarios(report: Report) -> Table:
    table = plain_table("Scenarios: throughput, and the highest sustained rates")
    table.add_column("engine", no_wrap=True)
    table.add_column("scenario", no_wrap=True)
    table.add_column("finding")
    for entry in report["scenarios"]:
        table.add_row(entry["engine"], entry["scenario"], finding(entry))
    return table


def _profiles(report: Report) -> Table:
    table = plain_table("Where the time goes: share of one call with one image, by the backend's profiler")
    table.add_column("engine", no_wrap=True)
    for part in PARTS:
        table.add_column(part, justify="right", no_wrap=True)
    for one in report["profiles"]:
        table.add_row(one["engine"], *(f"{one['parts_ms'][part] / one['total_ms']:.0%}" for part in PARTS))
    return table


def _with_interval(value: float | None, interval: list[float] | None) -> Any:
    """The value, and below it its interval, which is only there where it could be taken."""
    text = Text(number(value))
    return text if interval is None else text.append(f"\n({number(interval[0])}–{number(interval[1])})", style="dim")


def plain_table(title: str) -> Table:
    """An empty table in the style of all tables here."""
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
