"""Inspections of random webs, sizes, limits and failures: each line and each sink is accounted for at every end."""

import itertools
import threading
from collections import Counter

import numpy as np
import pytest

from prn_fast.errors import EngineError, LinescanError
from prn_fast.linescan.inspection import Inspection
from prn_fast.linescan.inspector import InspectionSettings, Inspector
from prn_fast.linescan.sinks import Sink
from prn_fast.linescan.sources.base import Block, Gap
from tests.linescan.webs import DarknessEngine, ListSource, assert_balanced

SIDE = 16
IN_THE_SUITE, ALL = range(300), range(300, 2700)


class Plan:
    """What happens in one inspection: events, limits, and at which call of what something fails or stops.

    Attributes:
        fired: messages of the planted errors that were raised, in their order.
    """

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.fired = []
        self._lock = threading.Lock()
        self._calls = Counter()
        self.width = int(self.rng.integers(SIDE, 3 * SIDE))
        self.live = bool(self.rng.integers(2))
        self.settings = InspectionSettings(overlap=int(self.rng.integers(0, SIDE // 2 + 1)), threshold=0.5, min_area=1)
        self.depth = int(self.rng.choice([1, 1, 2, 3, 8]))
        self.budget = self.rng.choice([None, None, None, 1e-9, 2e-3])
        self.events, self.total = self._make_events()
        self.wanted = int(self.rng.integers(1, self.total + 50)) if self.rng.random() < 0.3 else 0
        self.sinks = [f"sink{number}" for number in range(self.rng.integers(0, 4))]
        places = [
            *("engine", "nan", "source", "observer"),
            *(f"{sink} {call}" for sink in self.sinks for call in ("start", "defect", "gap", "finish")),
        ]
        failing = self.rng.choice(places, min(len(places), int(self.rng.choice([0, 1, 1, 1, 2]))), replace=False)
        # The first start or finish is also the last one.
        self._fails = {
            str(one): 1 if str(one).endswith(("start", "finish")) else int(self.rng.integers(1, 4)) for one in failing
        }
        self._stops = int(self.rng.integers(1, 10)) if self.rng.random() < 0.25 else 0

    def _make_events(self):
        line = first = int(self.rng.choice([0, 7, 10**9]))
        events = []
        for _ in range(self.rng.integers(0, 15)):
            if self.rng.random() < 0.25:
                lines = int(self.rng.integers(1, 3 * SIDE))
                # Told, or only to be seen by the next block's number.
                if self.rng.random() < 0.7 or not events:
                    events.append(Gap(line, lines, str(self.rng.choice(["incomplete", "failed", "camera_lost"]))))
                    line += lines
                    continue
                line += lines
            rows = np.full((int(self.rng.integers(1, 4 * SIDE)), self.width), 150, np.uint8)
            spots = self.rng.random(rows[::4, ::4].shape) < 0.05
            rows[spots.repeat(4, 0).repeat(4, 1)[: rows.shape[0], : rows.shape[1]]] = 10
            events.append(Block(rows, line, 0))
            line += len(rows)
        return events, line - first

    def reach(self, place):
        """Called at each place: raises where the plan says so."""
        with self._lock:
            self._calls[place] += 1
            fails = self._calls[place] == self._fails.get(place)
            if fails:
                self.fired.append(f"planted: {place}")
        if fails and place != "nan":
            raise (LinescanError if self._calls[place] % 2 else RuntimeError)(f"planted: {place}")
        return fails

    def stops_now(self):
        """Whether the inspection is stopped at this call."""
        self._calls["stop"] += 1
        return self._calls["stop"] == self._stops

    @property
    def ends_early(self):
        return bool(self._fails or self._stops)


class PlannedEngine(DarknessEngine):
    def __init__(self, plan):
        super().__init__(SIDE)
        self.plan = plan
        self.warm = False

    def run(self, images):
        scores, maps = super().run(images)
        if self.warm:
            self.plan.reach("engine")
            if self.plan.reach("nan"):
                maps[0, 0, 0] = np.nan
        self.warm = True
        return scores, maps


class PlannedSource(ListSource):
    def __init__(self, plan):
        super().__init__(plan.width, plan.events, plan.live)
        self.plan = plan

    def events(self):
        for event in self._events:
            self.plan.reach("source")
            if self.plan.stops_now():
                self.stop()
            if self.stopping:
                return
            yield event
        self.plan.reach("source")


class PlannedSink(Sink):
    def __init__(self, plan, name):
        self.plan, self._name = plan, name
        self.started = False
        self.told, self.ends = Counter(), []

    @property
    def name(self):
        return self._name

    def start(self, source):
        self.plan.reach(f"{self._name} start")
        self.started = True

    def defect(self, defect):
        self.plan.reach(f"{self._name} defect")
        self.told["defect"] += 1

    def gap(self, gap):
        self.plan.reach(f"{self._name} gap")
        self.told["gap"] += 1

    def finish(self, snapshot):
        self.ends.append(snapshot)
        self.plan.reach(f"{self._name} finish")


def inspect_randomly(seed):
    plan = Plan(seed)
    source = PlannedSource(plan)
    sinks = [PlannedSink(plan, name) for name in plan.sinks]
    inspection = Inspection(
        source,
        Inspector(PlannedEngine(plan), plan.width, "Mono8", plan.settings),
        sinks,
        depth=plan.depth,
        budget=plan.budget,
        lines=plan.wanted,
        observers=[lambda _: plan.reach("observer")],
    )
    error = None
    try:
        inspection.run()
    except (LinescanError, EngineError, RuntimeError) as raised:
        error = raised

    snapshot = inspection.snapshot()
    assert inspection.ended
    assert_balanced(snapshot)
    if not plan.ends_early:
        assert snapshot.lines == min(plan.total, plan.wanted or plan.total)
    assert not plan.wanted or snapshot.lines <= plan.wanted
    # Sources that wait for their reader have no gaps.
    if not plan.live and not error and plan.budget is None and not snapshot.missing:
        assert snapshot.dropped == {}

    messages = ["NaN" if one == "planted: nan" else one for one in plan.fired]
    assert (error is not None) == bool(messages), (error, plan.fired)
    if error is not None:
        # Threads may fail at the same moment; of one alone, it is clear which was first.
        assert any(one in str(error) for one in (messages if len(messages) > 1 else messages[:1]))
        assert snapshot.error == str(error)
    for sink in sinks:
        assert len(sink.ends) == sink.started, sink.name
        for end in sink.ends:
            assert_balanced(end)
            assert end.inspected == snapshot.inspected
            if error is not None and not any(one.endswith("finish") for one in plan.fired):
                assert end.error == str(error)
        if sink.started:
            told, lost = sum(sink.told.values()), snapshot.sinks[sink.name].lost
            assert told + lost >= sum(snapshot.defects.values())
            if not any(one.startswith(f"planted: {sink.name}") for one in plan.fired):
                assert sink.told["defect"] == sum(snapshot.defects.values())
                assert lost == 0
    return plan, snapshot, error


def show(seeds):
    """Inspect with all seeds; a failure names its seed. Returns how often each end came."""
    ends = Counter()
    for seed in seeds:
        try:
            plan, snapshot, error = inspect_randomly(seed)
        except AssertionError as failed:
            raise AssertionError(f"seed {seed}: {failed}") from failed
        ends["clean" if error is None else "failed"] += 1
        ends["at depth 1"] += plan.depth == 1 and error is not None
        ends["defects"] += bool(snapshot.defects)
        ends.update(one.split()[-1] for one in plan.fired)
    return ends


def test_random_inspections_account_for_every_line_and_sink():
    ends = show(IN_THE_SUITE)
    places = ["clean", "failed", "at depth 1", "defects", "engine", "nan", "source", "observer"]
    for place in itertools.chain(places, ["start", "defect", "gap", "finish"]):
        assert ends[place] >= 3, f"{place} was hardly tried: {ends}"


@pytest.mark.long
def test_many_random_inspections_account_for_every_line_and_sink():
    assert show(ALL).total() > len(ALL)
