"""A line camera on the wire: GigE Vision over loopback, 4096 pixels, a counter and planted defects in its lines."""

import threading
import time

import pytest

from prn_fast.errors import LinescanError
from prn_fast.linescan.inspection import Inspection
from prn_fast.linescan.sources import open_source
from tests.linescan.fake_camera import NAME, PACKAGES, FakeCamera, build_camera
from tests.linescan.webs import DarknessEngine, check_found, make_inspector, on_the_web, planted_strip

WIDTH, STRIP_LINES, BLOCK = 4096, 2048, 256
SIDE = 256


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build_camera(tmp_path_factory.mktemp("camera"))


@pytest.fixture(scope="module")
def strip():
    return planted_strip(WIDTH, STRIP_LINES, seed=2, defects=24)


@pytest.fixture
def run_camera(program, strip, tmp_path):
    """Starts cameras, one after the other; all are gone at the end."""
    cameras = []

    def start(**options):
        cameras.append(FakeCamera(program, strip[0], tmp_path, **options))
        return cameras[-1]

    yield start
    for camera in cameras:
        camera.kill()


def open_camera(line_rate):
    try:
        return open_source(
            f"aravis:{NAME}?width={WIDTH}&lines={BLOCK}&line_rate={line_rate}&counter=line&packet_size=9000&buffers=32"
        )
    except LinescanError as error:
        if "not installed" in str(error):
            pytest.skip(f"Aravis is not installed: apt-get install --no-install-recommends {PACKAGES}")
        raise


class Run:
    """An inspection of a camera in a thread, and everything that it says."""

    def __init__(self, source, engine=None, **options):
        self.source = source
        self.defects, self.gaps, self.waiting = [], [], []
        self.snapshot = self._error = None
        inspector = make_inspector(source, engine or DarknessEngine(SIDE), overlap=32)
        self.inspection = Inspection(source, inspector, [self], observers=[self.observe], **options)
        self._thread = threading.Thread(target=self._run)
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
        self.waiting.append(self.inspection.snapshot().waiting)

    def wait_for_lines(self, count, seconds=60):
        deadline = time.monotonic() + seconds
        while self.inspection.snapshot().lines < count:
            assert time.monotonic() < deadline, self.inspection.snapshot()
            assert self._thread.is_alive(), self._error
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
    run = Run(open_camera(5000), depth=64)
    assert camera.wait_until_sent() == lines
    run.wait_for_lines(lines)
    snapshot = run.end()
    assert snapshot.lines == lines
    assert snapshot.dropped == {}
    # Nothing is lost by design, but loopback may lose a packet on a busy machine: then it is in the ledger.
    found, touched = split(on_the_web(strip[1], STRIP_LINES, range(lines)), run.not_inspected())
    assert len(found) > 0.5 * 3 * len(strip[1])
    check_found(run.defects, found, ignored=touched)


def test_lost_packets_are_missing_lines_and_the_rest_is_found(run_camera, strip):
    lines = 4 * STRIP_LINES
    camera = run_camera(lines=lines, lost=0.001)
    run = Run(open_camera(5000), depth=64)
    camera.wait_until_sent()
    # The last block may be incomplete; Aravis gives up on it soon after.
    time.sleep(0.5)
    snapshot = run.end()
    assert snapshot.lines == lines
    assert snapshot.dropped == {}
    assert sum(snapshot.missing.values()) == sum(gap.lines for gap in run.gaps) > 0
    assert sum(snapshot.missing.values()) % BLOCK == 0
    found, touched = split(on_the_web(strip[1], STRIP_LINES, range(lines)), run.not_inspected())
    assert found
    check_found(run.defects, found, ignored=touched)


def test_a_killed_camera_is_waited_for_and_its_lines_are_missing(run_camera, strip):
    camera = run_camera()
    run = Run(open_camera(5000), depth=64)
    run.wait_for_lines(2 * STRIP_LINES)
    camera.kill()
    # The web went on while the camera was away: its counter, too.
    first_line, lines = 10 * STRIP_LINES, 2 * STRIP_LINES
    camera = run_camera(first_line=first_line, lines=lines)
    assert camera.wait_until_sent() == lines
    run.wait_for_lines(first_line + lines)
    snapshot = run.end()
    assert run.source.times_lost == 1
    assert snapshot.lines == first_line + lines
    assert snapshot.dropped == {}
    lost = [gap for gap in run.gaps if gap.reason == "camera_lost"]
    assert [gap.estimated for gap in lost] == [False]
    # The first blocks of the camera that is back may be incomplete: they belong to the gap.
    assert lost[0].end_line - first_line in range(0, 4 * BLOCK, BLOCK)
    assert snapshot.missing["camera_lost"] == lost[0].lines > 0
    found, touched = split(on_the_web(strip[1], STRIP_LINES, range(first_line + lines)), run.not_inspected())
    assert found
    check_found(run.defects, found, ignored=touched)


class SlowEngine(DarknessEngine):
    """Takes a while for each strip."""

    def __init__(self, seconds):
        super().__init__(SIDE)
        self.seconds = seconds

    def run(self, images):
        time.sleep(self.seconds)
        return super().run(images)


def test_twice_the_rate_that_the_engine_holds(run_camera):
    lines, depth = 8 * STRIP_LINES, 4
    camera = run_camera(lines=lines)
    # 224 new lines a strip come every 28 ms.
    run = Run(open_camera(8000), SlowEngine(0.056), depth=depth)
    assert camera.wait_until_sent() == lines
    run.wait_for_lines(lines)
    snapshot = run.end()
    assert snapshot.lines == lines
    assert snapshot.dropped["queue_full"] > lines / 4
    assert snapshot.inspected > 0
    # Memory and the wait are bounded: however long it goes on, no more lines wait than the ring holds.
    assert max(run.waiting) <= (depth + 3) * SIDE


def test_a_camera_that_is_not_there_is_explained(program):
    with pytest.raises(LinescanError, match="aravis:no-such-camera"):
        open_source("aravis:no-such-camera")


def test_a_setting_that_the_camera_refuses_is_explained(run_camera):
    run_camera()
    with pytest.raises(LinescanError, match=rf"aravis:{NAME}: .*AcquisitionLineRate|aravis:{NAME}: "):
        open_source(f"aravis:{NAME}?pixel_format=Mono17")
