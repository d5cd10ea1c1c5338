"""What a network finds against how fast its engines are: the presets' study beside the reports of prn-bench."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from prn_fast.bench.accuracy.record import figure, read_records
from prn_fast.bench.accuracy.studies import STUDIES
from prn_fast.bench.report.document import Report
from prn_fast.bench.report.formatting import number
from prn_fast.bench.report.markdown import table
from prn_fast.bench.report.page import render
from prn_fast.bench.report.plots import WIDTH, Series, accuracy_against_speed
from prn_fast.errors import ConfigError

STUDY, NOT_MEASURED = "presets", "not measured"
PLOT = Path(__file__).resolve().parents[2] / "docs" / "accuracy-speed.svg"
IMAGE_AUROC = ("test", "image", "auroc")


@dataclass(frozen=True)
class Point:
    """A preset and one of its engines; what has not been measured is None.

    Attributes:
        data: folder name of the images that were scored.
        accuracy: smallest, mean and largest image AUROC over seeds, of the float32 network.
        rate: images/s of the engine at its best batch size.
    """

    preset: str
    data: str | None = None
    accuracy: tuple[float, float, float] | None = None
    engine: str | None = None
    batch: int | None = None
    device: str | None = None
    rate: float | None = None


def points(folder: Path, reports: Sequence[Report]) -> list[Point]:
    """Every engine of every preset in the presets' study, at the image size that accuracy was measured with.

    Args:
        folder: of the studies' records.
        reports: of prn-bench.
    """
    found: list[Point] = []
    for preset in (variant.train_options()["--preset"] for variant in STUDIES[STUDY].variants):
        assert preset is not None
        accuracies = _accuracies(folder, preset)
        speeds = _speeds(reports, preset, {size for _, size, _ in accuracies})
        scored = [Point(preset, data, accuracy) for data, _, accuracy in accuracies] or [Point(preset)]
        for point in scored:
            found += [
                replace(point, engine=engine, batch=batch, device=device, rate=rate)
                for engine, batch, device, rate in speeds
            ] or [point]
    return found


def speed_figures(folder: Path, reports: Sequence[Report], plot: Path = PLOT) -> str:
    """The table, and the picture where it has been drawn."""
    rows = [
        [
            f"`{point.preset}`",
            f"`{point.engine}`" if point.engine else NOT_MEASURED,
            point.device or "",
            NOT_MEASURED if point.rate is None else f"{number(point.rate)} (batch {point.batch})",
            NOT_MEASURED if point.accuracy is None else f"{point.accuracy[1]:.3f} ({point.data})",
        ]
        for point in points(folder, reports)
    ]
    picture = f"![Image AUROC against images a second]({plot.name})\n\n" if plot.is_file() else ""
    return picture + table(("network", "engine", "device", "images/s", "image AUROC"), rows)


def write_plot(folder: Path, reports: Sequence[Report], path: Path | None = None) -> str:
    """Draw the points that have both figures; returns what was drawn and what was not, in words.

    Errors: ConfigError where no point has both.
    """
    path, found = path or PLOT, points(folder, reports)
    rows, presets = [], list(dict.fromkeys(point.preset for point in found))
    for point in found:
        if point.accuracy is not None and point.rate is not None:
            series = Series(f"{point.preset} {point.engine}", 1 + presets.index(point.preset))
            rows.append((series, point.rate, point.accuracy))
    missing = [line for preset in presets for line in _missing(preset, found)]
    if not rows:
        raise ConfigError(f"no network has both figures: {'; '.join(missing)}")
    plot = accuracy_against_speed(rows, "images/s", "image AUROC")
    path.write_text(standalone(str(plot)), encoding="utf-8")
    return "\n".join([f"{path}: {len(rows)} points", *missing])


def standalone(svg: str) -> str:
    """A plot as a file of its own: with the report's style inside, light and dark."""
    height = re.search(r'viewBox="0 0 \d+ (\d+)"', svg)
    assert height
    size = f"svg.plot {{ width: {WIDTH}px; height: {height[1]}px; background: var(--card); }}"
    style = render("style.css")
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height[1]}" class="plot"'
    return svg.replace('<svg class="plot"', opening, 1).replace(">", f"><style>{style}\n{size}</style>", 1) + "\n"


def _missing(preset: str, found: Sequence[Point]) -> list[str]:
    own = [point for point in found if point.preset == preset]
    lines = []
    if all(point.accuracy is None for point in own):
        lines.append(f"{preset}: accuracy {NOT_MEASURED}")
    if all(point.rate is None for point in own):
        lines.append(f"{preset}: speed {NOT_MEASURED}")
    return lines


def _accuracies(folder: Path, preset: str) -> list[tuple[str, int, tuple[float, float, float]]]:
    """Data, image size, and image AUROC over seeds, of each record with runs of a preset."""
    found = []
    for record in read_records(folder, STUDY).values():
        runs = [run for run in record["runs"] if run["training"]["preset"] == preset]
        if runs:
            values = [figure(run, IMAGE_AUROC) for run in runs]
            spread = (min(values), float(np.mean(values)), max(values))
            found.append((record["data"], runs[0]["test"]["image_size"], spread))
    return found


def _speeds(reports: Sequence[Report], preset: str, sizes: set[int]) -> list[tuple[str, int, str, float]]:
    """Engine, batch, device and images/s of each engine that passed its checks, at its best batch size.

    Without sizes, packages of any image size count.
    """
    best: dict[tuple[str, str], tuple[str, int, str, float]] = {}
    for report in reports:
        package, environment = report["package"], report["environment"]
        if package["training"].get("preset") != preset or (sizes and package["config"]["image_size"] not in sizes):
            continue
        device = ", ".join(gpu["name"] for gpu in environment["gpus"]) or environment["machine"]["cpu"]
        for result in report["results"]:
            key, rate = (device, result["engine"]), result["images_per_second"]
            if key not in best or rate > best[key][3]:
                best[key] = (result["engine"], result["batch"], device, rate)
    return list(best.values())
