"""A calibration as a page to look at: histograms of scores with the threshold, detection against false alarms."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine.base import is_defective, scores_at
from prn_fast.training.calibration import threshold_for
from prn_fast.training.conformal import MAX_FALSE_ALARM_RATE, SHOWN_RATES, just_above, promise_at
from prn_fast.training.line_calibration import LineCalibration, describe_detection

_BINS = 40
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 680, 290, 66, 56
_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --faint: #6f6f76; --line: #e3e3e8; --paper: #fff;
  --good: #00668c; --bad: #c43c00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececf0; --faint: #a0a0a8; --line: #34343a; --paper: #17171a; --good: #4fb6dd; --bad: #ff8a50; }
}
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 46rem; padding: 0 1rem; }
h1, h2 { line-height: 1.25; overflow-wrap: anywhere; } h1 { margin-bottom: 0; } h2 { margin: 2.2rem 0 .6rem; }
p { margin: .5rem 0; overflow-wrap: anywhere; } .when { margin-top: .2rem; }
.facts { display: flex; flex-wrap: wrap; gap: 1rem 2rem; margin: 1.6rem 0; } .facts div { min-width: 8rem; }
.facts dt { color: var(--faint); font-size: .9rem; } .facts dd { margin: 0; font-size: 1.9rem; line-height: 1.2; }
.facts div { display: flex; flex-direction: column-reverse; justify-content: flex-end; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .3rem 1.2rem .3rem 0; text-align: left; vertical-align: baseline; white-space: nowrap; }
th { color: var(--faint); font-weight: normal; white-space: normal; } tr { border-bottom: 1px solid var(--line); }
.chosen { font-weight: bold; } .faint, svg text { color: var(--faint); fill: var(--faint); }
svg { display: block; width: 100%; height: auto; } svg text { font: 14px system-ui, sans-serif; }
@media (max-width: 34rem) { body { margin: 1rem auto; } svg text { font-size: 22px; } .narrow { display: none; } }
.good { fill: var(--good); opacity: .75; } .bad { fill: var(--bad); opacity: .75; }
.axis { stroke: var(--faint); } .limit { stroke: var(--ink); stroke-width: 2; stroke-dasharray: 6 4; }
.curve { fill: none; stroke: var(--bad); stroke-width: 2.5; } .point { fill: var(--ink); }
"""


def render_calibration(name: str, calibration: LineCalibration, notes: Sequence[str] = ()) -> str:
    """The page: one self-contained HTML document.

    Args:
        name: of the package.
        notes: further lines, such as what was left out.
    """
    entry = calibration.entry
    threshold, normals = entry["threshold"], entry["normals"]
    detection = describe_detection(entry)
    lines = [
        f"{normals} good images promise at most {entry['promised_rate']:.2%} false alarms on parts like these "
        f"(95 % sure: below {entry['rate_bound']:.2%}).",
        *([f"{detection[0].upper()}{detection[1:]}."] if detection else []),
        f"Below, a score of 0.5 is the threshold, a raw score of {threshold:.4f}. Images: {entry['source']}.",
        *(f"{note[0].upper()}{note[1:]}." for note in notes),
    ]
    sections = [
        _facts(entry),
        "".join(f"<p>{escape(line)}</p>" for line in lines),
        "<h2>Scores</h2>",
        _histogram("good images", "good", scores_at(calibration.good_scores, threshold)),
    ]
    if len(calibration.defect_scores):
        sections += [
            _histogram("defective images", "bad", scores_at(calibration.defect_scores, threshold)),
            "<h2>Detection against false alarms</h2>",
            _curve(calibration),
            "<p class=faint>Each step is a threshold just above the score of one good image. The dot is the chosen one."
            "</p>",
        ]
    sections += ["<h2>Other thresholds</h2>", _rates(entry), _kinds(entry["kinds"])]
    title = escape(f"Calibration of {name}")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"
        f"<p class='faint when'>{escape(_time(entry['date']))}</p>{''.join(sections)}</html>\n"
    )


def _time(date: str) -> str:
    """2026-11-27, 14:05 UTC"""
    moment = datetime.fromisoformat(date).astimezone(UTC)
    return f"{moment:%Y-%m-%d, %H:%M} UTC"


def _facts(entry: Mapping[str, Any]) -> str:
    facts = [
        (f"{entry['promised_rate']:.1%}", "false alarms expected"),
        (f"{entry['rate_bound']:.1%}", "or fewer, with 95 % certainty"),
    ]
    row = next((one for one in entry["detection"] if one["false_alarm_rate"] == entry["false_alarm_rate"]), None)
    if row is not None:
        facts.append((f"{row['detected'] / row['defects']:.0%}", "of these defects detected"))
    return f"<dl class=facts>{''.join(f'<div><dt>{what}</dt><dd>{figure}</dd></div>' for figure, what in facts)}</dl>"


def detection_curve(calibration: LineCalibration) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False-alarm rates that the good images can promise, up to a quarter, and the share of defects found at each."""
    highest = np.sort(calibration.good_scores)[::-1]
    places = np.arange(1, max(1, int((len(highest) + 1) * MAX_FALSE_ALARM_RATE)) + 1)
    found = [is_defective(calibration.defect_scores, just_above(float(highest[k - 1]))).mean() for k in places]
    return places / (len(highest) + 1), np.array(found)


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - 24)


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - 34)


def _anchor(share: float) -> str:
    """SVG text anchor of a label below an axis: the last label ends where the axis ends."""
    return "end" if share >= 1 else "middle"


def _drawing(label: str, parts: Sequence[str], ticks: Mapping[float, str], below: str) -> str:
    axis = [
        f'<line class=axis x1="{_x(0)}" x2="{_x(1)}" y1="{_y(0)}" y2="{_y(0)}"/>',
        *(
            f'<text x="{_x(x):.1f}" y="{_y(0) + 22}" text-anchor={_anchor(x)}>{text}</text>'
            for x, text in ticks.items()
        ),
        f'<text x="{_x(0.5)}" y="{_HEIGHT - 8}" text-anchor=middle>{escape(below)}</text>',
    ]
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role=img aria-label="{escape(label)}"><title>{escape(label)}</title>'
        f"{''.join([*parts, *axis])}</svg>"
    )


def _histogram(label: str, style: str, scores: NDArray[np.float32]) -> str:
    counts, edges = np.histogram(scores, _BINS, (0.0, 1.0))
    # The threshold is an edge: no bar lies on both of its sides.
    most = max(1, int(counts.max()))
    bars = [
        f'<rect class={style} x="{_x(left) + 1:.1f}" width="{_x(right) - _x(left) - 2:.1f}" y="{_y(count / most):.1f}" '
        f'height="{_y(0) - _y(count / most):.1f}"><title>{count} with {left:.3f} to {right:.3f}</title></rect>'
        for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True)
        if count
    ]
    above = int((scores >= 0.5).sum())
    marks = [
        f'<line class=limit x1="{_x(0.5)}" x2="{_x(0.5)}" y1="{_y(0)}" y2="{_y(1)}"/>',
        f'<text class=narrow x="0" y="22">{most} images</text>',
        f'<line class=axis x1="{_x(0)}" x2="{_x(0)}" y1="{_y(0)}" y2="{_y(1)}"/>',
        f'<text x="{_x(0.5) - 8}" y="22" text-anchor=end>{len(scores) - above} called good</text>',
        f'<text x="{_x(0.5) + 8}" y="22">{above} called defective</text>',
    ]
    ticks = {0.0: "0", 0.25: "0.25", 0.5: "0.5", 0.75: "0.75", 1.0: "1"}
    return _drawing(f"Histogram of the scores of {label}", [*bars, *marks], ticks, f"score of {label}")


def _curve(calibration: LineCalibration) -> str:
    rates, found = detection_curve(calibration)
    places = rates / MAX_FALSE_ALARM_RATE
    points = [f"{_x(places[0]):.1f},{_y(found[0]):.1f}"]
    for before, x, y in zip(found, places[1:], found[1:], strict=False):
        points += [f"{_x(x):.1f},{_y(before):.1f}", f"{_x(x):.1f},{_y(y):.1f}"]
    entry = calibration.entry
    chosen = entry["promised_rate"] / MAX_FALSE_ALARM_RATE
    detected = float(is_defective(calibration.defect_scores, entry["threshold"]).mean())
    parts = [
        f'<polyline class=curve points="{" ".join(points)}"/>',
        f'<circle class=point cx="{_x(chosen):.1f}" cy="{_y(detected):.1f}" r=6 />',
        f'<line class=axis x1="{_x(0)}" x2="{_x(0)}" y1="{_y(0)}" y2="{_y(1)}"/>',
        *(f'<text x="{_LEFT - 8}" y="{_y(y) + 5}" text-anchor=end>{y:.0%}</text>' for y in (0.5, 1.0)),
    ]
    ticks = {rate / MAX_FALSE_ALARM_RATE: f"{rate:.0%}" for rate in (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)}
    return _drawing("Detected defects by false-alarm rate", parts, ticks, "promised false-alarm rate")


def _rates(entry: Mapping[str, Any]) -> str:
    found = {row["false_alarm_rate"]: row for row in entry["detection"]}
    normals, rows = entry["normals"], []
    for rate in sorted({*SHOWN_RATES, entry["false_alarm_rate"]}):
        promise = promise_at(normals, rate)
        extrapolated = "<span class=faint>extrapolated</span>", ""
        cells = [f"{rate:.1%}", *(extrapolated if promise is None else (f"{one:.1%}" for one in promise))]
        if (row := found.get(rate)) is not None:
            cells.append(f"{row['detected']} of {row['defects']} ({row['low']:.0%} to {row['high']:.0%})")
        cells.append(f"{threshold_for(entry, rate):.4f}")
        chosen = " class=chosen" if rate == entry["false_alarm_rate"] else ""
        rows.append(f"<tr{chosen}>{''.join(f'<td>{cell}' for cell in cells)}</tr>")
    heads = ["false alarms", "expected", "95 % sure: below"]
    heads += ["detected (95 % interval)", "raw score"] if found else ["raw score"]
    return (
        f"<div class=wide><table><tr>{''.join(f'<th>{head}' for head in heads)}</tr>{''.join(rows)}</table></div>"
        "<p class=faint>Extrapolated: too few good images to promise that rate.</p>"
    )


def _kinds(kinds: Mapping[str, Mapping[str, float]]) -> str:
    if not kinds:
        return ""
    rows = "".join(
        f"<tr><td>{escape(kind)}<td>{row['detected']} of {row['defects']}<td>{row['low']:.0%} to {row['high']:.0%}</tr>"
        for kind, row in kinds.items()
    )
    head = "<tr><th>kind<th>detected<th>95 % interval</tr>"
    return f"<h2>Kinds of defect</h2><div class=wide><table>{head}{rows}</table></div>"
