"""An inspection on a terminal."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prn_fast.drift import describe_drift
from prn_fast.linescan.defects import Defect
from prn_fast.linescan.snapshot import Snapshot, describe_sinks

SEVERITY_STYLES = {"minor": "yellow", "major": "bold yellow", "critical": "bold red"}
DRIFT_STYLES = {"learning": "dim", "ok": "green", "watch": "yellow", "act": "bold red"}
_DEFECTS_SHOWN = 8


def as_renderable(snapshot: Snapshot, title: str) -> RenderableType:
    """Figures, ledger, drift, sinks that are behind or lost messages, and last defects."""
    state = Text(title, style="bold")
    if snapshot.error:
        state.append(f"  stopped: {snapshot.error}", style="bold red")
    elif snapshot.engine_away:
        state.append(f"  waiting for the engine: {snapshot.engine_away}", style="bold red")
    parts: list[RenderableType] = [state, _figures(snapshot)]
    if snapshot.drift is not None:
        parts.append(Text(describe_drift(snapshot.drift), style=DRIFT_STYLES[snapshot.drift.state]))
    parts += [Text(line, style="red" if snapshot.lost else "yellow") for line in describe_sinks(snapshot)]
    if snapshot.recent:
        parts.append(_defects(snapshot.recent[:_DEFECTS_SHOWN]))
    return Group(*parts)


def _figures(snapshot: Snapshot) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))
    for heading in ("lines", "inspected", "missing", "dropped", "lines/s", "p50 ms", "p99 ms", "max ms", "defects"):
        table.add_column(heading, justify="right")
    latency = snapshot.latency
    milliseconds = ("–",) * 3 if latency is None else tuple(f"{1e3 * value:.1f}" for value in vars(latency).values())
    missing, dropped = sum(snapshot.missing.values()), sum(snapshot.dropped.values())
    table.add_row(
        f"{snapshot.lines:,}",
        f"{snapshot.inspected:,}",
        Text(f"{missing:,}", style="yellow" if missing else ""),
        Text(f"{dropped:,}", style="red" if dropped else ""),
        f"{snapshot.lines_per_second:,.0f}",
        *milliseconds,
        f"{sum(snapshot.defects.values()):,}",
    )
    return table


def _defects(defects: list[Defect]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))
    for heading in ("defect", "line", "x", "lines", "width", "area", "peak"):
        table.add_column(heading, justify="right")
    table.add_column("severity")
    has_scale = any(one.millimetres is not None for one in defects)
    if has_scale:
        table.add_column("mm (along, across)")
    for one in defects:
        place = "" if one.millimetres is None else f"{one.millimetres.along:,.1f}, {one.millimetres.across:,.1f}"
        table.add_row(
            str(one.number),
            f"{one.first_line:,}",
            str(one.left),
            str(one.lines),
            str(one.width),
            f"{one.area:,}",
            f"{one.peak:.2f}",
            Text(str(one.severity), style=SEVERITY_STYLES[one.severity]),
            *([place] if has_scale else []),
        )
    return table
