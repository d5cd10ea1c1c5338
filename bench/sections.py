"""A bench report as sections of the HTML page."""

from typing import Any

from markupsafe import Markup

from prn_fast.bench.page import Section, render
from prn_fast.bench.parity import TOLERANCES
from prn_fast.bench.plots import (
    Series,
    latency_bars,
    part_bars,
    rate_curve,
    relative_spread,
    roofline,
    throughput_lines,
)
from prn_fast.bench.profile import PARTS
from prn_fast.bench.report import BASELINE, Report, conclusive
from prn_fast.bench.scenarios import OPEN_LOOPS
from prn_fast.bench.scenarios.line_camera import MOST_BUSY

COLOURS = 6  # classes s1 to s6; s0 is the baseline's


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
            rates = _rates(report, series)
            plot = throughput_lines(batches, rates)
            sections.append(Section("Throughput", render("throughput.html", plot=plot, batches=batches, rates=rates)))
    sections += _scenario_sections(report, series)
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
        body = render("line_camera.html", entries=entries, series=series, curve=curve, most_busy=f"{MOST_BUSY:.0%}")
        sections.append(Section("Line camera", body))
    if entries := found["server"]:
        curve = _curve(entries, series, "images a second, arriving at random", report["settings"]["p99_ms"])
        sections.append(Section("Server", render("server.html", entries=entries, series=series, curve=curve)))
    if entries := found["offline"]:
        sections.append(Section("Offline", render("offline.html", entries=entries, series=series)))
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
        values = {"plot": plot, "report": report, "measured": measured, "series": series}
        sections.append(Section("Roofline", render("roofline.html", **values)))
    if report["profiles"]:
        bars = part_bars([(series[one["engine"]], one["parts_ms"]) for one in report["profiles"]])
        values = {"bars": bars, "profiles": report["profiles"], "parts": PARTS, "series": series}
        sections.append(Section("Where the time goes", render("profile.html", **values)))
    return sections


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
