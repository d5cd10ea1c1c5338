"""The report on a terminal."""

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from prn_fast.bench.report import Report
from prn_fast.bench.wording import (
    ABSENT,
    describe_memory,
    describe_speedup,
    interval_text,
    milliseconds,
    number,
    signed,
)

SPEED_COLUMNS = (
    *("batch", "p50", "95 %", "p90", "p99", "p99.9", "max", "calls"),
    *("images/s", "x eager", "95 %", "peak MB"),
)


def show(report: Report, console: Console) -> None:
    """Print the tables, warnings and faults of a report."""
    console.print(as_renderable(report))


def as_renderable(report: Report) -> RenderableType:
    """Everything that `show` prints."""
    parts: list[RenderableType] = []
    if report["interrupted"]:
        parts.append(Text("Interrupted: these are the figures up to then.", style="bold yellow"))
    parts += [_agreement(report)]
    if report["results"]:
        parts += [_speed(report)]
    for engine in report["engines"]:
        style = "bold red" if engine["status"] == "failed" else "yellow"
        parts += [Text(f"{engine['name']} {engine['status']}: {fault}", style=style) for fault in engine["faults"]]
    for result in report["results"]:
        where = f"{result['engine']}, batch {result['batch']}"
        parts += [Text(f"warning: {where}: {warning}", style="yellow") for warning in result["warnings"]]
    machine, environment = report["environment"]["machine"], report["environment"]
    parts.append(
        Text(
            f"{machine['cpu']}, {machine['usable_cores']} cores, {environment['system']}; "
            f"commit {environment['commit'][:12]}; package {report['package']['sha256'][:12]}",
            style="dim",
        )
    )
    return Group(*parts)


def _agreement(report: Report) -> Table:
    package = report["package"]
    table = Table(
        title=f"Agreement with float32 eager on {package['images']} validation images "
        f"({package['anomalies']} anomalous)",
        title_justify="left",
    )
    table.add_column("engine")
    table.add_column("checks")
    for column in ("score error max", "map error mean", "map error max", "relative", "image AUROC", "change"):
        table.add_column(column, justify="right")
    for engine in report["engines"]:
        parity = engine["parity"] or {}
        colour = {"passed": "green", "failed": "bold red", "unavailable": "yellow"}[engine["status"]]
        table.add_row(
            engine["name"],
            Text(engine["status"], style=colour),
            number(parity.get("score_max_error"), 2),
            number(parity.get("map_mean_error"), 2),
            number(parity.get("map_max_error"), 2),
            number(parity.get("relative_error"), 2),
            ABSENT if parity.get("image_auroc") is None else f"{parity['image_auroc']:.4f}",
            signed(parity.get("image_auroc_change")),
        )
    return table


def _speed(report: Report) -> Table:
    table = Table(title="Latency of one call, ms, and throughput", title_justify="left")
    table.add_column("engine")
    for column in SPEED_COLUMNS:
        table.add_column(column, justify="right")
    for result in report["results"]:
        latency = result["latency_ms"]
        ratio, ratio_interval = describe_speedup(result["speedup"])
        table.add_row(
            result["engine"],
            str(result["batch"]),
            milliseconds(latency["p50"]),
            interval_text(latency["p50_interval"]),
            *(milliseconds(latency[name]) for name in ("p90", "p99", "p999", "max")),
            str(result["samples"]),
            number(result["images_per_second"], 3),
            ratio,
            ratio_interval,
            describe_memory(result["memory"]),
        )
    return table
