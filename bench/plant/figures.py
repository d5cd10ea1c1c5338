"""Tables of many lines and images: lines on one server as simulated, and servers and clusters as they were measured."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prn_fast.bench.machine.measurement import measured
from prn_fast.bench.plant.simulation import DRAWS, SECONDS, Server, ServiceTimes, lines_held
from prn_fast.bench.report.document import Report
from prn_fast.bench.report.history import latest_reports
from prn_fast.bench.report.markdown import provenance, table
from prn_fast.errors import ConfigError

BOUNDS_MS = (50.0, 100.0, 250.0)
RATES = (0.2, 0.5, 1.0, 2.0, 5.0)
LINES = 64


def service_times(report: Report, engine: str | None = None) -> tuple[str, ServiceTimes]:
    """The calls of a report's closed loops, of the engine with the most images a second or of a named one.

    Raises:
        ConfigError: the report has no such engine.
    """
    results = report["results"]
    names = sorted({result["engine"] for result in results})
    if not results or (engine is not None and engine not in names):
        raise ConfigError(f"the report of {report['package']['name']} measures no {engine}; choose one of {names}")
    name = engine or max(results, key=lambda result: result["images_per_second"])["engine"]
    measured_times = {
        result["batch"]: [call / 1e3 for calls in result["rounds_ms"] for call in calls]
        for result in results
        if result["engine"] == name
    }
    return name, ServiceTimes.of(measured_times)


def plant_table(
    report: Report,
    server: Server,
    *,
    engine: str | None = None,
    bounds_ms: Sequence[float] = BOUNDS_MS,
    rates: Sequence[float] = RATES,
    images: int = 1,
    most: int = LINES,
) -> str:
    """Lines that one server holds, for each rate of a line and bound of p99; with what it rests on."""
    name, times = service_times(report, engine)
    rests = ", ".join(
        f"batch {size}: p50 {1e3 * np.median(samples):.1f} ms, p99 {1e3 * np.percentile(samples, 99):.1f} ms of "
        f"{len(samples)} calls"
        for size, samples in zip(times.batches, times.samples, strict=True)
    )
    if not (all(0 < one < math.inf for one in (*rates, *bounds_ms)) and 1 <= images <= server.batch and most >= 1):
        raise ConfigError(
            f"a request of {images} images must fit in a batch of {server.batch}; rates and bounds are above 0, "
            "and lines 1 or more"
        )
    rows = []
    for rate in rates:
        row = [f"{rate:g}"]
        for bound in bounds_ms:
            held, runs = lines_held(bound / 1e3, most, 1 / rate, images, server, times)
            if not held:
                row.append("none")
                continue
            worst, busy = max(run.p99 for run in runs), float(np.mean([run.busy for run in runs]))
            row.append(f"{held}{' or more' if held == most else ''} ({1e3 * worst:.0f} ms, {busy:.0%} busy)")
        rows.append(row)
    heads = [f"requests/s of a line, {images} image{'s' if images > 1 else ''} each"]
    heads += [f"lines at p99 within {bound:g} ms" for bound in bounds_ms]
    config = report["package"]["config"]
    size = f"{config['image_size']}x{config['image_size']}"
    return (
        f"**{config['backbone']}, {size}, `{name}`**, simulated from measured service times ({rests}). Up to {most} "
        f"lines, at most {server.batch} images together, {server.queue} requests waiting, held back for "
        f"{1e3 * server.delay:g} ms, {1e3 * server.overhead:g} ms of the server's own; {DRAWS} draws of the lines' "
        f"phases, {SECONDS:g} s each, the worst draw counts:\n\n{table(heads, rows)}\n\n{provenance(report)}"
    )


def plant_figures(results: Path) -> str:
    """Each recorded report's fastest engine."""
    return "\n\n".join(plant_table(report, Server()) for report in latest_reports(results))


def remote_figures(run: Mapping[str, Any]) -> str:
    """A server beside the local engine, from a file of `prn_fast.bench.plant.remote`."""
    rows = []
    for name, one in run["ways"].items():
        low, high = one["ratio_interval"] or (math.nan, math.nan)
        p50, p99 = (one["latency_ms"][key] for key in ("p50", "p99"))
        rows.append(
            [
                name,
                f"{one['images_per_second']:.1f}",
                f"{one['ratio']:.2f} ({low:.2f} to {high:.2f})" if one["ratio_interval"] else f"{one['ratio']:.2f}",
                f"{p50:.0f}",
                "–" if p99 is None else f"{p99:.0f}",
                f"{one['verdicts_differ']}",
            ]
        )
    heads = ("way", "images/s", "speed, of local (medians, 95 % interval)", "p50 ms", "p99 ms", "verdicts that differ")
    return (
        f"{run['package']}, {run['engine']}, {run['images']} images in requests of {run['batch']}, all ways in turns, "
        f"{run['rounds']} rounds:\n\n{table(heads, rows)}"
    )


def archive_figures(run: Mapping[str, Any]) -> str:
    """An archive on a Ray cluster beside one process, from a file of `prn_fast.bench.archive`."""
    rows = [
        ["one process, one thread", f"{run['one_thread']['images_per_second']:.1f}", "1.00"],
        [f"Ray, {run['actors']} actors", f"{run['ray']['images_per_second']:.1f}", f"{run['ratio']:.2f}"],
    ]
    return (
        f"{run['package']}, {run['engine']}, {run['images']:,} images, {run['broken']} of them broken; the run on Ray "
        f"was killed after {run['killed_after']:,} and ended with the same files:\n\n"
        f"{table(('way', 'images/s', 'speed, of one process'), rows)}"
    )


FIGURES: dict[str, Callable[[Path], str]] = {
    "plant": plant_figures,
    "remote": partial(measured, "serving/remote-*.json", remote_figures),
    "archive": partial(measured, "serving/archive-*.json", archive_figures),
}
