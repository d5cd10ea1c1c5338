"""Two reports against each other: what got slower or faster, beyond the noise of both."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.text import Text

from prn_fast.bench import stats
from prn_fast.bench.report.document import Report
from prn_fast.bench.report.formatting import ABSENT, number
from prn_fast.bench.report.terminal import plain_table

SAME, UNKNOWN = "same", "unknown"
# What must be equal for figures to mean the same.
PLACES = {
    "package": lambda report: report["package"]["sha256"],
    "processor": lambda report: report["environment"]["machine"]["cpu"],
    "usable cores": lambda report: report["environment"]["machine"]["usable_cores"],
    "GPUs": lambda report: [gpu["name"] for gpu in report["environment"]["gpus"]],
    "thread settings": lambda report: report["environment"]["variables"],
}


@dataclass(frozen=True)
class Change:
    """One figure in both reports.

    Attributes:
        what: engine and measurement.
        slowdown: time after over time before, or rate before over rate after: over 1 is slower.
        interval: 95 % bounds of it; None where there are too few rounds, and then nothing is concluded.
        verdict: "same" (within noise), "unknown" (no interval), "faster", "slower" or "regression" (slower by more than
            the bound for sure).
    """

    what: str
    before: float
    after: float
    unit: str
    slowdown: float
    interval: tuple[float, float] | None
    verdict: str


@dataclass
class Comparison:
    """All changes.

    Attributes:
        notes: why the reports may not be comparable, and figures that only the second has.
        broken: engines that passed their checks before and fail now.
        unjudged: figures of which nothing can be said, and why: those that the second report lacks, though their engine
            does not fail its checks, and those with too few rounds for an interval.
    """

    changes: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)

    @property
    def regressions(self) -> list[str]:
        """What got worse beyond the bound."""
        return self.broken + [change.what for change in self.changes if change.verdict == "regression"]


def compare_reports(before: Report, after: Report, bound: float) -> Comparison:
    """Match figures by engine and measurement and compare them.

    Args:
        bound: relative slowdown; where the interval lies above it as a whole, that is a regression.
    """
    comparison = Comparison()
    for name, read in PLACES.items():
        if read(before) != read(after):
            comparison.notes.append(f"not the same {name}: {read(before)} and {read(after)}")
    status = {engine["name"]: engine["status"] for engine in before["engines"]}
    failed = [engine["name"] for engine in after["engines"] if engine["status"] == "failed"]
    for engine in after["engines"]:
        if engine["name"] in failed and status.get(engine["name"]) == "passed":
            comparison.broken.append(f"{engine['name']}: {'; '.join(engine['faults'])}")
    old, new = dict(_figures(before)), dict(_figures(after))
    for what in sorted(new.keys() - old.keys()):
        comparison.notes.append(f"only in the second report: {what}")
    for what, figure in old.items():
        if what not in new:
            lacking = comparison.notes if figure.engine in failed else comparison.unjudged
            lacking.append(f"only in the first report: {what}")
    for what in sorted(old.keys() & new.keys()):
        change = _change(what, old[what], new[what], bound)
        comparison.changes.append(change)
        if change.verdict == UNKNOWN and not old[what].searched:
            comparison.unjudged.append(f"too few rounds for an interval: {what}")
    if not old:
        comparison.unjudged.append("the first report holds no figure")
    return comparison


def show_comparison(comparison: Comparison, console: Console) -> None:
    """Print the table, notes and what broke."""
    styles = {"regression": "bold red", "slower": "yellow", "faster": "green", SAME: "dim", UNKNOWN: "dim"}
    table = plain_table("Time after over time before; 95 % interval in brackets")
    table.add_column("figure", no_wrap=True)
    for column in ("before", "after", "slowdown"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for change in comparison.changes:
        low, high = change.interval or (None, None)
        bounds = f" ({number(low)}–{number(high)})" if change.interval else f" ({ABSENT})"
        table.add_row(
            change.what,
            f"{number(change.before)} {change.unit}",
            f"{number(change.after)} {change.unit}",
            number(change.slowdown) + bounds,
            Text(change.verdict, style=styles[change.verdict]),
        )
    console.print(table)
    for note in comparison.notes:
        console.print(Text(f"note: {note}", style="yellow"))
    for reason in comparison.unjudged:
        console.print(Text(f"cannot be judged: {reason}", style="bold yellow"))
    for broken in comparison.broken:
        console.print(Text(f"fails its checks now: {broken}", style="bold red"))


@dataclass(frozen=True)
class _Figure:
    """Rounds of an engine's figure; `rate` is true where more is better, `searched` where a search gave one rate."""

    engine: str
    rounds: list[list[float]]
    unit: str
    rate: bool
    searched: bool = False


def _figures(report: Report) -> Iterator[tuple[str, _Figure]]:
    for result in report["results"]:
        engine = result["engine"]
        yield f"{engine}, batch {result['batch']}", _Figure(engine, result["rounds_ms"], "ms", rate=False)
    for entry in report["scenarios"]:
        engine, what = entry["engine"], f"{entry['engine']}, {entry['scenario']}"
        if entry["scenario"] == "offline":
            rates = [[rate] for rate in entry["rates"]]
            yield f"{what}, batch {entry['batch']}", _Figure(engine, rates, "images/s", rate=True)
        elif entry["held"]:
            where = f"p99 {entry['p99_ms']:g} ms" if entry["scenario"] == "server" else _geometry(entry)
            unit = "images/s" if entry["scenario"] == "server" else "lines/s"
            # One search gives one rate: no interval, so it is shown and nothing is concluded.
            yield f"{what}, {where}", _Figure(engine, [[entry["held"]["rate"]]], unit, rate=True, searched=True)


def _geometry(entry: dict[str, Any]) -> str:
    return f"{entry['width']} px, overlap {entry['overlap']}"


def _change(what: str, before: _Figure, after: _Figure, bound: float) -> Change:
    slow, fast = (before.rounds, after.rounds) if before.rate else (after.rounds, before.rounds)
    slowdown = stats.median(slow) / stats.median(fast)
    interval = stats.unpaired_ratio_interval(slow, fast)
    verdict = SAME
    if interval is None:
        verdict = UNKNOWN
    elif interval[0] > 1 + bound:
        verdict = "regression"
    elif interval[0] > 1:
        verdict = "slower"
    elif interval[1] < 1:
        verdict = "faster"
    return Change(
        what, stats.median(before.rounds), stats.median(after.rounds), before.unit, slowdown, interval, verdict
    )
