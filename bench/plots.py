"""Plots as inline SVG. Colours are the page's CSS classes, so one picture serves light and dark.

Class s0 is the baseline (grey), s1 to s6 the other engines, in the order of the report.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from prn_fast.bench.wording import number

WIDTH = 560
LABEL_WIDTH = 124
ROW_HEIGHT = 46
TOP, BOTTOM = 10, 44
DOTS_BELOW = 40  # samples; under this many single calls are drawn instead of a histogram
RELATIVE_RANGE = (0.8, 1.6)
BINS = 64


@dataclass(frozen=True)
class Series:
    """One engine in a plot; `style` is the number of its colour class."""

    name: str
    style: int


def latency_bars(rows: Sequence[tuple[Series, dict[str, float | None]]]) -> Markup:
    """Median latency as a bar from zero, p90 and p99 as ticks on a line.

    Args:
        rows: engine and its latency in ms: "p50", and "p90", "p99" where they are known.
    """
    limit = 1.42 * max(value for _, latency in rows for value in _known(latency, "p50", "p90", "p99"))
    ticks = nice_ticks(limit)
    x_of = _scale(0, limit, LABEL_WIDTH, WIDTH - 8)
    parts = []
    for row, (series, latency) in enumerate(rows):
        middle = TOP + ROW_HEIGHT * (row + 0.5)
        p50, tail = latency["p50"], _known(latency, "p90", "p99")
        assert p50 is not None  # the median is always known
        end = x_of(max([p50, *tail]))
        parts.append(_row_label(series, middle))
        parts.append(
            Markup(
                '<g class="s{}"><title>{}</title>'
                '<rect class="fill" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="18" rx="2"/>'
            ).format(series.style, _latency_title(series, latency), x_of(0), middle - 9, max(1.0, x_of(p50) - x_of(0)))
        )
        if tail:
            parts.append(_line(x_of(p50), middle, end, middle, "stroke"))
            parts += [_line(x_of(value), middle - 6, x_of(value), middle + 6, "stroke") for value in tail]
        parts.append(Markup("</g>"))
        parts.append(_text(end + 8, middle + 4, f"median {number(p50)} ms", "value"))
    return _figure(
        parts,
        rows=len(rows),
        axis=_axis(ticks, x_of, len(rows), "ms: bar to the median, ticks at p90 and p99"),
        label="Latency: " + "; ".join(_latency_title(series, latency) for series, latency in rows),
    )


def relative_spread(rows: Sequence[tuple[Series, Sequence[float]]]) -> Markup:
    """How the calls of each engine spread around its own median; those beyond the range are counted at its ends.

    Args:
        rows: engine and the latencies of its calls, any unit.
    """
    low, high = RELATIVE_RANGE
    x_of = _scale(low, high, LABEL_WIDTH, WIDTH - 52)
    parts = []
    for row, (series, samples) in enumerate(rows):
        base = TOP + ROW_HEIGHT * (row + 1) - 8
        relative = np.asarray(samples) / np.median(samples)
        inside = relative[(relative >= low) & (relative <= high)]
        faster, slower = int((relative < low).sum()), int((relative > high).sum())
        parts.append(_row_label(series, base - 12))
        parts.append(
            Markup('<g class="s{}"><title>{}</title>').format(series.style, f"{series.name}: {len(relative)} calls")
        )
        if len(relative) < DOTS_BELOW:
            parts += [
                Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="3.5"/>').format(x_of(value), base - 9)
                for value in inside
            ]
        else:
            parts.append(_histogram(inside, x_of, base))
        parts.append(Markup("</g>"))
        parts.append(_line(x_of(low), base, x_of(high), base, "grid"))
        if slower:
            parts.append(_text(x_of(high) + 4, base - 2, f"▸ {slower}", "tick"))
        if faster:
            parts.append(_text(x_of(low) + 3, base - 20, f"◂ {faster}", "tick"))
    parts.append(_line(x_of(1), TOP, x_of(1), TOP + ROW_HEIGHT * len(rows), "median"))
    ticks = [0.8, 1.0, 1.2, 1.4, 1.6]
    return _figure(
        parts,
        rows=len(rows),
        axis=_axis(ticks, x_of, len(rows), "latency of a call over the engine's median"),
        label="Spread of the calls around each engine's median: "
        + "; ".join(f"{series.name}: {len(samples)} calls" for series, samples in rows),
    )


def throughput_lines(batches: Sequence[int], rows: Sequence[tuple[Series, dict[int, float]]]) -> Markup:
    """Images per second against batch size, which is drawn on a logarithmic axis.

    Args:
        batches: all batch sizes, rising, at least two.
        rows: engine and its images per second by batch size.
    """
    height, left, right, bottom = 300, 56, WIDTH - 150, 250
    limit = 1.12 * max(rate for _, rates in rows for rate in rates.values())
    y_of = _scale(0, limit, bottom, 16)
    x_of = _scale(math.log2(batches[0]), math.log2(batches[-1]), left + 16, right)
    parts: list[Markup] = []
    for tick in nice_ticks(limit):
        parts.append(_line(left, y_of(tick), right + 10, y_of(tick), "grid"))
        parts.append(_text(left - 8, y_of(tick) + 4, f"{tick:,g}", "tick end"))
    for batch in batches:
        parts.append(_text(x_of(math.log2(batch)), bottom + 20, str(batch), "tick middle"))
    parts.append(_text((left + right) / 2, bottom + 42, "images in one call", "axis middle"))
    parts.append(_text(4, 10, "images/s", "axis"))
    ends = []
    for series, rates in rows:
        points = [(x_of(math.log2(batch)), y_of(rate)) for batch, rate in sorted(rates.items())]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(Markup('<g class="s{}"><polyline class="line" points="{}"/>').format(series.style, path))
        for (x, y), (batch, rate) in zip(points, sorted(rates.items()), strict=True):
            title = f"{series.name}, batch {batch}: {number(rate)} images/s"
            parts.append(
                Markup('<circle class="point" cx="{:.1f}" cy="{:.1f}" r="4.5"><title>{}</title></circle>').format(
                    x, y, title
                )
            )
        parts.append(Markup("</g>"))
        ends.append((points[-1][1], series, points[-1][0]))
    # Labels stand beside the last point, pushed apart where they would overlap.
    previous = -math.inf
    for y, series, x in sorted(ends, key=lambda end: end[0]):
        previous = max(y + 4, previous + 16)
        parts.append(
            Markup('<text class="label s{}" x="{:.1f}" y="{:.1f}">{}</text>').format(
                series.style, x + 12, previous, series.name
            )
        )
    label = "Throughput: " + "; ".join(
        f"{series.name} {number(rate)} images/s at batch {batch}"
        for series, rates in rows
        for batch, rate in sorted(rates.items())
    )
    return _svg(parts, height, label)


def nice_ticks(limit: float, at_most: int = 6) -> list[float]:
    """Round values from 0 to `limit`: multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(limit / at_most))
    step = next(power * leading for leading in (1, 2, 5, 10) if limit / (power * leading) <= at_most)
    return [step * i for i in range(int(limit / step) + 1)]


def _known(latency: dict[str, float | None], *names: str) -> list[float]:
    return [value for name in names if (value := latency[name]) is not None]


def _latency_title(series: Series, latency: dict[str, float | None]) -> str:
    known = {name: latency[name] for name in ("p50", "p90", "p99") if latency[name] is not None}
    return f"{series.name}: " + ", ".join(f"{name} {number(value)} ms" for name, value in known.items())


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """The linear map that takes low to start and high to end."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _histogram(values: NDArray[np.float64], x_of: Callable[[float], float], base: float) -> Markup:
    """Filled outline of how many values fall into each of the bins, the fullest as high as a row allows."""
    low, high = RELATIVE_RANGE
    counts, edges = np.histogram(values, bins=BINS, range=(low, high))
    heights = counts / max(1, counts.max()) * (ROW_HEIGHT - 14)
    points = [f"{x_of(low):.1f},{base:.1f}"]
    for height, left, right in zip(heights, edges[:-1], edges[1:], strict=True):
        points += [f"{x_of(left):.1f},{base - height:.1f}", f"{x_of(right):.1f},{base - height:.1f}"]
    points.append(f"{x_of(high):.1f},{base:.1f}")
    return Markup('<polygon class="area" points="{}"/>').format(" ".join(points))


def _axis(ticks: Sequence[float], x_of: Callable[[float], float], rows: int, title: str) -> list[Markup]:
    """Grid lines behind rows, numbers and a title below them."""
    bottom = TOP + ROW_HEIGHT * rows
    parts = []
    for tick in ticks:
        parts.append(_line(x_of(tick), TOP, x_of(tick), bottom, "grid"))
        parts.append(_text(x_of(tick), bottom + 17, f"{tick:,g}", "tick middle"))
    parts.append(_text((x_of(ticks[0]) + x_of(ticks[-1])) / 2, bottom + 37, title, "axis middle"))
    return parts


def _figure(parts: list[Markup], rows: int, axis: list[Markup], label: str) -> Markup:
    return _svg(axis + parts, TOP + ROW_HEIGHT * rows + BOTTOM, label)


def _svg(parts: list[Markup], height: float, label: str) -> Markup:
    return Markup('<svg class="plot" viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, label, Markup("").join(parts)
    )


def _row_label(series: Series, y: float) -> Markup:
    return Markup('<text class="label s{}" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
        series.style, LABEL_WIDTH - 10, y + 4, series.name
    )


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(style, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, style: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(style, x, y, text)
