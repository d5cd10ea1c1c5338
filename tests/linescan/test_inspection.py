"""Lines in, defects and a balanced ledger out."""

import time

import numpy as np
import pytest

from prn_fast.errors import ConfigError, DataError, EngineError, LinescanError
from prn_fast.linescan.inspection import Inspection
from prn_fast.linescan.sources.base import Block, Gap
from prn_fast.linescan.sources.synthetic import SyntheticSource
from tests.linescan.webs import (
    SIDE,
    DarknessEngine,
    ListSource,
    blocks,
    check_found,
    make_inspector,
    on_the_web,
    planted_strip,
)

WIDTH, LINES = 700, 1536


class Recorder:
    """A sink that keeps everything."""

    def __init__(self):
        self.defects, self.gaps, self.finished = [], [], None

    def start(self, source):
        self.source = source

    def defect(self, defect):
        self.defects.append(defect)

    def gap(self, gap):
        self.gaps.append(gap)

    def finish(self, snapshot):
        self.finished = snapshot


@pytest.fixture(scope="module")
def strip():
    return planted_strip(WIDTH, LINES, seed=1)


def inspect(source, engine=None, settings=None, **options):
    recorder = Recorder()
    inspection = Inspection(source, make_inspector(source, engine, **(settings or {})), [recorder], **options)
    return inspection.run(), recorder


def assert_balanced(snapshot):
    assert snapshot.waiting == 0
    assert snapshot.lines == snapshot.inspected + sum(snapshot.missing.values()) + sum(snapshot.dropped.values())


@pytest.mark.parametrize("sizes", [[256], [1000], [7, 64, 1, 300], [48]], ids=str)
def test_every_planted_defect_is_found_once(strip, sizes):
    pixels, planted = strip
    web = np.concatenate([pixels, pixels])
    snapshot, recorder = inspect(ListSource(WIDTH, blocks(web, sizes)))
    assert len(planted) > 8
    check_found(recorder.defects, on_the_web(planted, LINES, range(2 * LINES)))
    assert_balanced(snapshot)
    assert snapshot.inspected == snapshot.lines == 2 * LINES
    assert sum(snapshot.defects.values()) == len(recorder.defects)
    assert recorder.finished.lines == snapshot.lines


def test_lines_keep_the_numbers_of_the_camera(strip):
    pixels, planted = strip
    first = 10**12
    snapshot, recorder = inspect(ListSource(WIDTH, blocks(pixels, [256], first)))
    assert snapshot.lines == LINES
    assert sorted(one.first_line for one in recorder.defects)[0] >= first
    assert len(recorder.defects) == len(planted)


def test_missing_lines_are_counted_and_defects_beside_them_are_found(strip):
    pixels, planted = strip
    lost = [range(256, 512), range(1000, 1010)]
    events = []
    for top, bottom in ((0, 256), (512, 1000), (1010, LINES)):
        events += blocks(pixels[top:bottom], [100], top)
    events.insert(3, Gap(256, 256, "incomplete"))
    snapshot, recorder = inspect(ListSource(WIDTH, events), depth=40)
    assert_balanced(snapshot)
    # The jump of the line number is a gap, too.
    assert snapshot.missing == {"incomplete": 256, "gap": 10}
    assert snapshot.inspected == LINES - 266
    assert recorder.gaps == [Gap(256, 256, "incomplete")]
    touched = [
        one for one in planted
        if any(one.first_line < gap.stop + 8 and gap.start - 8 < one.first_line + one.lines for gap in lost)
    ]  # fmt: skip
    assert 0 < len(touched) < len(planted)
    check_found(recorder.defects, [one for one in planted if one not in touched], ignored=touched)


@pytest.mark.parametrize("lines", [1, SIDE - 1, SIDE, SIDE + 1, 200])
def test_a_short_web_is_inspected_to_its_last_line(lines):
    web = np.full((lines, WIDTH), 150, np.uint8)
    web[-1:, 100:140] = 10
    snapshot, recorder = inspect(ListSource(WIDTH, blocks(web, [50])), settings={"threshold": 0.3})
    assert_balanced(snapshot)
    assert snapshot.inspected == lines
    assert [one.first_line + one.lines for one in recorder.defects] == [lines]


def test_a_source_that_is_not_live_loses_nothing_to_a_slow_engine(strip):
    pixels, planted = strip
    snapshot, recorder = inspect(ListSource(WIDTH, blocks(pixels, [700])), Slow(0.01), depth=2)
    assert snapshot.dropped == {}
    check_found(recorder.defects, planted)


class Slow(DarknessEngine):
    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def run(self, images):
        time.sleep(self.seconds)
        return super().run(images)


def test_overload_drops_the_oldest_counts_them_and_bounds_the_wait():
    # 48 new lines a strip every 6 ms; the engine needs 20 ms.
    source = SyntheticSource(width=512, lines=48, strip_lines=512, line_rate=8000.0, length=8000)
    waiting = []
    inspection = Inspection(
        source,
        make_inspector(source, Slow(0.02)),
        depth=4,
        observers=[lambda _: waiting.append(inspection.snapshot().waiting)],
    )
    snapshot = inspection.run()
    assert_balanced(snapshot)
    assert snapshot.dropped["queue_full"] > 0
    assert snapshot.inspected > 0
    assert snapshot.missing == {}
    # However far behind the engine is, no more waits than the ring has memory for.
    assert max(waiting) <= (4 + 3) * SIDE


def test_a_latency_budget_drops_what_is_late():
    source = SyntheticSource(width=512, lines=48, strip_lines=512, line_rate=8000.0, length=8000)
    snapshot, _ = inspect(source, Slow(0.03), depth=16, budget=0.02)
    assert_balanced(snapshot)
    assert snapshot.dropped["overload"] > 0
    assert snapshot.inspected > 0


def test_nan_stops_the_line_and_its_lines_are_not_inspected(strip):
    pixels, _ = strip
    source = ListSource(WIDTH, blocks(pixels, [256]))
    recorder = Recorder()
    inspection = Inspection(source, make_inspector(source, DarknessEngine(broken_from=5)), [recorder])
    with pytest.raises(EngineError, match="NaN"):
        inspection.run()
    snapshot = recorder.finished
    assert_balanced(snapshot)
    assert "NaN" in snapshot.error
    assert snapshot.inspected == SIDE + 2 * (SIDE - 16)
    assert snapshot.dropped["engine_error"] == SIDE - 16
    assert inspection.snapshot().error == snapshot.error


class FailingSource(ListSource):
    def events(self):
        yield from super().events()
        raise DataError("page 3 is damaged")


def test_a_source_that_fails_ends_the_inspection_after_its_lines(strip):
    pixels, _ = strip
    recorder = Recorder()
    source = FailingSource(WIDTH, blocks(pixels, [256]))
    with pytest.raises(DataError, match="page 3"):
        Inspection(source, make_inspector(source), [recorder]).run()
    assert_balanced(recorder.finished)
    assert recorder.finished.inspected == LINES
    assert recorder.finished.error == "page 3 is damaged"


def test_a_block_that_does_not_fit_is_refused():
    source = ListSource(WIDTH, [Block(np.zeros((10, WIDTH + 1), np.uint8), 0, 0)])
    with pytest.raises(LinescanError):
        inspect(source)


def test_an_endless_source_ends_after_the_wanted_lines_or_by_stop():
    source = SyntheticSource(width=512, strip_lines=512, lines=100)
    snapshot, _ = inspect(source, lines=1000)
    assert_balanced(snapshot)
    assert snapshot.lines == 1000

    source = SyntheticSource(width=512, strip_lines=512, lines=100)
    inspection = Inspection(source, make_inspector(source), observers=[lambda _: inspection.stop()])
    assert_balanced(inspection.run())


def test_crops_show_the_defect(strip):
    pixels, _ = strip
    _, recorder = inspect(ListSource(WIDTH, blocks(pixels, [256])), settings={"crops": True})
    for defect in recorder.defects:
        top, left = max(0, defect.first_line - 16), max(0, defect.left - 16)
        expected = pixels[top : defect.first_line + defect.lines + 16, left : defect.left + defect.width + 16]
        # Lines that are not final yet are not in the crop.
        assert len(defect.crop) >= min(len(expected), defect.lines)
        assert np.array_equal(defect.crop[:, :, 0], expected[: len(defect.crop)])


def test_a_colour_web_and_a_grey_engine():
    web = np.full((200, 300, 3), 150, np.uint8)
    web[50:60, 100:110] = 10
    source = ListSource(300, [Block(web, 0, 0)])
    source.pixel_format = "RGB8"
    _, recorder = inspect(source)
    assert [(one.first_line, one.lines) for one in recorder.defects] == [(50, 10)]


def test_an_inspector_of_another_width_is_refused():
    source = ListSource(WIDTH, [])
    with pytest.raises(LinescanError, match=f"{WIDTH + 1} pixels a line, the inspector {WIDTH}"):
        Inspection(ListSource(WIDTH + 1, []), make_inspector(source))
    with pytest.raises(ConfigError, match="threshold"):
        make_inspector(source, threshold=None)


def test_an_empty_web_is_no_error():
    snapshot, _ = inspect(ListSource(WIDTH, []))
    assert (snapshot.lines, snapshot.latency, snapshot.defects) == (0, None, {})
