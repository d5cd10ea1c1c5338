"""An engine that is away for a while, as one behind a server is: the line goes on, and every line is accounted for."""

import threading
import time

import numpy as np
import pytest

from prn_fast.errors import EngineUnavailableError
from prn_fast.linescan import embedding
from prn_fast.linescan import inspection as inspection_module
from prn_fast.linescan.core import LineRing
from prn_fast.linescan.embedding import Host
from prn_fast.linescan.inspection import Inspection
from prn_fast.linescan.loop import inspect_strips
from prn_fast.linescan.sources.synthetic import SyntheticSource
from tests.linescan.webs import DarknessEngine, ListSource, blocks, check_found, make_inspector, planted_strip

WIDTH, LINES = 512, 1536


class Absent(DarknessEngine):
    """Is away from one run to another, both counted from 1; the first run is the one that warms up."""

    def __init__(self, leaves: int, returns: float) -> None:
        super().__init__()
        self.leaves, self.returns = leaves, returns

    def run(self, images):
        self.calls += 1
        if self.leaves <= self.calls < self.returns:
            raise EngineUnavailableError("the server cannot be reached")
        return super().run(images)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr("prn_fast.linescan.loop._AWAY_SECONDS", 0.001)


def balanced(snapshot):
    assert snapshot.waiting == 0
    return snapshot.lines == snapshot.inspected + sum(snapshot.missing.values()) + sum(snapshot.dropped.values())


def test_a_web_that_can_wait_is_inspected_as_if_nothing_had_happened():
    pixels, planted = planted_strip(WIDTH, LINES, seed=1)
    found = []
    source = ListSource(WIDTH, blocks(pixels, [300]))
    engine = Absent(leaves=5, returns=60)
    inspection = Inspection(source, make_inspector(source, engine), observers=[lambda one: found.extend(one.defects)])
    snapshot = inspection.run()
    assert engine.calls > 60
    assert balanced(snapshot)
    assert snapshot.inspected == snapshot.lines == LINES
    assert snapshot.engine_away is None
    assert 0 < snapshot.engine_away_seconds < snapshot.seconds
    check_found(found, planted)


@pytest.mark.parametrize(("budget", "reason"), [(0.02, "overload"), (None, "queue_full")])
def test_strips_of_a_camera_wait_are_dropped_and_counted_and_the_line_goes_on(budget, reason):
    source = SyntheticSource(width=WIDTH, lines=48, strip_lines=512, line_rate=8000.0, length=8000)
    snapshots = []
    inspection = Inspection(
        source,
        make_inspector(source, Absent(leaves=4, returns=104)),
        depth=4,
        budget=budget,
        observers=[lambda _: snapshots.append(inspection.snapshot())],
    )
    snapshot = inspection.run()
    assert balanced(snapshot)
    assert snapshot.lines == 8000
    assert set(snapshot.dropped) <= {"overload", "queue_full"}
    assert snapshot.dropped[reason] > 0
    # It went on after the lines that were dropped.
    after = [one for one in snapshots if sum(one.dropped.values())]
    assert after[-1].inspected > after[0].inspected


def test_an_engine_that_never_returns_is_told_when_the_line_is_stopped(monkeypatch):
    monkeypatch.setattr(inspection_module, "STOP_SECONDS", 0.05)
    source = SyntheticSource(width=WIDTH, lines=48, strip_lines=512, line_rate=8000.0)
    inspection = Inspection(source, make_inspector(source, Absent(leaves=4, returns=np.inf)), depth=4)

    def stop_when_away():
        deadline = time.monotonic() + 60
        while inspection.snapshot().engine_away is None and time.monotonic() < deadline:
            time.sleep(0.001)
        inspection.stop()

    stopping = threading.Thread(target=stop_when_away, daemon=True)
    stopping.start()
    with pytest.raises(EngineUnavailableError, match="cannot be reached"):
        inspection.run()
    stopping.join()
    snapshot = inspection.snapshot()
    assert balanced(snapshot)
    assert snapshot.dropped["engine_error"] > 0
    assert snapshot.to_dict()["engine_away_seconds"] > 0


def test_a_loop_that_is_not_told_to_wait_ends_as_with_any_error():
    ring = LineRing(WIDTH, "Mono8", tile=64, overlap=16, depth=8)
    ring.push(np.full((300, WIDTH), 150, np.uint8), 0)
    ring.finish()
    source = ListSource(WIDTH, [])
    failures = []
    inspector = make_inspector(source, Absent(leaves=1, returns=np.inf))
    inspect_strips(ring, inspector, None, lambda *_: None, failures.append)
    assert isinstance(failures[0], EngineUnavailableError)
    assert ring.ledger().dropped["engine_error"] > 0


def test_a_cpp_host_is_told_once_and_waits(monkeypatch):
    engine = Absent(leaves=3, returns=40)
    monkeypatch.setattr(
        "prn_fast.linescan.embedding.open_inspector",
        lambda *_, **__: make_inspector(ListSource(WIDTH, []), engine),
    )
    monkeypatch.setattr(embedding.LineRing, "from_capsule", staticmethod(lambda ring: ring), raising=False)
    host = Host("grpc://rack:8001/tiles", width=WIDTH, pixel_format=0x01080001, overlap=16)
    ring = LineRing(WIDTH, "Mono8", tile=64, overlap=16, depth=8)
    ring.push(np.full((300, WIDTH), 150, np.uint8), 0)
    ring.finish()
    errors = []
    host.run(ring, lambda *_: None, errors.append)
    assert [error for error in errors if "cannot be reached" in error] == errors
    assert len(errors) == 1
    assert ring.ledger().inspected == 300
