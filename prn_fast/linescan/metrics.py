"""An inspection's figures for Prometheus, served over HTTP."""

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Any

import prn_fast
from prn_fast.drift import DriftState
from prn_fast.errors import ConfigError
from prn_fast.extras import require_extra
from prn_fast.linescan.core import DROP_REASONS, MISSING_REASONS
from prn_fast.linescan.defects import Severity
from prn_fast.linescan.snapshot import LATENCY_BOUNDS, Snapshot


class Metrics:
    """Serves the figures of one inspection at /metrics from a thread of its own, until `close`.

    Counters, gauges and a histogram of latencies, which can be added up over lines; each reading takes a new snapshot.
    Nothing is encrypted, and anyone who reaches the port can read the figures.

    Args:
        snapshot: where the inspection stands now; called by the serving thread.
        identity: package, engine and source, as labels of `prn_inspection_info`.
        host, port: to listen on; port 0 takes a free one.
    Attributes:
        url: of the figures.
    Raises:
        ConfigError: the port is taken, the host is not this machine's, or prometheus-client is not installed.
    """

    def __init__(
        self, snapshot: Callable[[], Snapshot], identity: Mapping[str, str], host: str = "127.0.0.1", port: int = 0
    ) -> None:
        require_extra("linescan", "prometheus_client")
        from prometheus_client import CollectorRegistry, start_http_server

        registry = CollectorRegistry()
        registry.register(_Collector(snapshot, identity))
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(f"metrics cannot be served on {host}:{port} ({why})") from None
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._server.server_port}/metrics"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Collector:
    """Makes Prometheus's metrics of a snapshot."""

    def __init__(self, snapshot: Callable[[], Snapshot], identity: Mapping[str, str]) -> None:
        self._snapshot = snapshot
        self._identity = {**identity, "version": prn_fast.__version__}

    def describe(self) -> list[Any]:
        """Nothing, since the inspection may not have begun when this is registered."""
        return []

    def collect(self) -> Iterator[Any]:
        """All metrics, at one moment."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
            InfoMetricFamily,
        )

        now = self._snapshot()
        yield InfoMetricFamily("prn_inspection", "What is inspected, and by what.", self._identity)
        yield GaugeMetricFamily(
            "prn_running", "1 while lines are inspected, 0 after an error.", float(now.error is None)
        )

        # Every reason is present from the beginning: a rate needs the zero before the first event.
        lines = CounterMetricFamily(
            "prn_lines", "Lines of the web: inspected, missing or dropped.", labels=("state", "reason")
        )
        lines.add_metric(("inspected", ""), now.inspected)
        for state, reasons, counts in (
            ("missing", MISSING_REASONS, now.missing),
            ("dropped", DROP_REASONS, now.dropped),
        ):
            for reason in reasons:
                lines.add_metric((state, reason), counts.get(reason, 0))
        yield lines
        yield GaugeMetricFamily("prn_lines_waiting", "Lines that arrived and wait to be inspected.", now.waiting)
        yield CounterMetricFamily("prn_strips", "Inspected strips.", now.strips)
        yield CounterMetricFamily("prn_tiles", "Inspected tiles.", now.tiles)
        yield CounterMetricFamily("prn_exited_tiles", "Of these, those that left early.", now.exited)

        drift = GaugeMetricFamily("prn_drift_state", "1 at the state of drift, 0 at others.", labels=("state",))
        if now.drift is not None:
            for state in DriftState:
                drift.add_metric((str(state),), float(state == now.drift.state))
        yield drift

        bounds = [*(str(bound) for bound in LATENCY_BOUNDS), "+Inf"]
        latency = HistogramMetricFamily(
            "prn_latency_seconds",
            "From the arrival of a strip's last line, where it is known when that was due, to its defects.",
        )
        below = list(accumulate(now.latencies.counts))
        latency.add_metric((), list(zip(bounds, below, strict=True)), now.latencies.seconds)
        yield latency

        defects = CounterMetricFamily("prn_defects", "Reported defects.", labels=("severity",))
        for severity in Severity:
            defects.add_metric((str(severity),), now.defects.get(str(severity), 0))
        yield defects

        lost = CounterMetricFamily("prn_sink_lost_messages", "Messages that a sink lost.", labels=("sink",))
        waiting = GaugeMetricFamily("prn_sink_waiting_messages", "Messages yet to be delivered.", labels=("sink",))
        for name, sink in now.sinks.items():
            lost.add_metric((name,), sink.lost)
            waiting.add_metric((name,), sink.waiting)
        yield lost
        yield waiting
