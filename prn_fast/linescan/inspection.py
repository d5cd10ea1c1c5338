"""An inspection at work: source -> ring -> inspector -> sinks, every line accounted for."""

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prn_fast.errors import LinescanError
from prn_fast.linescan.core import LineRing
from prn_fast.linescan.inspector import Inspected, Inspector
from prn_fast.linescan.sources.base import Event, Gap, Source

if TYPE_CHECKING:
    from prn_fast.linescan.core import Ledger
    from prn_fast.linescan.defects import Defect
    from prn_fast.linescan.sinks import Sink

DEFAULT_DEPTH = 8
_POP_SECONDS = 0.1
_ROOM_SECONDS = 0.001
_LATENCIES_KEPT = 8192
_DEFECTS_KEPT = 200


@dataclass(frozen=True)
class Latency:
    """Seconds from the arrival of a strip's last line to its defects at the sinks.

    Attributes:
        p50, p99: of the last strips, 8192 at most.
        maximum: of all strips.
    """

    p50: float
    p99: float
    maximum: float


@dataclass(frozen=True)
class Snapshot:
    """Where an inspection stands.

    Attributes:
        seconds: since it began.
        lines, inspected, missing, dropped, waiting: the ledger.
        strips: inspected ones.
        latency: None before the first strip.
        defects: reported ones, by severity.
        recent: the last defects, newest first.
        error: why the line stopped; None while it runs and after a clean end.
    """

    seconds: float
    lines: int
    inspected: int
    missing: dict[str, int]
    dropped: dict[str, int]
    waiting: int
    strips: int
    latency: Latency | None
    defects: dict[str, int]
    recent: "list[Defect]"
    error: str | None

    @property
    def lines_per_second(self) -> float:
        """Lines on the wire, on average."""
        return self.lines / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the defects themselves; latencies in milliseconds."""
        latency = None
        if self.latency is not None:
            latency = {name: round(1e3 * value, 3) for name, value in vars(self.latency).items()}
        return {
            "seconds": round(self.seconds, 3),
            "lines": self.lines,
            "inspected": self.inspected,
            "missing": self.missing,
            "dropped": self.dropped,
            "waiting": self.waiting,
            "strips": self.strips,
            "latency_ms": latency,
            "defects": self.defects,
            "error": self.error,
        }


class Inspection:
    """Runs one inspection from its first line to a balanced ledger.

    One thread takes lines from the source into the ring; the thread that calls `run` inspects. What does not keep up
    is dropped, oldest first, and counted: by the ring where its queue is full ("queue_full"), and here where a strip
    waited longer than the budget ("overload"), so that no answer comes later than the budget and one inference.

    Args:
        source: of lines; a source that is not live waits for the inspector, so that nothing is dropped.
        inspector: for the source's width and pixel format.
        sinks: told of every defect and gap.
        depth: strips that may wait.
        budget: most seconds that a strip may wait; None drops only where the queue is full.
        lines: end after this many lines; 0 goes on until the source ends or `stop` is called.
        observers: called with the result of each strip, in the inspecting thread.
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
        if inspector.width != source.width:
            raise LinescanError(f"{source.name}: has {source.width} pixels a line, the inspector {inspector.width}")
        self._source = source
        self._inspector = inspector
        self._sinks = sinks
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
        self._origin: int | None = None
        self._on_the_wire = 0
        self._gaps: queue.SimpleQueue[Gap] = queue.SimpleQueue()
        self._grab_error: BaseException | None = None
        self._begin = time.monotonic()
        self._lock = threading.Lock()
        self._strips = 0
        self._latencies: deque[int] = deque(maxlen=_LATENCIES_KEPT)
        self._slowest_ns = 0
        self._counts: Counter[str] = Counter()
        self._recent: deque[Defect] = deque(maxlen=_DEFECTS_KEPT)
        self._error: str | None = None
        self._ended = threading.Event()

    def stop(self) -> None:
        """End soon: lines that arrived are still inspected. May be called from any thread."""
        self._source.stop()

    @property
    def ended(self) -> bool:
        """Whether all is done, and the ledger closed."""
        return self._ended.is_set()

    def run(self) -> Snapshot:
        """Inspect until the source ends; returns the closed ledger and what was found.

        Raises:
            EngineError: the engine failed, or its output is not a number. The line has stopped; what was not inspected
                is in the ledger as dropped.
            PRNError: of the source, a sink, or a ledger that does not balance.
        """
        self._inspector.warm_up()
        self._begin = time.monotonic()
        grabbing = threading.Thread(target=self._grab, name="prn-grab", daemon=True)
        for sink in self._sinks:
            sink.start(self._source.name)
        grabbing.start()
        try:
            self._inspect_all()
            self._report(self._inspector.examine_end())
        except BaseException as error:
            self._error = str(error) or type(error).__name__
            raise
        finally:
            self._close(grabbing)
        if self._grab_error is not None:
            raise self._grab_error
        self._check_ledger()
        return self.snapshot()

    def snapshot(self) -> Snapshot:
        """Where it stands now; may be called from any thread."""
        ledger = self.ring.ledger()
        with self._lock:
            latencies = np.array(self._latencies)
            latency = None
            if len(latencies):
                p50, p99 = np.quantile(latencies, (0.5, 0.99)) / 1e9
                latency = Latency(float(p50), float(p99), self._slowest_ns / 1e9)
            return Snapshot(
                seconds=time.monotonic() - self._begin,
                lines=ledger.lines,
                inspected=ledger.inspected,
                missing=_counted(ledger.missing),
                dropped=_counted(ledger.dropped),
                waiting=ledger.waiting,
                strips=self._strips,
                latency=latency,
                defects=dict(self._counts),
                recent=list(self._recent)[::-1],
                error=self._error,
            )

    # -- the grabbing thread ------------------------------------------------------------------------------------

    def _grab(self) -> None:
        try:
            for event in self._source.events():
                self._push(event)
                if self._wanted and self._on_the_wire >= self._wanted:
                    break
        except BaseException as error:
            self._grab_error = error
        finally:
            self.ring.finish()

    def _push(self, event: Event) -> None:
        if self._origin is None:
            self._origin = self._inspector.origin = event.first_line
        self._on_the_wire = event.end_line - self._origin
        if isinstance(event, Gap):
            self.ring.push_missing(event.lines, event.reason)
            self._gaps.put(event)
            return
        first_line = event.first_line - self._origin
        if self._source.live:
            self.ring.push(event.rows, first_line, event.arrival_ns)
            return
        for top in range(0, len(event.rows), self.ring.stride):
            rows = event.rows[top : top + self.ring.stride]
            if not self._wait_for_room(len(rows)):
                # It was stopped: what is not pushed was never on the wire.
                self._on_the_wire -= len(event.rows) - top
                return
            self.ring.push(rows, first_line + top)

    def _wait_for_room(self, lines: int) -> bool:
        # The first strip takes more than one stride to fill, also where only one may wait.
        room = max(2, self.ring.depth) * self.ring.stride + self.ring.overlap
        while self.ring.ledger().waiting + lines > room:
            if self._source.stopping:
                return False
            time.sleep(_ROOM_SECONDS)
        return True

    # -- the inspecting thread ----------------------------------------------------------------------------------

    def _inspect_all(self) -> None:
        while True:
            strip = self.ring.pop(_POP_SECONDS)
            self._report_gaps()
            if strip is None:
                if self.ring.finished:
                    return
                continue
            if self._budget_ns is not None and time.monotonic_ns() - strip.arrival_ns > self._budget_ns:
                strip.drop("overload")
                continue
            arrival_ns = strip.arrival_ns
            result = self._inspector.examine(strip)
            del strip
            self._report(result)
            taken_ns = time.monotonic_ns() - arrival_ns
            with self._lock:
                self._strips += 1
                self._latencies.append(taken_ns)
                self._slowest_ns = max(self._slowest_ns, taken_ns)

    def _report(self, result: Inspected) -> None:
        for defect in result.defects:
            for sink in self._sinks:
                sink.defect(defect)
            with self._lock:
                self._counts[str(defect.severity)] += 1
                self._recent.append(defect)
        for observer in self._observers:
            observer(result)

    def _report_gaps(self) -> None:
        while not self._gaps.empty():
            gap = self._gaps.get()
            for sink in self._sinks:
                sink.gap(gap)

    def _close(self, grabbing: threading.Thread) -> None:
        self._source.stop()
        grabbing.join()
        while (strip := self.ring.pop()) is not None:
            strip.drop("closed")
        if self._error is None and self._grab_error is not None:
            self._error = str(self._grab_error) or type(self._grab_error).__name__
        self._report_gaps()
        self._ended.set()
        last = self.snapshot()
        failed: list[LinescanError] = []
        for sink in self._sinks:
            # One that fails must not keep the end from the others.
            try:
                sink.finish(last)
            except LinescanError as error:
                failed.append(error)
        if failed and self._error is None:
            self._error = str(failed[0])
            raise failed[0]

    def _check_ledger(self) -> None:
        ledger = self.ring.ledger()
        if ledger.waiting or ledger.lines != self._on_the_wire:
            raise LinescanError(
                f"{self._source.name}: the ledger does not balance: {self._on_the_wire} lines on the wire, "
                f"{describe_ledger(ledger)}; please report this"
            )


def describe_ledger(ledger: "Ledger | Snapshot") -> str:
    """One line for people: lines, inspected, missing and dropped by reason."""
    parts = [f"{ledger.lines} lines", f"{ledger.inspected} inspected"]
    for name, counts in (("missing", ledger.missing), ("dropped", ledger.dropped)):
        given = ", ".join(f"{reason} {lines}" for reason, lines in counts.items() if lines)
        parts.append(f"{sum(counts.values())} {name}{f' ({given})' if given else ''}")
    return ", ".join(parts)


def _counted(lines: dict[str, int]) -> dict[str, int]:
    """Only the reasons that occurred."""
    return {reason: count for reason, count in lines.items() if count}
