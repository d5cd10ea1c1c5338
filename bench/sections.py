"""A bench report as sections of the HTML page."""

from typing import Any

from prn_fast.bench.page import Section, render
from prn_fast.bench.parity import TOLERANCES
from prn_fast.bench.plots import Series, latency_bars, relative_spread, throughput_lines
from prn_fast.bench.report import BASELINE, Report, conclusive

COLOURS = 6  # classes s1 to s6; s0 is the baseline's


def bench_sections(report: Report) -> list[Section]:
    """Summary, latency, throughput, agreement and environment; a section without any figures is left out."""
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
    sections.append(Section("Agreement", render("agreement.html", report=report, series=series, tolerances=TOLERANCES)))
    sections.append(Section("Environment", render("environment.html", report=report)))
    return sections


def _series(report: Report) -> dict[str, Series]:
    others = [engine["name"] for engine in report["engines"] if engine["name"] != BASELINE]
    series = {name: Series(name, 1 + position % COLOURS) for position, name in enumerate(others)}
    return {BASELINE: Series(BASELINE, 0), **series}


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
