"""Line camera: lines come at a fixed rate, whether the engine is ready or not, and the product inspects them.

All of the product's own path runs: an `Inspection` over a source that plays a strip at the line rate, with ring, tiler,
engine, stitcher, defect tracker and a sink. The strip is made of validation images, of which a stated share has a
defect. One strip of tiles is inspected each time that as many lines have come as tiles are long without their overlap;
`BUFFERS` of them may wait, and the ring drops the oldest beyond, with its lines. Latency runs from the scheduled
arrival of a strip's last line to its defects, so that waiting counts.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prn_fast.bench.engines.agreement import dependence_faults, form_faults
from prn_fast.bench.engines.answers import ask_many, timed_ask
from prn_fast.bench.engines.output_checks import KnownAnswers, SpotChecks
from prn_fast.bench.machine.clock import MILLISECOND
from prn_fast.bench.scenarios.cameras import CAMERAS, Camera, Tiling
from prn_fast.bench.scenarios.engine_under_test import EngineUnderTest
from prn_fast.bench.scenarios.rate_search import RateSearch
from prn_fast.bench.stats import percentiles
from prn_fast.engine.base import Detections
from prn_fast.errors import ConfigError
from prn_fast.linescan import DEFAULT_DEPTH
from prn_fast.linescan.defects import Defect
from prn_fast.linescan.inspection import Inspection
from prn_fast.linescan.inspector import Inspected, InspectionSettings, Inspector
from prn_fast.linescan.sinks.base import Sink
from prn_fast.linescan.sources.synthetic import StripSource

if TYPE_CHECKING:
    from prn_fast.linescan.core import Strip

BLOCK_LINES = 64  # as the source hands them over
BUFFERS = DEFAULT_DEPTH
# Rows of tiles that differ: an engine that repeats its last answer is found out.
PATTERN_ROWS = 6
KNOWN_TILES = 8
FIRST_SHARE_OF_CAPACITY = 0.75
# Few, so that slow engines get a verdict; the run that confirms has as many as there are buffers.
MINIMUM_STRIPS = BUFFERS // 2
RUNS_IN_TIME = 10
# Of the time. A short run at a rate that asks for all of it loses no line yet, but never makes up for a pause.
MAX_BUSY = 0.95


@dataclass(frozen=True)
class CameraRun:
    """One run at one line rate.

    Attributes:
        blocks: strips of tiles that came; `inspected`: those whose result is in `latency_ms`.
        lines_lost: that the ledger does not count as inspected.
        queue_depth: most strips that waited while one was inspected, that one included.
        busy: share of the time that inspecting needs at this rate: mean seconds of a strip, times strips a second.
        sustained: nothing was lost, and `busy` is at most `MAX_BUSY`.
    """

    rate: float
    blocks: int
    inspected: int
    lines_lost: int
    queue_depth: int
    busy: float
    latency_ms: dict[str, float | None]
    sustained: bool


@dataclass
class LineCameraResult:
    """What the search found.

    Attributes:
        capacity: lines a second by the time of a row of tiles alone, an estimate that no run has shown.
        sustained: the run at the highest line rate that was sustained with no line lost; None if there is none, and
            `reason` says why.
        confirmed: `sustained` is a run of its own after the search.
    """

    scenario: ClassVar[str] = "line-camera"

    engine: str
    width: int
    side: int
    overlap: int
    capacity: float
    runs: list[CameraRun] = field(default_factory=list)
    sustained: CameraRun | None = None
    confirmed: bool = False
    reason: str | None = None

    @property
    def tiling(self) -> Tiling:
        """How its lines are cut."""
        return Tiling(self.width, self.side, self.overlap)


def camera_shares(result: LineCameraResult) -> list[tuple[Camera, float]]:
    """Each camera of the table, and the share of its tiles a second that was sustained; from 1 on it fits.

    A camera of another width asks for other tiles, so tiles a second are compared, not lines.
    """
    sustained = result.tiling.tiles_per_second(result.sustained.rate) if result.sustained else 0.0
    shares = []
    for camera in CAMERAS:
        tiling = Tiling(camera.width, result.side, result.overlap)
        shares.append((camera, sustained / tiling.tiles_per_second(camera.rate)))
    return shares


def check_geometry(width: int, side: int, overlap: int) -> None:
    """A ConfigError if such lines cannot be cut into such tiles."""
    if width < side:
        raise ConfigError(f"--camera-width {width} is less than a tile of {side} pixels")
    if not 0 <= overlap <= side // 2:
        raise ConfigError(f"--overlap {overlap} must be 0 to {side // 2}, for tiles of {side} pixels")


class Surface:
    """Endless lines made of real images: `PATTERN_ROWS` rows of tiles, each an image, that repeat.

    Where tiles overlap, their images fade into each other, so that no edge is there that the product has not.

    Args:
        images: (N, side, side, C).
        labels: (N,) 0 (good) or 1 (defect).
        library: indices of images, in the mixture that is wanted.
        rng: chooses.
    Attributes:
        strip: (PATTERN_ROWS * stride, width, C), one round.
        defective: (PATTERN_ROWS, n) bool, the tiles whose image has a defect.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.integer],
        library: NDArray[np.int64],
        tiling: Tiling,
        rng: np.random.Generator,
    ) -> None:
        self.tiling = tiling
        side, stride, columns = tiling.side, tiling.stride, tiling.columns
        period, count = PATTERN_ROWS * stride, PATTERN_ROWS * len(columns)
        chosen = _mixed(labels, library, count, rng).reshape(PATTERN_ROWS, len(columns))
        self.defective = labels[chosen] == 1
        ramp = np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1)).astype(np.float32)
        weights = ramp[:, None, None] * ramp[:, None]
        total = np.zeros((period, tiling.width, images.shape[3]), np.float32)
        weight = np.zeros((period, tiling.width, 1), np.float32)
        for row, column in np.ndindex(chosen.shape):
            lines = np.arange(row * stride, row * stride + side) % period
            across = slice(columns[column], columns[column] + side)
            total[lines, across] += weights * images[chosen[row, column]]
            weight[lines, across] += weights
        self.strip = np.rint(total / weight).astype(np.uint8)

    def tiles(self, row: int) -> NDArray[np.uint8]:
        """Tiles (n, side, side, C) of the row of tiles with this number, cut out of its lines."""
        first = row % PATTERN_ROWS * self.tiling.stride
        lines = np.take(self.strip, range(first, first + self.tiling.side), axis=0, mode="wrap")
        return np.stack([lines[:, column : column + self.tiling.side] for column in self.tiling.columns])


def _mixed(
    labels: NDArray[np.integer], library: NDArray[np.int64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """`count` indices of the library in its mixture; one has a defect where any of the library's has."""
    kinds = [library[labels[library] == label] for label in (1, 0)]
    defects = min(count, max(int(len(kinds[0]) > 0), round(count * len(kinds[0]) / len(library))))
    counts = (defects if len(kinds[1]) else count, count - defects if len(kinds[0]) else count)
    return rng.permutation(
        np.concatenate([np.resize(rng.permutation(of), n) for of, n in zip(kinds, counts, strict=True) if len(of)])
    )


class _Asked:
    """What an inspector needs of an engine, of whatever can be asked."""

    # The answer to each tile is checked.
    takes_strips = False

    def __init__(self, subject: EngineUnderTest) -> None:
        self._engine = subject.engine
        self.name = subject.name
        self.image_size, self.image_channels = subject.images.shape[1], subject.images.shape[3]
        self.pixel_threshold = getattr(subject.engine, "pixel_threshold", 0.5)

    def infer_many(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Detections]:
        """See `ask_many`."""
        return ask_many(self._engine, batches)

    def warm_up(self, images: NDArray[np.uint8]) -> None:
        """See `Engine.warm_up`."""
        if hasattr(self._engine, "warm_up"):
            self._engine.warm_up(images)


class TimedInspector(Inspector):
    """An inspector that keeps times, and shows each answer together with the row of tiles that it is to.

    Args:
        engine: as `_Asked`.
        tiling, channels: of the lines.
        keep: takes the number of a row of tiles, and the answers to it.
    Attributes:
        working: nanoseconds at work.
        latencies: milliseconds of each strip.
    """

    def __init__(self, engine: Any, tiling: Tiling, channels: int, keep: Callable[[int, Detections], None]) -> None:
        settings = InspectionSettings(overlap=tiling.overlap, threshold=engine.pixel_threshold)
        super().__init__(engine, tiling.width, "Mono8" if channels == 1 else "RGB8", settings)
        self._keep, self._stride, self._row = keep, tiling.stride, -1
        self.working = 0
        self.latencies: list[float] = []

    def examine(self, strip: "Strip") -> Inspected:
        """See `Inspector.examine`."""
        start = time.perf_counter_ns()
        arrival, self._row = strip.arrival_ns, strip.first_line // self._stride
        result = super().examine(strip)
        self.working += time.perf_counter_ns() - start
        self.latencies.append((time.monotonic_ns() - arrival) / MILLISECOND)
        return result

    def _detect_in_tiles(self) -> Detections:
        found = super()._detect_in_tiles()
        self._keep(self._row, found)
        return found


class CountingSink(Sink):
    """Takes what is found, as a sink on a line does."""

    def __init__(self) -> None:
        self.defects = 0

    def defect(self, defect: Defect) -> None:
        """See `Sink.defect`."""
        self.defects += 1


class LineCameraScenario:
    """The search with one engine, a run at a time; the caller alternates it with those of others."""

    def __init__(self, subject: EngineUnderTest, tiling: Tiling, seconds: float) -> None:
        self.subject = subject
        assert subject.labels is not None
        assert subject.library is not None
        self._surface = Surface(subject.images, subject.labels, subject.library, tiling, subject.rng)
        run_seconds = seconds / RUNS_IN_TIME
        self._capacity = tiling.stride / self._learn(len(tiling.columns), run_seconds)
        self._search = RateSearch(
            FIRST_SHARE_OF_CAPACITY * self._capacity,
            run_seconds,
            MINIMUM_STRIPS * tiling.stride,
            self._run,
            estimate=lambda run: MAX_BUSY * run.rate / run.busy if run.busy else math.inf,
        )

    @property
    def result(self) -> LineCameraResult:
        """What was found so far."""
        tiling, found = self._surface.tiling, self._search
        return LineCameraResult(
            self.subject.name,
            tiling.width,
            tiling.side,
            tiling.overlap,
            self._capacity,
            found.runs,
            found.sustained,
            found.confirmed,
            found.reason,
        )

    def step(self, seconds_left: float) -> bool:
        """One run; False when the search is over."""
        return not self.subject.faults and self._search.step(seconds_left)

    def _learn(self, columns: int, most_seconds: float) -> float:
        """The engine's answers to some tiles of each row, or to all where some may leave; and the time of a row.

        That the engine answers rightly was checked on the images that the lines are made of; here its answers are only
        to be recognised, and no detection may be lost by early exit.
        """
        rng, surface = self.subject.rng, self._surface
        engine: Any = self.subject.engine
        count = PATTERN_ROWS * columns
        screening = getattr(engine, "screening", None)
        chosen = np.arange(count) if screening else rng.choice(count, size=min(KNOWN_TILES, count), replace=False)
        tiles = np.concatenate([surface.tiles(row) for row in range(PATTERN_ROWS)])
        elapsed, answers = timed_ask(engine, tiles[chosen])
        self.subject.faults += form_faults(answers, len(chosen), tiles.shape[1])
        self.subject.faults += [] if self.subject.faults else dependence_faults(answers)
        self._known = KnownAnswers.of(tiles[chosen], answers)
        self._left = answers.exited.reshape(surface.defective.shape) if screening else np.zeros_like(surface.defective)
        if screening and not screening.alone and not self.subject.faults:
            self._refuse_losses(engine.infer_whole(tiles).defective)
        indices = np.full(count, -1)
        indices[chosen] = np.arange(len(chosen))
        self._indices = indices.reshape(PATTERN_ROWS, columns)
        estimate = elapsed / 1e9 / len(chosen) * columns
        if estimate > most_seconds:
            return estimate
        seconds = []
        for row in range(PATTERN_ROWS):
            start = time.perf_counter()
            for _ in ask_many(engine, [surface.tiles(row)]):
                pass
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds))

    def _refuse_losses(self, flagged: NDArray[np.bool_]) -> None:
        """A fault where tiles with a defect that the whole network detects leave early."""
        flagged = flagged.reshape(self._left.shape) & self._surface.defective
        self.subject.mix.lost = int((flagged & self._left).sum())
        if self.subject.mix.lost:
            self.subject.faults.append(f"{self.subject.mix.lost} of {int(flagged.sum())} detected defects leave early")

    def _run(self, rate: float, seconds: float) -> CameraRun | None:
        tiling = self._surface.tiling
        strips = max(1, round(seconds * rate / tiling.stride))
        checks = SpotChecks(self._known, self.subject.rng)
        kept = 0

        def keep(row: int, answers: Detections) -> None:
            nonlocal kept
            kept += 1
            place = row % PATTERN_ROWS
            checks.keep(answers, self._indices[place])
            self.subject.mix.add(self._surface.defective[place], self._left[place])

        try:
            inspector = TimedInspector(_Asked(self.subject), tiling, self.subject.images.shape[3], keep)
            run = run_camera(inspector, self._surface.strip, tiling, rate, strips)
        except Exception as error:
            # Whatever a backend raises is its fault; the figures of the others must not be lost.
            self.subject.faults.append(f"raised {type(error).__name__} while lines came: {error}")
            return None
        if faults := checks.verdict():
            self.subject.faults += faults
            return None
        # The product's inspector may come to ask its engine in another way, past `TimedInspector`.
        if kept != run.inspected:
            raise RuntimeError(f"the answers to {kept} of {run.inspected} inspected strips were looked at")
        return run


def run_camera(
    inspector: TimedInspector, strip: NDArray[np.uint8], tiling: Tiling, rate: float, strips: int
) -> CameraRun:
    """Send the lines of this many strips at `rate` lines a second, and inspect what can be inspected.

    Raises:
        EngineError: of the engine.
    """
    length = tiling.side + (strips - 1) * tiling.stride
    source = StripSource("bench", strip, lines=BLOCK_LINES, line_rate=rate, length=length)
    depth = 0

    def look(_: Inspected) -> None:
        nonlocal depth
        depth = max(depth, 1 + min(BUFFERS, inspection.ring.ledger().waiting // tiling.stride))

    inspection = Inspection(source, inspector, [CountingSink()], depth=BUFFERS, observers=[look])
    snapshot = inspection.run()
    inspected, latencies = snapshot.strips, inspector.latencies
    lost = snapshot.lines - snapshot.inspected
    share = inspector.working / 1e9 / max(inspected, 1) * rate / tiling.stride
    return CameraRun(
        rate=rate,
        blocks=strips,
        inspected=inspected,
        lines_lost=lost,
        queue_depth=depth,
        busy=share,
        latency_ms={**percentiles(latencies), "max": max(latencies)}
        if latencies
        else dict.fromkeys(("p50", "p90", "p99", "p999", "max")),
        sustained=not lost and bool(inspected) and share <= MAX_BUSY,
    )
