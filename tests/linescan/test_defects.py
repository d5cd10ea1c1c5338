import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prn_fast.errors import ConfigError
from prn_fast.linescan.defects import DefectTracker, PixelSize, Severity, SeverityLimits


def in_parts(tracker, heat, cuts):
    """Defects of a map that is fed in parts."""
    bounds = [0, *sorted(set(cuts) - {0, len(heat)}), len(heat)]
    found = []
    for top, bottom in itertools.pairwise(bounds):
        found += tracker.add(heat[top:bottom], top)
    return found + tracker.finish()


def boxes(defects):
    return sorted((one.first_line, one.left, one.lines, one.width, one.area, round(one.peak, 5)) for one in defects)


def regions_at_once(heat, threshold, min_area, hysteresis):
    """The definition: connected components of the whole map, at the lower level, that reach the threshold."""
    above = (heat >= hysteresis * threshold).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    found = []
    for label in range(1, count):
        left, top, width, lines, area = (int(value) for value in stats[label])
        if area >= min_area and (heat[labels == label] >= threshold).any():
            found.append((top, left, lines, width, area, round(float(heat[labels == label].max()), 5)))
    return sorted(found)


@given(
    seed=st.integers(0, 10_000),
    cuts=st.lists(st.integers(1, 59), max_size=20),
    density=st.sampled_from([0.1, 0.35, 0.45, 0.6]),
    min_area=st.sampled_from([1, 5]),
    hysteresis=st.sampled_from([1.0, 0.8]),
)
def test_any_cutting_gives_the_components_of_the_whole(seed, cuts, density, min_area, hysteresis):
    heat = np.random.default_rng(seed).random((60, 23), np.float32)
    threshold = 1 - density
    found = in_parts(DefectTracker(threshold, min_area, hysteresis=hysteresis), heat, cuts)
    assert boxes(found) == regions_at_once(heat, threshold, min_area, hysteresis)
    assert [one.number for one in found] == list(range(1, len(found) + 1))


def test_arms_that_meet_later_are_one_defect():
    heat = np.zeros((30, 20), np.float32)
    heat[2:28, 3] = heat[2:28, 15] = 0.8
    heat[27, 3:16] = 0.9
    found = in_parts(DefectTracker(0.5, 1), heat, [5, 10, 20, 27])
    assert boxes(found) == [(2, 3, 26, 13, 26 + 26 + 11, 0.9)]


def test_a_faint_stretch_does_not_part_a_scratch_and_is_none_alone():
    heat = np.zeros((12, 30), np.float32)
    heat[3, 2:28] = [0.6] * 8 + [0.45] * 10 + [0.7] * 8
    heat[9, 5:25] = 0.45
    found = in_parts(DefectTracker(0.5, 1), heat, [4, 7])
    assert boxes(found) == [(3, 2, 1, 26, 26, 0.7)]
    assert len(in_parts(DefectTracker(0.5, 1, hysteresis=1.0), heat, [4, 7])) == 2


def test_a_defect_is_reported_when_it_has_ended_and_not_before():
    tracker = DefectTracker(0.5, 1)
    heat = np.zeros((10, 8), np.float32)
    heat[8:, 2:4] = 1
    assert tracker.add(heat, 0) == []
    assert [one.lines for one in tracker.add(np.zeros((10, 8), np.float32), 10)] == [2]
    assert tracker.finish() == []


def test_a_hole_in_the_web_ends_defects():
    tracker = DefectTracker(0.5, 1)
    full = np.ones((4, 8), np.float32)
    assert tracker.add(full, 0) == []
    assert [(one.first_line, one.lines) for one in tracker.add(full, 10)] == [(0, 4)]
    assert [(one.first_line, one.lines) for one in tracker.finish()] == [(10, 4)]


def test_a_scratch_without_an_end_is_reported_in_parts():
    tracker = DefectTracker(0.5, 1, max_lines=30)
    heat = np.zeros((10, 8), np.float32)
    heat[:, 5] = 0.7
    found = [one for start in range(0, 100, 10) for one in tracker.add(heat, start)] + tracker.finish()
    assert [(one.first_line, one.lines, one.continues) for one in found] == [
        (0, 30, True),
        (30, 30, True),
        (60, 30, True),
        (90, 10, False),
    ]


def test_many_specks_below_the_least_area_are_no_defects():
    heat = np.zeros((64, 64), np.float32)
    heat[::2, ::2] = 1
    assert in_parts(DefectTracker(0.5, 2), heat, [7, 32]) == []


def test_millimetres_and_severity():
    heat = np.zeros((20, 20), np.float32)
    heat[4:14, 6:11] = 0.75
    tracker = DefectTracker(0.5, 1, limits=SeverityLimits(0.4, 10), scale=PixelSize(pixel=0.1, line=0.2))
    (one,) = in_parts(tracker, heat, [])
    assert one.severity == Severity.MAJOR
    assert one.to_dict() == {
        "number": 1,
        "first_line": 4,
        "left": 6,
        "lines": 10,
        "width": 5,
        "area": 50,
        "peak": 0.75,
        "severity": "major",
        "continues": False,
        "mm": {"along": 0.8, "across": 0.6, "length": 2.0, "width": 0.5, "area": 1.0},
    }
    assert [SeverityLimits(10, 20).classify(area) for area in (9, 10, 20)] == ["minor", "major", "critical"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: DefectTracker(0.0),
        lambda: DefectTracker(float("nan")),
        lambda: DefectTracker(0.5, hysteresis=0.0),
        lambda: DefectTracker(0.5, hysteresis=1.1),
        lambda: DefectTracker(0.5, min_area=0),
        lambda: SeverityLimits(20, 10),
        lambda: PixelSize(0, 1),
    ],
)
def test_values_that_cannot_work_are_refused(make):
    with pytest.raises(ConfigError):
        make()
