"""The state of an inspection, as sinks, the terminal and the dashboard get it."""

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prn_fast.drift import Drift
    from prn_fast.linescan.core import Ledger
    from prn_fast.linescan.defects import Defect


# Upper bounds of the latency classes, seconds; a last class holds everything above.
LATENCY_BOUNDS = (
    *(0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0),
)


@dataclass(frozen=True)
class LatencyHistogram:
    """All latencies since the beginning, counted in classes, so that those of several lines add up.

    Attributes:
        counts: of each class of `LATENCY_BOUNDS`, a value on a bound in the class below it; the last one without bound.
        seconds: sum of all latencies.
    """

    counts: tuple[int, ...] = (0,) * (len(LATENCY_BOUNDS) + 1)
    seconds: float = 0.0

    def with_one(self, seconds: float) -> "LatencyHistogram":
        """With one latency more."""
        counts = list(self.counts)
        counts[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        return LatencyHistogram(tuple(counts), self.seconds + seconds)


@dataclass(frozen=True)
class Latency:
    """Seconds from the arrival of a strip's last line until its defects are handed to the sinks.

    Attributes:
        p50, p99: of the last strips, 8192 at most.
        maximum: of all strips.
    """

    p50: float
    p99: float
    maximum: float


@dataclass(frozen=True)
class SinkState:
    """Messages that have not arrived at a sink's receiver.

    Attributes:
        lost: messages that were dropped because the sink did not keep up, failed, or could not deliver them.
        waiting: messages that are still to be delivered; after the end, those that the sink keeps on disk.
    """

    lost: int = 0
    waiting: int = 0


@dataclass(frozen=True)
class Snapshot:
    """The state of an inspection at one moment.

    Attributes:
        seconds: since it began; until its end, once it has ended.
        lines, inspected, missing, dropped, waiting: the ledger.
        strips: inspected ones.
        latency: None before the first strip.
        latencies: those of all strips, in classes.
        defects: reported ones, by severity.
        recent: the last defects, newest first.
        sinks: by name.
        engine_away: why the engine cannot be asked for now; None while it can.
        engine_away_seconds: for how long it has been away, in all.
        error: why the line stopped; None while it runs and after a clean end.
        drift: how the tiles compare with the calibration; None if drift is not watched.
        tiles: inspected tiles.
        exited: tiles that left early.
    """

    seconds: float
    lines: int
    inspected: int
    missing: dict[str, int]
    dropped: dict[str, int]
    waiting: int
    strips: int
    latency: Latency | None
    latencies: LatencyHistogram
    defects: dict[str, int]
    recent: "list[Defect]"
    sinks: dict[str, SinkState]
    engine_away: str | None
    engine_away_seconds: float
    error: str | None
    drift: "Drift | None" = None
    tiles: int = 0
    exited: int = 0

    @property
    def lines_per_second(self) -> float:
        """Lines on the wire, on average."""
        return self.lines / self.seconds if self.seconds else 0.0

    @property
    def lost(self) -> dict[str, int]:
        """Messages lost, by sink; only the sinks that lost any."""
        return {name: sink.lost for name, sink in self.sinks.items() if sink.lost}

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
            "tiles": self.tiles,
            "exited": self.exited,
            "latency_ms": latency,
            "defects": self.defects,
            "sinks": {name: dict(vars(sink)) for name, sink in self.sinks.items()},
            "engine_away_seconds": round(self.engine_away_seconds, 3),
            "error": self.error,
            "drift": None if self.drift is None else self.drift.to_dict(),
        }


def describe_ledger(ledger: "Ledger | Snapshot") -> str:
    """One line for people: lines, inspected, missing and dropped by reason."""
    parts = [f"{ledger.lines} lines", f"{ledger.inspected} inspected"]
    for name, counts in (("missing", ledger.missing), ("dropped", ledger.dropped)):
        given = ", ".join(f"{reason} {lines}" for reason, lines in counts.items() if lines)
        parts.append(f"{sum(counts.values())} {name}{f' ({given})' if given else ''}")
    if ledger.waiting:
        parts.append(f"{ledger.waiting} waiting")
    return ", ".join(parts)


def describe_sinks(snapshot: Snapshot) -> list[str]:
    """One line for each sink that lost messages, or has not delivered all of them."""
    lines = []
    for name, sink in snapshot.sinks.items():
        parts = [f"{sink.lost} messages lost"] if sink.lost else []
        parts += [f"{sink.waiting} messages not delivered yet"] if sink.waiting else []
        if parts:
            lines.append(f"{name}: {', '.join(parts)}")
    return lines
