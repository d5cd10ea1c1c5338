"""Axes and marks of the plots."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from prn_fast.bench.report.plots import (
    Series,
    accuracy_against_speed,
    latency_bars,
    nice_ticks,
    relative_spread,
    throughput_lines,
)

EAGER, FAST = Series("eager", 0), Series("a<b", 1)


@pytest.mark.parametrize("limit", [1e-3, 0.07, 1.0, 9.99, 10.0, 123.0, 4.2e6])
def test_ticks_are_few_round_and_inside(limit: float) -> None:
    ticks = nice_ticks(limit)
    assert ticks[0] == 0
    assert 2 <= len(ticks) <= 7
    assert ticks[-1] <= limit < ticks[-1] + 1.0001 * ticks[1]


def test_bars_are_as_long_as_medians() -> None:
    nothing = {"p90": None, "p99": None}
    svg = str(latency_bars([(EAGER, {"p50": 40.0, **nothing}), (FAST, {"p50": 10.0, **nothing})]))
    ElementTree.fromstring(svg)
    slow, fast = (float(width) for width in re.findall(r'class="fill"[^>]* width="([\d.]+)"', svg))
    assert slow == pytest.approx(4 * fast, abs=0.5)


def test_every_call_is_drawn_or_counted() -> None:
    samples = [1.0] * 9 + [0.5] + [3.0] * 2
    svg = str(relative_spread([(FAST, samples)]))
    ElementTree.fromstring(svg)
    assert svg.count("<circle") == 9
    assert "▸ 2" in svg
    assert "◂ 1" in svg


def test_many_calls_become_a_histogram() -> None:
    svg = str(relative_spread([(FAST, np.random.default_rng(0).normal(10, 0.2, size=500))]))
    ElementTree.fromstring(svg)
    assert "<circle" not in svg
    assert svg.count("<polygon") == 1


def test_lines_have_a_point_for_every_batch_that_was_measured() -> None:
    svg = str(throughput_lines([1, 2, 8], [(EAGER, {1: 3.0, 2: 4.0, 8: 4.5}), (FAST, {1: 30.0, 8: 50.0})]))
    ElementTree.fromstring(svg)
    assert svg.count("<circle") == 5
    assert "a&lt;b" in svg


def test_names_stand_below_their_marks_and_cover_no_other() -> None:
    rates, accuracies = [9.0, 13.0, 24.0, 44.0, 1.4, 2.0, 2.6, 7.7], [0.955] * 4 + [0.933] * 4
    rows = [
        (Series(f"network engine {rate}", 1), rate, (accuracy,) * 3)
        for rate, accuracy in zip(rates, accuracies, strict=True)
    ]
    svg = str(accuracy_against_speed(rows, "images/s", "image AUROC"))
    ElementTree.fromstring(svg)
    marks = [(float(x), float(y)) for x, y in re.findall(r'<circle class="point" cx="([\d.]+)" cy="([\d.]+)"', svg)]
    texts = re.findall(r'class="label s1" x="([\d.]+)" y="([\d.]+)">([^<]+)<', svg)
    names = {name: (float(x), float(y)) for x, y, name in texts}
    assert len(marks) == len(names) == len(rows)
    for (series, _, _), (mark_x, mark_y) in zip(rows, marks, strict=True):
        x, y = names[series.name]
        assert abs(x - mark_x) < 10
        # Above the axis, too.
        assert mark_y < y < min(mark_y + 80, 262)
    for x, y in names.values():
        same_line = [other for other, line in names.values() if abs(line - y) < 12 and other > x]
        assert all(other - x > 8 * len("network engine 9.0") for other in same_line)
