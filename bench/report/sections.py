"""A bench report as sections of the HTML page."""

from typing import Any

from markupsafe import Markup

from prn_fast.bench.engines.profile import PARTS
from prn_fast.bench.report.document import BASELINE, Report, conclusive
from prn_fast.bench.report.formatting import ABSENT, interval_text, number
from prn_fast.bench.report.markdown import EARLY_EXIT_COLUMNS, early_exit_rows
from prn_fast.bench.report.page import Section, render, table_section
from prn_fast.bench.report.plots import (
    Series,
    latency_bars,
    part_bars,
    rate_curve,
    relative_spread,
    roofline,
    throughput_lines,
)
from prn_fast.bench.scenarios.line_camera import MAX_BUSY
from prn_fast.bench.settings import OPEN_LOOPS
from prn_fast.engine.parity import TOLERANCES

COLOURS = 6  # classes s1 to s6; s0 is the baseline's
_THROUGHPUT = (
    "Images per second against images in one call (closed loop: each call starts when the one before has ended)"
)
_EARLY_EXIT = (
    "For each engine with a screen: all images run whole, plainly normal images leave after the screen, and the screen "
    "alone. The timed images are a stated mixture of validation images. An engine that loses a defect which the whole "
    "network detects gets no speed."
)
_OFFLINE = (
    "All images are there at once (MLPerf LoadGen's offline scenario); the engine takes a batch at a time. Small "
    "figures: 95 % bootstrap interval of the median over runs, which alternate between engines."
)
_ROOFLINE = (
    "Roofs are the machine's own, measured in this run: {products} GFLOP/s in large matrix products and convolutions, "
    "{copy} GB/s in copying. Work is what the network has to do without waste; traffic counts the operands of its "
    "convolutions and matrix products once, so caches can beat it."
)
_UNDER_ROOFS = "Each engine under the roofs of the precisions that engines compute in; a line joins its batch sizes"


def bench_sections(report: Report) -> list[Section]:
    """All sections in the order of the page; one without any figures is left out."""
    series = _series(report)
    speeds = {(result["engine"], result["batch"]): result for result in report["results"]}
    batches = sorted({batch for _, batch in speeds})
    sections = [Section("Summary", render("summary.html", **_summary(report, series, batches, speeds)))]
    if speeds:
        figures = [_latency_figures(report, series, batch) for batch in batches]
        sections.append(Section("Latency", render("latency.html", figures=figures)))
        if len(batches) > 1:
            plot = throughput_lines(batches, _rates(report, series))
            sections.append(table_section("Throughput", plots=[(_THROUGHPUT, plot)]))
    sections += _scenario_sections(report, series)
    if exits := [(None, [row[0].strip("`"), *row[1:]]) for row in early_exit_rows(report)]:
        sections.append(table_section("Early exit", EARLY_EXIT_COLUMNS, exits, text=_EARLY_EXIT))
    sections += _inside_sections(report, series)
    sections.append(Section("Agreement", render("agreement.html", report=report, series=series, tolerances=TOLERANCES)))
    sections.append(Section("Environment", render("environment.html", report=report)))
    return sections


def _series(report: Report) -> dict[str, Series]:
    others = [engine["name"] for engine in report["engines"] if engine["name"] != BASELINE]
    series = {name: Series(name, 1 + position % COLOURS) for position, name in enumerate(others)}
    return {BASELINE: Series(BASELINE, 0), **series}


def _scenario_sections(report: Report, series: dict[str, Series]) -> list[Section]:
    """Offline, server and line-camera, as far as they were run."""
    found = {name: [e for e in report["scenarios"] if e["scenario"] == name] for name in OPEN_LOOPS}
    sections = []
    if entries := found["line-camera"]:
        curve = _curve(entries, series, "lines a second", None)
        body = render("line_camera.html", entries=entries, series=series, curve=curve, max_busy=f"{MAX_BUSY:.0%}")
        sections.append(Section("Line camera", body))
    if entries := found["server"]:
        curve = _curve(entries, series, "images a second, arriving at random", report["settings"]["p99_ms"])
        sections.append(Section("Server", render("server.html", entries=entries, series=series, curve=curve)))
    if entries := found["offline"]:
        columns = ("Engine", "Batch", "Images/s", "Slowest run", "Fastest run", "Runs", "Images")
        rows = [(series[entry["engine"]].style, _offline_row(entry)) for entry in entries]
        sections.append(table_section("Offline", columns, rows, text=_OFFLINE))
    return sections


def _curve(
    entries: list[dict[str, Any]], series: dict[str, Series], x_title: str, limit_ms: float | None
) -> Markup | None:
    """Tail latency of every run against its rate; None where no run answered anything."""
    rows = []
    for entry in entries:
        runs = [
            (run["rate"], tail, run["held"])
            for run in entry["runs"]
            if (tail := run["latency_ms"]["p99"] or run["latency_ms"]["max"])
        ]
        if runs:
            rows.append((series[entry["engine"]], runs))
    return rate_curve(rows, x_title, limit_ms) if rows else None


def _inside_sections(report: Report, series: dict[str, Series]) -> list[Section]:
    """Roofline and profiles."""
    sections = []
    measured = [r for r in report["results"] if r["roofline"]]
    if measured and report["matrix_rates"] and report["copy_bytes_per_second"]:
        used = {engine["precision"] for engine in report["engines"] if engine["name"] in series}
        plot = roofline(
            [(name, rate) for name, rate in report["matrix_rates"].items() if name in used],
            report["copy_bytes_per_second"],
            [
                (series[r["engine"]], r["batch"], r["roofline"]["flop_per_byte"], r["roofline"]["flop_per_second"])
                for r in measured
            ],
        )
        columns = ("Engine", "Batch", "GFLOP/s", "of the matrix rate", "GB/s", "of the copy rate", "FLOP/byte")
        rows = [(series[result["engine"]].style, _roofline_row(result)) for result in measured]
        text = _ROOFLINE.format(
            products=", ".join(f"{name} {number(rate / 1e9)}" for name, rate in report["matrix_rates"].items()),
            copy=number(report["copy_bytes_per_second"] / 1e9),
        )
        sections.append(table_section("Roofline", columns, rows, text=text, plots=[(_UNDER_ROOFS, plot)]))
    if report["profiles"]:
        bars = part_bars([(series[one["engine"]], one["parts_ms"]) for one in report["profiles"]])
        values = {"bars": bars, "profiles": report["profiles"], "parts": PARTS, "series": series}
        sections.append(Section("Where the time goes", render("profile.html", **values)))
    return sections


def _offline_row(entry: dict[str, Any]) -> list[object]:
    rate = Markup("{}<small>{}</small>").format(
        number(entry["images_per_second"]), interval_text(entry["interval"]) if entry["interval"] else ""
    )
    rates = entry["rates"]
    return [entry["engine"], entry["batch"], rate, number(min(rates)), number(max(rates)), len(rates), entry["queries"]]


def _roofline_row(result: dict[str, Any]) -> list[object]:
    at = result["roofline"]
    return [
        result["engine"],
        result["batch"],
        number(at["flop_per_second"] / 1e9),
        _percent(at["share_of_matrix_rate"]),
        number(at["bytes_per_second"] / 1e9),
        _percent(at["share_of_copy_rate"]),
        number(at["flop_per_byte"]),
    ]


def _percent(share: float | None) -> str:
    return ABSENT if share is None else f"{number(100 * share, 2)} %"


def _summary(
    report: Report,
    series: dict[str, Series],
    batches: list[int],
    speeds: dict[tuple[str, int], dict[str, Any]],
) -> dict[str, Any]:
    failed = [engine["name"] for engine in report["engines"] if engine["status"] == "failed"]
    aurocs = {e["name"]: e["parity"]["image_auroc"] for e in report["engines"] if e["parity"]}
    # One tile an engine, at the smallest batch that it was measured at.
    tiles = []
    for engine in report["engines"]:
        measured = [batch for batch in batches if (engine["name"], batch) in speeds]
        if measured:
            tiles.append(speeds[engine["name"], measured[0]])
    others = [tile for tile in tiles if tile["engine"] != BASELINE and tile["speedup"]]
    firm = [tile for tile in others if conclusive(tile)]
    best = max(firm, key=lambda tile: tile["speedup"]["ratio"], default=None)
    return {
        "report": report,
        "series": series,
        "failed": failed,
        "tiles": tiles,
        "best": best,
        "inconclusive": bool(others) and not firm,
        "conclusive": conclusive,
        "aurocs": aurocs,
        "cameras": [entry for entry in report["scenarios"] if entry["scenario"] == "line-camera"],
    }


def _latency_figures(report: Report, series: dict[str, Series], batch: int) -> dict[str, Any]:
    results = [result for result in report["results"] if result["batch"] == batch]
    return {
        "batch": batch,
        "bars": latency_bars([(series[r["engine"]], r["latency_ms"]) for r in results]),
        "spread": relative_spread(
            [(series[r["engine"]], [call for calls in r["rounds_ms"] for call in calls]) for r in results]
        ),
    }


def _rates(report: Report, series: dict[str, Series]) -> list[tuple[Series, dict[int, float]]]:
    rates: dict[str, dict[int, float]] = {}
    for result in report["results"]:
        rates.setdefault(result["engine"], {})[result["batch"]] = result["images_per_second"]
    return [(series[name], by_batch) for name, by_batch in rates.items()]
