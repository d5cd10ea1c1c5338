"""Figures for Prometheus, read over HTTP and parsed by the client library."""

import json
import re
import socket
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import prn_fast
from prn_fast.drift import MIN_WINDOW, DriftMonitor
from prn_fast.engine.early_exit import Screening
from prn_fast.errors import ConfigError, EngineError
from prn_fast.linescan.inspection import Inspection
from prn_fast.linescan.metrics import Metrics
from prn_fast.linescan.sinks import CallbackSink
from prn_fast.linescan.snapshot import LATENCY_BOUNDS, LatencyHistogram
from tests.linescan.webs import DarknessEngine, make_inspector, three_defects

GRAFANA = Path(__file__).parents[2] / "examples" / "grafana" / "prn-inspect.json"
IDENTITY = {"package": "web.prn", "engine": "darkness", "source": "list"}


@pytest.fixture
def served():
    """Starts the metrics of an inspection; returns the inspection and what reads all samples."""
    running = []

    def serve(engine=None):
        source = three_defects()
        inspector = make_inspector(source, engine)
        inspector.drift = DriftMonitor(None, "fp32", MIN_WINDOW)
        inspection = Inspection(source, inspector, [CallbackSink(str)])
        running.append(Metrics(inspection.snapshot, IDENTITY))
        return inspection, lambda: read(running[-1].url)

    yield serve
    for one in running:
        one.close()


def read(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


def lines(samples, state):
    return sum(value for (name, *labels), value in samples.items() if ("state", state) in labels)


def test_figures_agree_with_the_ledger(served):
    inspection, samples = served()
    before = samples()
    assert {lines(before, state) for state in ("inspected", "missing", "dropped")} == {0}
    assert before["prn_lines_total", ("reason", "incomplete"), ("state", "missing")] == 0
    snapshot = inspection.run()
    after = samples()
    assert lines(after, "inspected") == snapshot.inspected == 300
    assert after["prn_lines_total", ("reason", "incomplete"), ("state", "missing")] == 50
    assert lines(after, "inspected") + lines(after, "missing") + lines(after, "dropped") == snapshot.lines
    assert after["prn_defects_total", ("severity", "minor")] == 3
    assert after["prn_defects_total", ("severity", "critical")] == 0
    assert after["prn_strips_total",] == snapshot.strips
    assert after["prn_tiles_total",] == snapshot.tiles == 4 * snapshot.strips
    assert after["prn_exited_tiles_total",] == 0
    assert after["prn_sink_lost_messages_total", ("sink", "str")] == 0
    assert after["prn_running",] == 1
    labels = sorted({**IDENTITY, "version": prn_fast.__version__}.items())
    assert after[("prn_inspection_info", *labels)] == 1


def test_latencies_are_a_histogram_of_all_strips(served):
    inspection, samples = served()
    snapshot = inspection.run()
    after = samples()
    buckets = [after["prn_latency_seconds_bucket", ("le", str(bound))] for bound in LATENCY_BOUNDS]
    assert buckets == sorted(buckets)
    assert after["prn_latency_seconds_count",] == snapshot.strips == after["prn_latency_seconds_bucket", ("le", "+Inf")]
    assert after["prn_latency_seconds_sum",] == pytest.approx(snapshot.latencies.seconds)
    # No latency is below the sum's share of any, or above the largest.
    assert snapshot.latencies.seconds <= snapshot.strips * snapshot.latency.maximum


def test_a_latency_on_a_bound_is_in_the_class_below_it():
    histogram = LatencyHistogram()
    for seconds in (0.0, 0.001, 0.0011, 10.0, 11.0):
        histogram = histogram.with_one(seconds)
    assert [count for count in histogram.counts if count] == [2, 1, 1, 1]
    assert (histogram.counts[0], histogram.counts[1], histogram.counts[-2], histogram.counts[-1]) == (2, 1, 1, 1)
    assert histogram.seconds == pytest.approx(21.0021)


class LeavingEngine(DarknessEngine):
    """As its parent, with a screen that knows tiles without anything dark."""

    def __init__(self):
        super().__init__()
        self.screening = Screening(cut=0.1, threshold=0.5, pixel_threshold=0.5)

    def screen(self, images):
        """See `Engine.screen`."""
        return self.run(images)


def test_tiles_that_leave_early_are_counted(served):
    inspection, samples = served(LeavingEngine())
    snapshot = inspection.run()
    after = samples()
    assert 0 < snapshot.exited < snapshot.tiles
    assert (after["prn_exited_tiles_total",], after["prn_tiles_total",]) == (snapshot.exited, snapshot.tiles)


def test_the_state_of_drift_is_one_of_all(served):
    inspection, samples = served()
    assert {name: value for name, value in samples().items() if name[0] == "prn_drift_state"} == {
        ("prn_drift_state", ("state", "learning")): 1,
        ("prn_drift_state", ("state", "ok")): 0,
        ("prn_drift_state", ("state", "watch")): 0,
        ("prn_drift_state", ("state", "act")): 0,
    }
    monitor = inspection._inspector.drift
    for level in (100.0, 200.0, 200.0, 200.0):
        noise = np.random.default_rng(0).normal(0, 1, (monitor.window, 3))
        monitor.add(noise + level)
    assert str(monitor.drift.state) == "act"
    assert samples()["prn_drift_state", ("state", "act")] == 1
    assert samples()["prn_drift_state", ("state", "learning")] == 0


def test_a_line_that_stopped_says_so(served):
    inspection, samples = served(DarknessEngine(broken_from=3))
    with pytest.raises(EngineError):
        inspection.run()
    after = samples()
    assert after["prn_running",] == 0
    assert after["prn_lines_total", ("reason", "engine_error"), ("state", "dropped")] > 0


def test_a_port_that_is_taken_is_explained():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"metrics cannot be served on 127.0.0.1:{port}"):
            Metrics(lambda: None, IDENTITY, "127.0.0.1", port)
    with pytest.raises(ConfigError, match="metrics cannot be served on"):
        Metrics(lambda: None, IDENTITY, "a.host.that.is.none.invalid", 0)


def test_the_grafana_dashboard_asks_for_figures_that_are_there(served):
    inspection, samples = served()
    inspection.run()
    there = {name: {label for label, _ in labels} for (name, *labels) in samples()}
    dashboard = json.loads(GRAFANA.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"\bprn_\w+", query)}
    assert asked <= set(there)
    # And shows all that is told, but for sums and counts of the histogram.
    assert {name for name in there if not name.endswith(("_sum", "_count", "_created"))} - asked == {"prn_strips_total"}
    for query in queries:
        for name, selected in re.findall(r"(prn_\w+)\{([^}]*)\}", query):
            labels = set(re.findall(r"(\w+)[!=]", selected)) - {"instance"}
            assert labels <= there[name], query
        for grouped in re.findall(r"by \(([^)]*)\)", query):
            for name in set(re.findall(r"\bprn_\w+", query)):
                assert set(grouped.replace(" ", "").split(",")) - {"instance"} <= there[name], query
