"""An inspection at work: source -> ring -> inspector -> sinks, every line accounted for."""

import math
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prn_fast.drift import DriftState
from prn_fast.errors import ConfigError, EngineUnavailableError, LinescanError
from prn_fast.linescan import DEFAULT_DEPTH
from prn_fast.linescan.core import LineRing
from prn_fast.linescan.inspector import Inspected, Inspector
from prn_fast.linescan.loop import drop_waiting, inspect_strips
from prn_fast.linescan.sinks.delivery import Delivery, unique_names
from prn_fast.linescan.snapshot import Latency, LatencyHistogram, SinkState, Snapshot, describe_ledger
from prn_fast.linescan.sources.base import Event, Gap, Source

if TYPE_CHECKING:
    from prn_fast.linescan.defects import Defect
    from prn_fast.linescan.sinks.base import Sink

# Seconds that a source gets to stop; then it is left behind.
STOP_SECONDS = 5.0
_ROOM_SECONDS = 0.001
_LATENCIES_KEPT = 8192
_DEFECTS_KEPT = 200


def check_limits(depth: int, budget: float | None, lines: int) -> None:
    """A ConfigError where the limits of an `Inspection` cannot work."""
    if depth < 1:
        raise ConfigError(f"depth is {depth} strips; at least 1 must be able to wait")
    if budget is not None and not (math.isfinite(budget) and budget > 0):
        raise ConfigError(f"the budget is {1e3 * budget:g} ms; give a time above 0, or none")
    if lines < 0:
        raise ConfigError(f"lines is {lines}; give a number above 0, or 0 for no end")


class Inspection:
    """Runs one inspection from its first line to a balanced ledger.

    One thread takes lines from the source into the ring; the thread that calls `run` inspects; each sink has a thread
    and a bounded queue of its own. What does not keep up is dropped and counted: strips by the ring where its queue is
    full ("queue_full", oldest first), strips that waited longer than the budget ("overload"), so that no answer comes
    later than the budget and one inference, and messages of a sink whose queue is full (`SinkState.lost`).

    If the engine runs on a server and this is away, nothing ends: strips wait for it and are dropped as under
    any overload, and the inspection continues when it is back. After `stop`, it gets as much time as the source.

    It ends with its source, after the wanted lines, by `stop`, or with the first error: of the source (lines that
    arrived are still inspected), the engine, an observer or a sink. However it ends, every line is in the ledger as
    inspected, missing or dropped, and every sink that started is notified of the end once.

    Args:
        source: of lines; one that is not live waits for the inspector and the sinks, so that nothing is dropped.
        inspector: for the source's width and pixel format.
        sinks: notified of every defect and gap, and of changes in the state of drift.
        depth: strips that may wait.
        budget: most seconds that a strip may wait; None drops only where the queue is full.
        lines: end after exactly this many lines; 0 continues until the source ends or `stop` is called.
        observers: called with the result of each strip, in the inspecting thread.
    Attributes:
        ring: of lines, between source and inspector.
        source_left: the source did not stop in time and was left behind, with its thread: do not close it.
    Raises:
        ConfigError: limits that cannot work.
        LinescanError: the inspector has another width than the source.
    """

    def __init__(
        self,
        source: Source,
        inspector: Inspector,
        sinks: "Sequence[Sink]" = (),
        *,
        depth: int = DEFAULT_DEPTH,
        budget: float | None = None,
        lines: int = 0,
        observers: Sequence[Callable[[Inspected], None]] = (),
    ) -> None:
        check_limits(depth, budget, lines)
        if inspector.width != source.width:
            raise LinescanError(f"{source.name}: has {source.width} pixels a line, the inspector {inspector.width}")
        self._source = source
        self._inspector = inspector
        self._deliveries = [
            Delivery(sink, name, self._on_sink_error)
            for sink, name in zip(sinks, unique_names(sinks), strict=True)
        ]  # fmt: skip
        self._budget_ns = None if budget is None else int(budget * 1e9)
        self._wanted = lines
        self._observers = observers
        self.ring = LineRing(
            source.width,
            source.pixel_format,
            tile=inspector.engine.image_size,
            overlap=inspector.settings.overlap,
            depth=depth,
        )
        self.source_left = False
        self._stop_wanted = False
        self._stop_seen: float | None = None
        self._lock = threading.Lock()
        self._cause: BaseException | None = None
        self._sink_error: BaseException | None = None
        # The grabbing thread: what it pushed, under a lock that it shares with whoever finishes the ring.
        self._grabbing = threading.Thread(target=self._grab, name="prn-grab", daemon=True)
        self._pushing = threading.Lock()
        self._finished = False
        self._origin: int | None = None
        self._on_the_wire = 0
        self._gaps: queue.SimpleQueue[Gap] = queue.SimpleQueue()
        # Figures.
        self._begin = time.monotonic()
        self._end: float | None = None
        self._strips = self._tiles = self._exited = 0
        self._latencies: deque[int] = deque(maxlen=_LATENCIES_KEPT)
        self._histogram = LatencyHistogram()
        self._slowest_ns = 0
        self._counts: Counter[str] = Counter()
        self._recent: deque[Defect] = deque(maxlen=_DEFECTS_KEPT)
        self._drift_told: tuple[DriftState, ...] = ()
        self._away_since: float | None = None
        self._away_seconds = 0.0
        self._away: str | None = None
        self._ended = threading.Event()

    def stop(self) -> None:
        """End soon: lines that arrived are still inspected. May be called from any thread, and in a signal handler.

        A source that does not stop within five seconds is left behind.
        """
        # Nothing more here: a signal may come while this very thread holds a lock of the source.
        self._stop_wanted = True

    @property
    def ended(self) -> bool:
        """Whether all is done: the ledger is closed, and the sinks have been notified."""
        return self._ended.is_set()

    def run(self) -> Snapshot:
        """Inspect until the source ends; returns the closed ledger and what was found. Call it once.

        Raises:
            EngineError: the engine failed, or its output is not a number. The line has stopped; what was not inspected
                is in the ledger as dropped.
            PRNError: of the source, a sink, or a ledger that does not balance.
            BaseException: whatever else the source, an observer or a sink raised. It is always the first error.
        """
        self._inspector.warm_up()
        self._begin = time.monotonic()
        try:
            for sink in self._deliveries:
                sink.start(self._source.name)
            self._grabbing.start()
            inspect_strips(
                self.ring,
                self._inspector,
                self._budget_ns,
                self._report,
                self._fail,
                self._between_strips,
                self._engine_away,
            )
        except BaseException as error:
            self._fail(error)
        self._close()
        if self._cause is not None:
            raise self._cause
        return self.snapshot()

    def snapshot(self) -> Snapshot:
        """The state of the inspection now; may be called from any thread."""
        ledger = self.ring.ledger()
        sinks = {sink.name: SinkState(sink.lost, sink.waiting) for sink in self._deliveries}
        with self._lock:
            latencies = np.array(self._latencies)
            latency = None
            if len(latencies):
                p50, p99 = np.quantile(latencies, (0.5, 0.99)) / 1e9
                latency = Latency(float(p50), float(p99), self._slowest_ns / 1e9)
            return Snapshot(
                seconds=(self._end or time.monotonic()) - self._begin,
                lines=ledger.lines,
                inspected=ledger.inspected,
                missing=_counted(ledger.missing),
                dropped=_counted(ledger.dropped),
                waiting=ledger.waiting,
                strips=self._strips,
                latency=latency,
                latencies=self._histogram,
                defects=dict(self._counts),
                recent=list(self._recent)[::-1],
                sinks=sinks,
                engine_away=self._away,
                engine_away_seconds=self._away_seconds
                + (0.0 if self._away_since is None else (self._end or time.monotonic()) - self._away_since),
                error=None if self._cause is None else str(self._cause) or type(self._cause).__name__,
                drift=None if self._inspector.drift is None else self._inspector.drift.drift,
                tiles=self._tiles,
                exited=self._exited,
            )

    def _fail(self, error: BaseException) -> None:
        """Keep the first error; any thread."""
        with self._lock:
            if self._cause is None:
                self._cause = error

    # -- the grabbing thread ------------------------------------------------------------------------------------

    def _grab(self) -> None:
        try:
            for event in self._source.events():
                if not self._take(event):
                    break
        except BaseException as error:
            # Errors of a source that was left behind come too late.
            if not self._finished:
                self._fail(error)
        finally:
            self._finish_ring()

    def _take(self, event: Event) -> bool:
        """Push an event as far as its lines are wanted; False if no more lines are."""
        if self._origin is None:
            self._origin = self._inspector.origin = event.first_line
        first_line = event.first_line - self._origin
        lines = event.end_line - event.first_line
        if self._wanted and first_line >= self._wanted:
            # The line counter jumped past the end.
            self._push_missing(Gap(event.first_line, self._wanted - self._on_the_wire, "gap"))
            return False
        if self._wanted:
            lines = min(lines, self._wanted - first_line)
        if isinstance(event, Gap):
            gap = replace(event, lines=lines)
            going_on = self._push_missing(gap)
            self._gaps.put(gap)
        elif self._source.live:
            going_on = self._push(event.rows[:lines], first_line, event.arrival_ns)
        else:
            going_on = self._push_when_there_is_room(event.rows[:lines], first_line)
        return going_on and not (self._wanted and self._on_the_wire >= self._wanted)

    def _push(self, rows: NDArray[np.generic], first_line: int, arrival_ns: int | None = None) -> bool:
        with self._pushing:
            if not self._finished:
                self.ring.push(rows, first_line, arrival_ns)
                self._on_the_wire = first_line + len(rows)
            return not self._finished

    def _push_missing(self, gap: Gap) -> bool:
        with self._pushing:
            if not self._finished:
                self.ring.push_missing(gap.lines, gap.reason)
                self._on_the_wire += gap.lines
            return not self._finished

    def _push_when_there_is_room(self, rows: NDArray[np.generic], first_line: int) -> bool:
        for top in range(0, len(rows), self.ring.stride):
            part = rows[top : top + self.ring.stride]
            # If it is stopped meanwhile, lines that were not pushed do not count as on the wire.
            if not (self._wait_for_room(len(part)) and self._push(part, first_line + top)):
                return False
        return True

    def _wait_for_room(self, lines: int) -> bool:
        # The first strip takes more than one stride to fill, even if only one may wait.
        room = max(2, self.ring.depth) * self.ring.stride + self.ring.overlap
        while self.ring.ledger().waiting + lines > room:
            if self._source.stopping:
                return False
            time.sleep(_ROOM_SECONDS)
        return True

    def _finish_ring(self) -> None:
        """Take no more lines; may be called from any thread, and twice."""
        with self._pushing:
            if not self._finished:
                self._finished = True
                self.ring.finish()

    # -- the inspecting thread ----------------------------------------------------------------------------------

    def _between_strips(self) -> None:
        self._report_gaps()
        if self._sink_error is not None:
            raise self._sink_error
        if self._stop_wanted:
            self._source.stop()
        if self._source.stopping and not self._finished and self._seconds_to_stop() <= 0:
            self._finish_ring()

    def _seconds_to_stop(self) -> float:
        """Remaining time of the source to stop; the time begins with the first call."""
        if self._stop_seen is None:
            self._stop_seen = time.monotonic()
        return max(0.0, self._stop_seen + STOP_SECONDS - time.monotonic())

    def _engine_away(self, error: EngineUnavailableError) -> None:
        with self._lock:
            self._away = str(error)
            self._away_since = self._away_since or time.monotonic()
        if self._stop_wanted and self._seconds_to_stop() <= 0:
            raise error

    def _engine_back(self) -> None:
        with self._lock:
            if self._away_since is not None:
                self._away_seconds += time.monotonic() - self._away_since
                self._away_since = self._away = None

    def _report(self, result: Inspected, latency_ns: int | None) -> None:
        if latency_ns is not None and self._away_since is not None:
            self._engine_back()
        for defect in result.defects:
            for sink in self._deliveries:
                sink.put(partial(sink.sink.defect, defect), defect.picture_bytes, wait=not self._source.live)
            with self._lock:
                self._counts[str(defect.severity)] += 1
                self._recent.append(defect)
        if latency_ns is not None:
            with self._lock:
                self._strips += 1
                self._tiles += result.tiles
                self._exited += result.exited
                self._latencies.append(latency_ns)
                self._histogram = self._histogram.with_one(latency_ns / 1e9)
                self._slowest_ns = max(self._slowest_ns, latency_ns)
        self._report_drift()
        for observer in self._observers:
            observer(result)

    def _report_drift(self) -> None:
        monitor = self._inspector.drift
        if monitor is None or monitor.drift.states == self._drift_told:
            return
        drift = monitor.drift
        self._drift_told = drift.states
        for sink in self._deliveries:
            sink.put(partial(sink.sink.drift, drift), wait=not self._source.live)

    def _report_gaps(self) -> None:
        while not self._gaps.empty():
            gap = self._gaps.get()
            for sink in self._deliveries:
                sink.put(partial(sink.sink.gap, gap), wait=not self._source.live)

    def _close(self) -> None:
        """Settle every line and notify every sink; keeps errors instead of raising them."""
        self._source.stop()
        if self._grabbing.is_alive():
            self._grabbing.join(self._seconds_to_stop())
        self.source_left = self._grabbing.is_alive()
        self._finish_ring()
        self._check_ledger()
        self._report_gaps()
        for sink in self._deliveries:
            sink.drain()
        self._end = time.monotonic()
        last = self.snapshot()
        for sink in self._deliveries:
            sink.finish(last)
        self._ended.set()

    def _check_ledger(self) -> None:
        try:
            drop_waiting(self.ring, "closed")
        except LinescanError as error:
            self._fail(error)
        ledger = self.ring.ledger()
        if ledger.waiting or ledger.lines != self._on_the_wire:
            self._fail(
                LinescanError(
                    f"{self._source.name}: the ledger does not balance: {self._on_the_wire} lines on the wire, "
                    f"{describe_ledger(ledger)}; please report this"
                )
            )

    def _on_sink_error(self, error: BaseException) -> None:
        """Called by a sink's thread; the inspecting thread ends before its next strip."""
        self._fail(error)
        self._sink_error = error


def _counted(lines: dict[str, int]) -> dict[str, int]:
    """Only the reasons that occurred."""
    return {reason: count for reason, count in lines.items() if count}
