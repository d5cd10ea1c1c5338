"""Plots as inline SVG. Colours are the page's CSS classes, so one picture serves light and dark.

Class s0 is the baseline (grey), s1 to s6 the other engines, in the order of the report.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from prn_fast.bench.report.formatting import number

WIDTH = 600
LABEL_WIDTH = 154
ROW_HEIGHT = 46
LINE_HEIGHT, LETTER_WIDTH = 16, 8  # of the names in a plot, the widest letters in mind
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
    height, left, right, bottom = 300, 56, WIDTH - 190, 250
    limit = 1.12 * max(rate for _, rates in rows for rate in rates.values())
    y_of = _scale(0, limit, bottom, 16)
    x_of = _scale(math.log2(batches[0]), math.log2(batches[-1]), left + 16, right)
    parts = _grid(nice_ticks(limit), y_of, left, right + 10)
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
            parts.append(_point(x, y, title))
        parts.append(Markup("</g>"))
        ends.append((points[-1][1], series, points[-1][0]))
    parts += _labels_beside(ends)
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


def _point(x: float, y: float, title: str) -> Markup:
    return Markup('<circle class="point" cx="{:.1f}" cy="{:.1f}" r="5"><title>{}</title></circle>').format(x, y, title)


def _cross(x: float, y: float, title: str) -> Markup:
    path = Markup('<path class="stroke" d="M{:.1f},{:.1f} m-5,-5 l10,10 m0,-10 l-10,10"><title>{}</title></path>')
    return path.format(x, y, title)


def _grid(
    ticks: Iterable[float], y_of: Callable[[float], float], left: float, right: float, form: str = "{:,g}"
) -> list[Markup]:
    """Lines from left to right, and their numbers."""
    parts = []
    for tick in ticks:
        parts.append(_line(left, y_of(tick), right, y_of(tick), "grid"))
        parts.append(_text(left - 8, y_of(tick) + 4, form.format(tick), "tick end"))
    return parts


def rate_curve(
    rows: Sequence[tuple[Series, Sequence[tuple[float, float, bool]]]], x_title: str, limit_ms: float | None = None
) -> Markup:
    """Latency against arrival rate, both logarithmic; a ring is a run that held its rate, a cross one that did not.

    Args:
        rows: engine and its runs: rate, tail latency in ms, held.
        limit_ms: a latency bound, drawn as a dashed line.
    """
    runs = [run for _, engine_runs in rows for run in engine_runs]
    latencies = [latency for _, latency, _ in runs] + ([limit_ms] if limit_ms else [])
    plane = _LogPlane((run[0] for run in runs), latencies)
    parts = plane.axes(x_title, "ms")
    if limit_ms:
        parts.append(_line(plane.left, plane.y(limit_ms), plane.right, plane.y(limit_ms), "median"))
        parts.append(_text(plane.right, plane.y(limit_ms) - 6, f"bound {limit_ms:g} ms", "tick end"))
    ends = []
    for series, engine_runs in rows:
        parts.append(Markup('<g class="s{}">').format(series.style))
        for rate, latency, held in sorted(engine_runs):
            x, y = plane.x(rate), plane.y(latency)
            title = f"{series.name}: {number(rate)}, {number(latency)} ms, {'sustained' if held else 'not sustained'}"
            parts.append(_point(x, y, title) if held else _cross(x, y, title))
        parts.append(Markup("</g>"))
        held_runs = [run for run in engine_runs if run[2]] or list(engine_runs)
        last = max(held_runs)
        ends.append((plane.y(last[1]), series, plane.x(last[0])))
    parts += _labels_beside(ends)
    label = f"Latency against rate ({x_title}): " + "; ".join(
        f"{series.name} sustained {number(max((run[0] for run in engine_runs if run[2]), default=None))}"
        for series, engine_runs in rows
    )
    return _svg(parts, plane.height, label)


def roofline(
    roofs: Sequence[tuple[str, float]],
    copy_rate: float,
    points: Sequence[tuple[Series, int, float, float]],
) -> Markup:
    """FLOP/s against FLOP a byte, logarithmic: the roof is what the machine can do; points are an engine's batch sizes.

    Args:
        roofs: precision and its measured matrix rate, FLOP/s.
        copy_rate: bytes/s.
        points: engine, batch size, FLOP a byte, FLOP/s.
    """
    ridges = [rate / copy_rate for _, rate in roofs]
    intensities = [point[2] for point in points]
    low = min([*intensities, *ridges]) / 4
    plane = _LogPlane(
        [low, *intensities, *(4 * ridge for ridge in ridges)],
        [*(rate / 1e9 for _, rate in roofs), *(point[3] / 1e9 for point in points)],
    )
    parts = plane.axes("FLOP a byte of operands", "GFLOP/s")
    previous = math.inf
    for name, rate in sorted(roofs, key=lambda roof: -roof[1]):
        ridge = rate / copy_rate
        start = max(plane.x_low, plane.y_low * 1e9 / copy_rate)
        path = [(start, start * copy_rate), (ridge, rate), (plane.x_high, rate)]
        line = " ".join(f"{plane.x(x):.1f},{plane.y(y / 1e9):.1f}" for x, y in path if x <= plane.x_high)
        parts.append(Markup('<polyline class="roof" points="{}"/>').format(line))
        # Where the roof begins: the names of engines stand at its end.
        y = plane.y(rate / 1e9) - 5
        if abs(previous - y) >= 14:
            parts.append(_text(plane.x(max(ridge, plane.x_low)) + 4, y, f"{name} {number(rate / 1e9)}", "tick"))
            previous = y
    ends: dict[Series, tuple[float, float]] = {}
    for series, batch, intensity, rate in sorted(points, key=lambda point: point[2]):
        x, y = plane.x(intensity), plane.y(rate / 1e9)
        title = f"{series.name}, batch {batch}: {number(rate / 1e9)} GFLOP/s at {number(intensity)} FLOP a byte"
        before = ends.get(series)
        line = _line(*before, x, y, "stroke") if before else ""
        parts.append(Markup('<g class="s{}">{}{}</g>').format(series.style, _point(x, y, title), line))
        ends[series] = (x, y)
    parts += _labels_beside((y, series, x) for series, (x, y) in ends.items())
    label = "Roofline: " + "; ".join(f"{s.name} batch {b} {number(rate / 1e9)} GFLOP/s" for s, b, _, rate in points)
    return _svg(parts, plane.height, label)


def part_bars(rows: Sequence[tuple[Series, dict[str, float]]]) -> Markup:
    """One bar an engine, as long as its time, divided by the parts of the network.

    Args:
        rows: engine and milliseconds by part, in the order of the data.
    """
    limit = 1.02 * max(sum(parts.values()) for _, parts in rows)
    ticks = nice_ticks(limit)
    x_of = _scale(0, limit, LABEL_WIDTH, WIDTH - 8)
    drawn = []
    for row, (series, parts) in enumerate(rows):
        middle, start = TOP + ROW_HEIGHT * (row + 0.5), 0.0
        drawn.append(_row_label(series, middle))
        for position, (part, ms) in enumerate(parts.items()):
            width = x_of(start + ms) - x_of(start)
            title = f"{series.name}, {part}: {number(ms)} ms, {ms / sum(parts.values()):.0%}"
            drawn.append(
                Markup(
                    '<rect class="part p{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="24"><title>{}</title></rect>'
                ).format(position, x_of(start), middle - 12, max(0.0, width), title)
            )
            start += ms
    label = "Time by part of the network: " + "; ".join(
        f"{series.name}: " + ", ".join(f"{part} {number(ms)} ms" for part, ms in parts.items())
        for series, parts in rows
    )
    return _figure(
        drawn, rows=len(rows), axis=_axis(ticks, x_of, len(rows), "ms of one call while profiled"), label=label
    )


def timeline(
    labels: Sequence[str], rows: Sequence[tuple[Series, dict[int, tuple[float, list[float] | None]]]]
) -> Markup:
    """A value run by run, with its interval.

    Args:
        labels: of the runs, in their order.
        rows: engine, and value and interval by the number of the run.
    """
    height, left, right, bottom = 300, 56, WIDTH - 190, 236
    values = [value for _, points in rows for value, _ in points.values()]
    highs = [interval[1] for _, points in rows for _, interval in points.values() if interval]
    limit = 1.12 * max([*values, *highs])
    y_of = _scale(0, limit, bottom, 16)
    x_of = _scale(0, max(1, len(labels) - 1), left + 16, right)
    parts = _grid(nice_ticks(limit), y_of, left, right + 10)
    shown = range(len(labels)) if len(labels) <= 3 else (0, len(labels) - 1)
    for index in shown:
        anchor = "tick middle" if 0 < index < len(labels) - 1 else "tick" if index == 0 else "tick end"
        parts.append(_text(x_of(index), bottom + 20, labels[index], anchor))
    parts.append(_text((left + right) / 2, bottom + 44, "run", "axis middle"))
    parts.append(_text(4, 10, "ms", "axis"))
    ends = []
    for series, points in rows:
        parts.append(Markup('<g class="s{}">').format(series.style))
        path = " ".join(f"{x_of(index):.1f},{y_of(value):.1f}" for index, (value, _) in sorted(points.items()))
        parts.append(Markup('<polyline class="line" points="{}"/>').format(path))
        for index, (value, interval) in sorted(points.items()):
            if interval:
                parts.append(_line(x_of(index), y_of(interval[0]), x_of(index), y_of(interval[1]), "stroke"))
            title = f"{series.name}, {labels[index]}: {number(value)} ms"
            parts.append(_point(x_of(index), y_of(value), title))
        parts.append(Markup("</g>"))
        last = max(points)
        ends.append((y_of(points[last][0]), series, x_of(last)))
    parts += _labels_beside(ends)
    label = "Run by run: " + "; ".join(f"{series.name}, {len(points)} runs" for series, points in rows)
    return _svg(parts, height, label)


def accuracy_against_speed(
    rows: Sequence[tuple[Series, float, tuple[float, float, float]]], x_title: str, y_title: str
) -> Markup:
    """Accuracy against rate, which is logarithmic; dashes join what nothing else beats in both (the Pareto front).

    Args:
        rows: what was measured, its rate, and its smallest, mean and largest accuracy.
    """
    spans = [value for _, _, accuracy in rows for value in accuracy]
    plane = _LogPlane((rate for _, rate, _ in rows), (1.0,))
    pad = max(0.1 * (max(spans) - min(spans)), 0.005)
    high = min(max(spans) + pad, 1.0)
    # Names stand below the marks, those of one network's engines one below the other.
    room = LINE_HEIGHT * max(Counter(mean for _, _, (_, mean, _) in rows).values()) / (plane.bottom - plane.top)
    low = high - (high - min(spans) + pad) / (1 - room)
    y_of = _scale(low, high, plane.bottom, plane.top)
    step = nice_ticks(high - low)[1]
    ticks = [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    parts = plane.x_axis(x_title) + _grid(ticks, y_of, plane.left, plane.right, "{:.4g}")
    parts.append(_text(4, 12, y_title, "axis"))
    front, best = [], -math.inf
    for _, rate, (_, mean, _) in sorted(rows, key=lambda row: (-row[1], -row[2][1])):
        if mean > best:
            front.append(f"{plane.x(rate):.1f},{y_of(mean):.1f}")
            best = mean
    parts.append(Markup('<polyline class="roof" stroke-dasharray="3 4" points="{}"/>').format(" ".join(front)))
    parts += _labels_below((y_of(mean), series, plane.x(rate)) for series, rate, (_, mean, _) in rows)
    for series, rate, (smallest, mean, largest) in rows:
        x, y = plane.x(rate), y_of(mean)
        title = f"{series.name}: {mean:.4f} ({smallest:.4f} to {largest:.4f}) at {number(rate)} {x_title}"
        parts.append(Markup('<g class="s{}"><title>{}</title>').format(series.style, title))
        parts.append(_line(x, y_of(smallest), x, y_of(largest), "stroke"))
        parts.append(Markup('<circle class="point" cx="{:.1f}" cy="{:.1f}" r="5"/></g>').format(x, y))
    label = f"{y_title} against {x_title}: " + "; ".join(
        f"{series.name} {mean:.4f} at {number(rate)}" for series, rate, (_, mean, _) in rows
    )
    return _svg(parts, plane.height, label)


class _LogPlane:
    """Two logarithmic axes around values, with room for labels on the right."""

    height, left, right, top, bottom = 320, 56, WIDTH - 190, 22, 262

    def __init__(self, xs: Iterable[float], ys: Iterable[float]) -> None:
        (self.x_low, self.x_high), (self.y_low, self.y_high) = _decades(xs), _decades(ys)
        self._x = _scale(math.log10(self.x_low), math.log10(self.x_high), self.left, self.right)
        self._y = _scale(math.log10(self.y_low), math.log10(self.y_high), self.bottom, self.top)

    def x(self, value: float) -> float:
        return self._x(math.log10(value))

    def y(self, value: float) -> float:
        return self._y(math.log10(value))

    def axes(self, x_title: str, y_title: str) -> list[Markup]:
        """Grid lines, numbers and titles."""
        parts = self.x_axis(x_title)
        parts += _grid(_log_ticks(self.y_low, self.y_high), self.y, self.left, self.right)
        parts.append(_text(4, 12, y_title, "axis"))
        return parts

    def x_axis(self, title: str) -> list[Markup]:
        """Grid lines, numbers and title of the axis to the right."""
        parts = []
        for tick in _log_ticks(self.x_low, self.x_high):
            parts.append(_line(self.x(tick), self.top, self.x(tick), self.bottom, "grid"))
            parts.append(_text(self.x(tick), self.bottom + 18, f"{tick:,g}", "tick middle"))
        parts.append(_text((self.left + self.right) / 2, self.bottom + 42, title, "axis middle"))
        return parts


def _decades(values: Iterable[float]) -> tuple[float, float]:
    """Bounds a little outside of positive values."""
    known = [value for value in values if value > 0]
    low, high = min(known) / 1.25, max(known) * 1.25
    # A single value still needs an axis.
    return (low, high) if high / low >= 4 else (low / 2, high * 2)


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within bounds, thinned to powers of ten over more than two decades."""
    leading = (1, 2, 5) if high / low <= 100 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for power in powers for lead in leading if low <= (tick := lead * 10.0**power) <= high]


def _name(x: float, y: float, series: Series) -> Markup:
    return Markup('<text class="label s{}" x="{:.1f}" y="{:.1f}">{}</text>').format(series.style, x, y, series.name)


def _labels_below(marks: Iterable[tuple[float, Series, float]]) -> list[Markup]:
    """Names below marks (y, engine, x), each on the first line where it covers no other."""
    labels, taken = [], set[tuple[float, float, float]]()
    for y, series, x in sorted(marks, key=lambda mark: (mark[0], mark[2])):
        start, end, line = x - 6, x + LETTER_WIDTH * len(series.name), y + 20
        while any(abs(line - other) < LINE_HEIGHT and start < right and left < end for other, left, right in taken):
            line += LINE_HEIGHT
        taken.add((line, start, end))
        labels.append(_name(start, line, series))
    return labels


def _labels_beside(ends: Iterable[tuple[float, Series, float]]) -> list[Markup]:
    """Names beside points (y, engine, x), pushed apart where they would overlap."""
    labels, previous = [], -math.inf
    for y, series, x in sorted(ends, key=lambda end: end[0]):
        previous = max(y + 4, previous + LINE_HEIGHT)
        labels.append(_name(x + 12, previous, series))
    return labels
