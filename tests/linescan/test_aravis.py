"""A line camera on the wire: GigE Vision over loopback, 4096 pixels, a counter and planted defects in its lines."""

import fcntl
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prn_fast.errors import LinescanError
from prn_fast.linescan.core import LineRing, row_bytes
from prn_fast.linescan.inspection import Inspection
from prn_fast.linescan.sinks.base import Sink
from prn_fast.linescan.sources import Gap, open_source
from tests import needs
from tests.linescan.fake_camera import NAME, FakeCamera, build_camera
from tests.linescan.webs import DarknessEngine, SlowEngine, check_found, make_inspector, on_the_web, planted_strip

WIDTH, STRIP_LINES, BLOCK = 4096, 2048, 256
SIDE = 256

pytestmark = needs.aravis


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build_camera(tmp_path_factory.mktemp("camera"))


@pytest.fixture(scope="module")
def strip():
    return planted_strip(WIDTH, STRIP_LINES, seed=2, defects=24)


@pytest.fixture(autouse=True)
def only_camera_on_loopback():
    """Cameras of tests that run at the same time would have one address and port, and mix their blocks."""
    with Path(tempfile.gettempdir(), "prn_fast-gige-vision.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def run_camera(program, strip, tmp_path, only_camera_on_loopback):
    """Starts cameras, one after the other; all are gone at the end."""
    cameras = []

    def start(played=strip[0], **options):
        cameras.append(FakeCamera(program, played, tmp_path, **options))
        return cameras[-1]

    yield start
    for camera in cameras:
        camera.kill()


def open_counting_camera(line_rate):
    return open_source(
        f"aravis:{NAME}?width={WIDTH}&lines={BLOCK}&line_rate={line_rate}&counter=line&packet_size=9000&buffers=32"
    )


def take_all(source, end_line):
    """Blocks, copied, and gaps up to a line; checked to follow each other.

    The camera must send more: where the last block of all arrives incomplete, nothing tells where it ends until the
    source is stopped.
    """
    events, expected = [], 0
    for event in source.events():
        assert event.first_line == expected
        expected = event.end_line
        events.append(event if isinstance(event, Gap) else replace(event, rows=np.array(event.rows)))
        if expected >= end_line:
            source.stop()
    return events


def lines_lost_unseen(blocks):
    """Lines that the camera sent before block numbers were seen: blocks of which a busy machine received no packet."""
    first = blocks[0]
    lost = int(first.rows[0, :8].view("<u8")[0]) - first.first_line
    assert lost >= 0
    assert lost % BLOCK == 0
    return lost


def check_pixels(blocks, strip, lost=0):
    """Blocks show the lines of the strip that their numbers say, counted after the lines that were lost unseen."""
    assert blocks
    for one in blocks:
        shown = strip[np.arange(one.first_line + lost, one.end_line + lost) % len(strip)]
        # Where the camera writes its numbers is not the strip.
        assert np.array_equal(one.rows[:, 8:], shown[:, 8:])


class Run(Sink):
    """An inspection of a camera in a thread, and everything that it says."""

    def __init__(self, source, engine=None, **options):
        self.source = source
        self.defects, self.gaps, self.waits = [], [], []
        self.snapshot = self._error = None
        inspector = make_inspector(source, engine or DarknessEngine(SIDE), overlap=32)
        self.inspection = Inspection(source, inspector, [self], observers=[self.observe], **options)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            self.snapshot = self.inspection.run()
        except BaseException as error:
            self._error = error

    def start(self, source):
        pass

    def defect(self, defect):
        self.defects.append(defect)

    def gap(self, gap):
        self.gaps.append(gap)

    def finish(self, snapshot):
        pass

    def observe(self, inspected):
        self.waits.append(self.inspection.snapshot().waiting)

    def wait_for_lines(self, count, seconds=60):
        deadline = time.monotonic() + seconds
        while self.inspection.snapshot().lines < count:
            assert time.monotonic() < deadline, self.inspection.snapshot()
            assert self._thread.is_alive(), self._error
            time.sleep(0.02)

    def wait_for_last_lines(self, count, quiet=2.0, seconds=60):
        """Until so many lines were counted, or no more come: an incomplete last block is counted when the run ends."""
        deadline, last, counted = time.monotonic() + seconds, time.monotonic(), -1
        while counted < count and time.monotonic() - last < quiet:
            assert time.monotonic() < deadline, self.inspection.snapshot()
            assert self._thread.is_alive(), self._error
            if (lines := self.inspection.snapshot().lines) != counted:
                last, counted = time.monotonic(), lines
            time.sleep(0.02)

    def end(self):
        """The closed ledger, checked."""
        self.inspection.stop()
        self._thread.join(60)
        self.source.close()
        if self._error is not None:
            raise self._error
        one = self.snapshot
        assert one.waiting == 0
        assert one.lines == one.inspected + sum(one.missing.values()) + sum(one.dropped.values())
        return one

    def not_inspected(self):
        """Ranges of lines that the ledger does not call inspected: gaps."""
        return [range(gap.first_line, gap.end_line) for gap in self.gaps]


def check_counted(snapshot, sent):
    """Every line that was sent is counted, but for last blocks of which a busy machine received no packet."""
    assert sent - snapshot.lines in range(0, 4 * BLOCK, BLOCK)


def split(planted, holes):
    """Defects away from the holes, and those that touch one."""
    touched = [
        one for one in planted
        if any(one.first_line < hole.stop + 8 and hole.start - 8 < one.first_line + one.lines for hole in holes)
    ]  # fmt: skip
    return [one for one in planted if one not in touched], touched


def test_all_planted_defects_are_found_once_and_every_line_is_counted(run_camera, strip):
    lines = 3 * STRIP_LINES
    camera = run_camera(lines=lines)
    run = Run(open_counting_camera(5000), depth=64)
    assert camera.wait_until_sent() == lines
    run.wait_for_last_lines(lines)
    snapshot = run.end()
    check_counted(snapshot, lines)
    assert snapshot.dropped == {}
    # Nothing is lost by design, but loopback may lose a packet on a busy machine: then it is in the ledger.
    found, touched = split(on_the_web(strip[1], STRIP_LINES, range(snapshot.lines)), run.not_inspected())
    assert len(found) > 0.5 * 3 * len(strip[1])
    check_found(run.defects, found, ignored=touched)


def test_lost_packets_are_missing_lines_and_the_rest_is_found(run_camera, strip):
    lines = 4 * STRIP_LINES
    camera = run_camera(lines=lines, lost=0.001)
    run = Run(open_counting_camera(5000), depth=64)
    camera.wait_until_sent()
    run.wait_for_last_lines(lines)
    snapshot = run.end()
    check_counted(snapshot, lines)
    assert snapshot.dropped == {}
    assert sum(snapshot.missing.values()) == sum(gap.lines for gap in run.gaps) > 0
    assert sum(snapshot.missing.values()) % BLOCK == 0
    found, touched = split(on_the_web(strip[1], STRIP_LINES, range(snapshot.lines)), run.not_inspected())
    assert found
    check_found(run.defects, found, ignored=touched)


def test_a_killed_camera_is_waited_for_and_its_lines_are_missing(run_camera, strip):
    camera = run_camera()
    run = Run(open_counting_camera(5000), depth=64)
    run.wait_for_lines(2 * STRIP_LINES)
    camera.kill()
    # The web went on while the camera was away: its counter, too.
    first_line, lines = 10 * STRIP_LINES, 2 * STRIP_LINES
    camera = run_camera(first_line=first_line, lines=lines)
    assert camera.wait_until_sent() == lines
    run.wait_for_last_lines(first_line + lines)
    snapshot = run.end()
    assert run.source.times_lost == 1
    check_counted(snapshot, first_line + lines)
    assert snapshot.dropped == {}
    lost = [gap for gap in run.gaps if gap.reason == "camera_lost"]
    assert [gap.estimated for gap in lost] == [False]
    # The first blocks of the camera that is back may be incomplete: they belong to the gap.
    assert lost[0].end_line - first_line in range(0, 4 * BLOCK, BLOCK)
    assert snapshot.missing["camera_lost"] == lost[0].lines > 0
    found, touched = split(on_the_web(strip[1], STRIP_LINES, range(snapshot.lines)), run.not_inspected())
    assert found
    check_found(run.defects, found, ignored=touched)


@pytest.mark.parametrize("counter", ["block", "line"])
def test_the_lines_that_a_short_block_lacks_are_missing(run_camera, strip, counter):
    lines, held = 8 * BLOCK, 100
    run_camera(short=(3, held))
    where = f"aravis:{NAME}?width={WIDTH}&lines={BLOCK}&line_rate=5000&packet_size=9000&buffers=32&counter={counter}"
    with open_source(where) as source:
        events = take_all(source, lines)
    blocks = [one for one in events if not isinstance(one, Gap)]
    assert {len(one.rows) for one in blocks} == {BLOCK, held}
    # A counter of lines is taken out of the pixels, and names the camera's own lines.
    check_pixels(blocks, strip[0], lost=lines_lost_unseen(blocks) if counter == "block" else 0)
    gaps = {one.first_line: one for one in events if isinstance(one, Gap)}
    reason = "incomplete" if counter == "block" else "gap"
    # With a counter of lines, the block after it shows what the last one lacks.
    for one in blocks[:-1]:
        if len(one.rows) == held:
            gap = gaps[one.end_line]
            # A busy machine may lose the block behind it, too.
            assert gap.lines >= BLOCK - held
            assert gap.reason == reason or gap.lines > BLOCK - held


@pytest.mark.parametrize("pixel_format", ["Mono10p", "Mono10Packed", "Mono12p", "Mono12Packed"])
def test_packed_pixels_over_the_wire(run_camera, pixel_format):
    width, lines = 1024, 4 * BLOCK
    packed = np.random.default_rng(0).integers(0, 256, (512, row_bytes(pixel_format, width)), dtype=np.uint8)
    # As if the first block had been lost unseen.
    run_camera(packed, first_line=BLOCK)
    with open_source(
        f"aravis:{NAME}?width={width}&lines={BLOCK}&line_rate=5000&pixel_format={pixel_format}&buffers=32"
    ) as source:
        assert (source.width, source.pixel_format) == (width, pixel_format)
        ring = LineRing(width, pixel_format, tile=BLOCK)
        blocks = [one for one in take_all(source, lines) if not isinstance(one, Gap)]
    check_pixels(blocks, packed, lines_lost_unseen(blocks))
    for one in blocks:
        ring.push(one.rows)
    assert ring.ledger().lines == len(blocks) * BLOCK


def test_stop_ends_a_camera_that_is_silent(run_camera):
    camera = run_camera(lines=BLOCK)
    with open_source(f"aravis:{NAME}?width={WIDTH}&lines={BLOCK}&line_rate=5000") as source:
        ended = threading.Thread(target=list, args=(source.events(),), daemon=True)
        ended.start()
        camera.wait_until_sent()
        source.stop()
        ended.join(10)
        assert not ended.is_alive()


def test_twice_the_rate_that_the_engine_holds(run_camera):
    lines, depth = 8 * STRIP_LINES, 4
    camera = run_camera(lines=lines)
    # 224 new lines a strip come every 28 ms.
    run = Run(open_counting_camera(8000), SlowEngine(0.056, SIDE), depth=depth)
    assert camera.wait_until_sent() == lines
    run.wait_for_last_lines(lines)
    snapshot = run.end()
    check_counted(snapshot, lines)
    assert snapshot.dropped["queue_full"] > lines / 4
    assert snapshot.inspected > 0
    # Memory and the wait are bounded: however long it goes on, no more lines wait than the ring holds.
    assert max(run.waits) <= (depth + 3) * SIDE


def test_a_camera_that_is_not_there_is_explained(program):
    with pytest.raises(LinescanError, match="aravis:no-such-camera"):
        open_source("aravis:no-such-camera")


def test_a_setting_that_the_camera_refuses_is_explained(run_camera):
    run_camera()
    with pytest.raises(LinescanError, match=rf"aravis:{NAME}: .*AcquisitionLineRate|aravis:{NAME}: "):
        open_source(f"aravis:{NAME}?pixel_format=Mono16")
