"""Lines in, defects and a balanced ledger out."""

import io
import threading
import time

import numpy as np
import pytest
from rich.console import Console

from prn_fast.errors import ConfigError, DataError, EngineError, LinescanError
from prn_fast.linescan import inspection as inspection_module
from prn_fast.linescan.defects import PixelSize, SeverityLimits
from prn_fast.linescan.inspection import Inspection
from prn_fast.linescan.inspector import InspectionSettings
from prn_fast.linescan.sinks import CallbackSink, Sink, delivery
from prn_fast.linescan.sources.base import Block, Gap
from prn_fast.linescan.sources.synthetic import SyntheticSource
from prn_fast.linescan.terminal import as_renderable
from tests.linescan.webs import (
    SIDE,
    DarknessEngine,
    ListSource,
    SlowEngine,
    assert_balanced,
    blocks,
    check_found,
    make_inspector,
    on_the_web,
    planted_strip,
)

WIDTH, LINES = 700, 1536


class Recorder(Sink):
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
    snapshot, recorder = inspect(ListSource(WIDTH, blocks(pixels, [700])), SlowEngine(0.01), depth=2)
    assert snapshot.dropped == {}
    check_found(recorder.defects, planted)


def test_overload_drops_the_oldest_counts_them_and_bounds_the_wait():
    # 48 new lines a strip every 6 ms; the engine needs 20 ms.
    source = SyntheticSource(width=512, lines=48, strip_lines=512, line_rate=8000.0, length=8000)
    waiting = []
    inspection = Inspection(
        source,
        make_inspector(source, SlowEngine(0.02)),
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
    snapshot, _ = inspect(source, SlowEngine(0.03), depth=16, budget=0.02)
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


@pytest.mark.parametrize("depth", [1, 2, 8])
def test_the_error_of_an_engine_is_the_one_that_is_reported(strip, depth):
    pixels, _ = strip
    source = ListSource(WIDTH, blocks(pixels, [256]))
    recorder = Recorder()
    inspection = Inspection(source, make_inspector(source, DarknessEngine(broken_from=5)), [recorder], depth=depth)
    with pytest.raises(EngineError, match="NaN"):
        inspection.run()
    assert_balanced(recorder.finished)
    assert "NaN" in recorder.finished.error
    assert inspection.ended


def test_defects_of_inspected_lines_are_reported_before_the_engine_fails():
    web = np.full((400, WIDTH), 150, np.uint8)
    # It reaches from the second strip to where the engine fails, in the fourth.
    web[70:] = 10
    recorder = Recorder()
    source = ListSource(WIDTH, blocks(web, [100]))
    with pytest.raises(EngineError):
        Inspection(source, make_inspector(source, DarknessEngine(broken_from=5)), [recorder]).run()
    inspected = recorder.finished.inspected
    assert inspected == SIDE + 2 * (SIDE - 16)
    (defect,) = recorder.defects
    assert abs(defect.first_line - 70) <= 1
    assert defect.first_line + defect.lines == inspected


def test_what_fails_at_the_end_does_not_hide_what_failed_first():
    web = np.full((400, WIDTH), 150, np.uint8)
    web[100:200] = 10

    def fail(defect):
        raise LinescanError("the reject gate does not answer")

    source = ListSource(WIDTH, blocks(web, [100]))
    with pytest.raises(EngineError, match="NaN"):
        Inspection(source, make_inspector(source, DarknessEngine(broken_from=5)), [CallbackSink(fail)]).run()


class StuckSource(ListSource):
    """Plays its events, and then waits for something that does not come."""

    def __init__(self, width, events, live):
        super().__init__(width, events, live)
        self.released, self.stuck = threading.Event(), threading.Event()
        self.ended = threading.Event()

    def events(self):
        yield from super().events()
        self.stuck.set()
        self.released.wait(30)
        yield from blocks(np.zeros((100, WIDTH), np.uint8), [100], LINES)
        self.ended.set()


@pytest.mark.parametrize("live", [False, True])
def test_a_source_that_does_not_stop_is_left_behind(strip, monkeypatch, live):
    monkeypatch.setattr(inspection_module, "STOP_SECONDS", 0.1)
    source = StuckSource(WIDTH, blocks(strip[0], [256]), live)
    recorder = Recorder()
    inspection = Inspection(source, make_inspector(source), [recorder], depth=64)
    stopping = threading.Thread(target=lambda: (source.stuck.wait(30), inspection.stop()), daemon=True)
    stopping.start()
    snapshot = inspection.run()
    stopping.join()
    assert inspection.source_left
    assert_balanced(snapshot)
    assert snapshot.inspected == LINES
    assert recorder.finished.error is None
    # What it says afterwards changes nothing.
    source.released.set()
    inspection._grabbing.join(30)
    assert inspection.snapshot() == snapshot


class SlowSink(Recorder):
    """Takes its first message only when it is let."""

    def __init__(self):
        super().__init__()
        self.let = threading.Event()

    def defect(self, defect):
        self.let.wait(30)
        super().defect(defect)


def test_a_sink_that_does_not_keep_up_loses_messages_counted_and_no_strips(strip, monkeypatch):
    monkeypatch.setattr(delivery, "MAX_MESSAGES", 3)
    slow, other = SlowSink(), Recorder()
    # Live, so that nothing waits; the slow sink goes on only once all lines have been inspected.
    source = StuckSource(WIDTH, blocks(strip[0], [256]), live=True)
    inspection = Inspection(source, make_inspector(source), [slow, other], depth=64)

    def end():
        source.stuck.wait(30)
        while inspection.snapshot().inspected < LINES - 2 * SIDE or inspection.snapshot().sinks["Recorder"].waiting:
            time.sleep(0.001)
        slow.let.set()
        source.released.set()

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    snapshot = inspection.run()
    ending.join()
    found = sum(snapshot.defects.values())
    assert snapshot.dropped == {}
    lost = found - len(slow.defects)
    assert lost > 0
    # On a busy machine the other one may be late, too.
    losses = {"SlowSink": lost, "Recorder": found - len(other.defects)}
    assert {name: sink.lost for name, sink in snapshot.sinks.items()} == losses
    assert snapshot.lost["SlowSink"] == lost
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(as_renderable(snapshot, "demo.prn"))
    assert f"SlowSink: {lost} messages lost" in console.export_text()
    # Both ends tell it.
    for one in (slow, other):
        assert one.finished.to_dict()["sinks"] == {
            name: {"lost": count, "waiting": 0} for name, count in losses.items()
        }


def test_a_source_that_can_wait_waits_for_the_sinks(strip, monkeypatch):
    monkeypatch.setattr(delivery, "MAX_MESSAGES", 1)

    class Slow(Recorder):
        def defect(self, defect):
            time.sleep(0.005)
            super().defect(defect)

    slow = Slow()
    source = ListSource(WIDTH, blocks(strip[0], [256]))
    snapshot = Inspection(source, make_inspector(source), [slow]).run()
    assert snapshot.lost == snapshot.dropped == {}
    assert len(slow.defects) == len(strip[1])


def test_a_sink_that_is_stuck_is_left_behind_and_said_to_be(strip, monkeypatch):
    monkeypatch.setattr(delivery, "STUCK_SECONDS", 0.1)
    stuck, other = SlowSink(), Recorder()
    source = ListSource(WIDTH, blocks(strip[0], [256]))
    inspection = Inspection(source, make_inspector(source), [stuck, other])
    with pytest.raises(LinescanError, match="SlowSink: has not answered for"):
        inspection.run()
    stuck.let.set()
    snapshot = inspection.snapshot()
    assert_balanced(snapshot)
    assert snapshot.lost == {"SlowSink": sum(snapshot.defects.values())}
    assert "SlowSink" in other.finished.error
    assert stuck.finished is None


def test_sinks_of_one_name_are_told_apart(strip):
    source = ListSource(WIDTH, blocks(strip[0], [256]))
    snapshot = Inspection(source, make_inspector(source), [Recorder(), Recorder()]).run()
    assert list(snapshot.sinks) == ["Recorder", "Recorder #2"]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "make",
    [
        *(lambda value=value: PixelSize(value, 1.0) for value in (NAN, INF, -1.0, 0.0)),
        *(lambda value=value: PixelSize(1.0, value) for value in (NAN, INF, -1.0, 0.0)),
        *(lambda value=value: SeverityLimits(1.0, value) for value in (NAN, INF, 0.5)),
        *(lambda value=value: SeverityLimits(value, 1.0) for value in (NAN, -INF, -1.0)),
        *(lambda value=value: InspectionSettings(threshold=value) for value in (NAN, INF, -1.0, 0.0, 1.0)),
        *(lambda value=value: InspectionSettings(hysteresis=value) for value in (NAN, INF, 0.0, 1.5)),
        *(lambda value=value: InspectionSettings(min_area=value) for value in (NAN, 0, -5)),
        *(lambda value=value: InspectionSettings(max_defect_lines=value) for value in (NAN, 0)),
        lambda: InspectionSettings(overlap=-1),
        *(lambda value=value: inspect(ListSource(WIDTH, []), budget=value) for value in (NAN, INF, -1.0, 0.0)),
        lambda: inspect(ListSource(WIDTH, []), depth=0),
        lambda: inspect(ListSource(WIDTH, []), lines=-1),
    ],
)
def test_numbers_that_cannot_work_are_refused(make):
    with pytest.raises(ConfigError):
        make()


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
    for lines in (1000, 250, 1):
        source = SyntheticSource(width=512, strip_lines=512, lines=100)
        snapshot, _ = inspect(source, lines=lines)
        assert_balanced(snapshot)
        assert snapshot.inspected == snapshot.lines == lines

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
