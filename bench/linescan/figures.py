"""Tables of recorded runs with emulated line cameras: results/DEVICE/linescan/*.json, as their commands wrote them."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from prn_fast.bench.linescan.drift import drift_figures
from prn_fast.bench.machine.measurement import measured
from prn_fast.bench.report.markdown import table


def grab_figures(run: Mapping[str, Any]) -> str:
    """Lines that were brought into the ring, from a file of `prn_fast.bench.linescan.grab`."""
    seconds, blocks = run["seconds"], run["blocks"] / run["seconds"]
    return (
        f"{blocks:.0f} blocks/s ({run['megabytes_per_second']:.0f} MB/s) for {seconds:.0f} s: {run['lines']:,} lines, "
        f"{run['missing']:,} missing, {run['dropped']:,} dropped; {run['cores']:.2f} cores, {run['copies']:.2f} copies "
        "of each line."
    )


def fake_camera_figures(run: Mapping[str, Any]) -> str:
    """Inspections of the fake camera, from a file of `tests.linescan.fake_camera`."""
    rows = []
    for name, one in run.items():
        if not isinstance(one, dict) or "defects_judged" not in one:
            continue
        latency, judged = one["latency_ms"], one["defects_judged"]
        seconds = ", ".join(f"{latency[key] / 1000:.2f}" for key in ("p50", "p99", "maximum"))
        found = "–"
        if judged is not None:
            kinds = ("found_once", "found_more_than_once", "not_found", "found_where_nothing_was_planted")
            found = f"{judged['planted']}: {', '.join(str(judged[kind]) for kind in kinds)}"
        lost = ", ".join(f"{lines:,} {reason}" for reason, lines in one["missing"].items()) or "0"
        rows.append(
            [
                name,
                f"{one['lines_per_second']:.0f}",
                f"{one['lines_sent']:,}",
                f"{one['inspected']:,}",
                lost,
                f"{sum(one['dropped'].values()):,}",
                "yes" if one["balanced"] else "**no**",
                seconds,
                f"{one['memory_growth_mb']:.1f}",
                found,
            ]
        )
    heads = (
        "run", "lines/s", "sent", "inspected", "missing", "dropped", "ledger balances", "latency p50, p99, longest, s",
        "memory growth, MB", "planted: found once, in parts, not; elsewhere",
    )  # fmt: skip
    return f"{run['package']['name']}, {run['engine']}, {run['width']} pixels:\n\n{table(heads, rows)}"


def dashboard_figures(run: Mapping[str, Any]) -> str:
    """Frames that a browser drew, from a file of `tests.linescan.dashboard_rate`."""
    frames, lines = run["frames_per_second"], run["lines_per_second"]
    return (
        f"{frames:.0f} frames a second over {run['seconds']:.0f} s, while {lines:,.0f} lines/s of {run['width']} "
        "pixels were inspected beside it."
    )


FIGURES: dict[str, Callable[[Path], str]] = {
    "grab": partial(measured, "linescan/grab-*.json", grab_figures),
    "fake-camera": partial(measured, "linescan/fake-camera-*.json", fake_camera_figures),
    "drift": partial(measured, "linescan/drift-*.json", drift_figures),
    "dashboard": partial(measured, "linescan/dashboard.json", dashboard_figures),
}
