"""Line camera: blocks of lines come at fixed intervals, whether the engine is ready or not.

A camera of `width` pixels at `rate` lines a second delivers a block of `BLOCK_LINES` lines every BLOCK_LINES / rate
seconds. Lines are cut into overlapping square tiles; a row of tiles can be inspected when the block with its last line
is there. The latency of a block runs from the *scheduled* arrival of its last line to the result of the last row of
tiles that it completes, so that waiting counts. The camera has `BUFFERS` buffers; a block that arrives when all of them
hold waiting lines or those under inspection is lost, with its lines; rows of tiles that need them are not inspected.

Arrival costs no processor time here, as with a frame grabber that writes into memory itself; cutting tiles does.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from prn_fast.bench import parity
from prn_fast.bench.answers import Clock, ask_without_copy, marked_copies, timed_ask
from prn_fast.bench.cameras import CAMERAS, Camera, Tiling
from prn_fast.bench.clock import MILLISECOND, SteadyClock, raw_clock
from prn_fast.bench.known import Known, SpotChecks
from prn_fast.bench.scenarios.rate_search import RateSearch
from prn_fast.bench.scenarios.subject import Subject
from prn_fast.bench.stats import percentiles
from prn_fast.bench.wording import hertz, number
from prn_fast.errors import ConfigError

BLOCK_LINES = 256
BUFFERS = 8
# Rows of tiles that differ: an engine that repeats its last answer is found out.
PATTERN_ROWS = 3
KNOWN_TILES = 8
FIRST_SHARE_OF_CAPACITY = 0.75
# Few, so that slow engines get a verdict; the run that confirms has as many as there are buffers.
MINIMUM_BLOCKS = BUFFERS // 2
RUNS_IN_TIME = 10
# Of the time. A short run at a rate that asks for all of it loses no line yet, but never makes up for a pause.
MOST_BUSY = 0.95


@dataclass(frozen=True)
class CameraRun:
    """One run at one line rate.

    Attributes:
        blocks: that arrived; `inspected`: those whose result is in `latency_ms` (a block may complete no row of tiles).
        lines_lost: of blocks that found no free buffer.
        queue_depth: most buffers in use at any arrival, the arriving block's included.
        busy: share of the time that the engine needs at this rate: mean seconds of a row of tiles, times rows a second.
            (Latencies cannot tell: some blocks complete two rows of tiles, and those after them wait.)
        held: nothing was lost, and `busy` is at most `MOST_BUSY`.
    """

    rate: float
    blocks: int
    inspected: int
    lines_lost: int
    queue_depth: int
    busy: float
    latency_ms: dict[str, float | None]
    held: bool


@dataclass
class LineCameraResult:
    """What the search found.

    Attributes:
        capacity: lines a second by the time of a row of tiles alone, an estimate that no run has shown.
        held: the run at the highest line rate that was held with no line lost; None if there is none, and `reason`
            says why.
        confirmed: `held` is a run of its own after the search.
    """

    scenario: ClassVar[str] = "line-camera"

    engine: str
    width: int
    side: int
    overlap: int
    capacity: float
    runs: list[CameraRun] = field(default_factory=list)
    held: CameraRun | None = None
    confirmed: bool = False
    reason: str | None = None

    @property
    def tiling(self) -> Tiling:
        """How its lines are cut."""
        return Tiling(self.width, self.side, self.overlap)


def verdict(result: LineCameraResult, reason: str | None = None) -> str:
    """One sentence, such as "holds 4096 px at 12 kHz, overlap 32, p99 41 ms, 0 lines lost".

    `reason`: why no rate was held, where the result does not say.
    """
    where = f"{result.width} px"
    if result.held is None:
        return (
            f"no line rate shown to be held at {where}, overlap {result.overlap}: {result.reason or reason} "
            f"(estimate from single rows of tiles: {hertz(result.capacity)})"
        )
    run = result.held
    latency = run.latency_ms
    name = "longest" if latency["p99"] is None else "p99"
    tail = f"{name} {number(latency['max' if latency['p99'] is None else 'p99'])} ms"
    return (
        f"holds {where} at {hertz(run.rate)}, overlap {result.overlap}, {tail} of {run.inspected} blocks, "
        f"{run.lines_lost} lines lost"
    )


def cameras_held(result: LineCameraResult) -> list[tuple[Camera, float]]:
    """Each camera of the table, and the share of its tiles a second that was held; 1 or more is a camera that fits.

    A camera of another width asks for other tiles, so tiles a second are compared, not lines.
    """
    held = result.tiling.tiles_per_second(result.held.rate) if result.held else 0.0
    shares = []
    for camera in CAMERAS:
        tiling = Tiling(camera.width, result.side, result.overlap)
        shares.append((camera, held / tiling.tiles_per_second(camera.rate)))
    return shares


def check_geometry(width: int, side: int, overlap: int) -> None:
    """A ConfigError if such lines cannot be cut into such tiles."""
    if width < side:
        raise ConfigError(f"--camera-width {width} is less than a tile of {side} pixels")
    if not 0 <= overlap < side:
        raise ConfigError(f"--overlap {overlap} must be 0 to {side - 1}, for tiles of {side} pixels")


class Surface:
    """Endless lines made of real images: a mosaic of `PATTERN_ROWS` rows of tiles that repeats.

    Attributes:
        rows: (PATTERN_ROWS, side, width, C), the lines of each row of tiles.
    """

    def __init__(self, images: NDArray[np.uint8], tiling: Tiling, rng: np.random.Generator) -> None:
        side, stride = tiling.side, tiling.stride
        period = PATTERN_ROWS * stride
        down, across = -(-period // side), -(-tiling.width // side)
        chosen = images[rng.integers(len(images), size=down * across)]
        chosen = chosen.reshape(down, across, side, side, -1).transpose(0, 2, 1, 3, 4)
        lines = chosen.reshape(down * side, across * side, -1)[:period, : tiling.width]
        starts = range(0, period, stride)
        self.tiling = tiling
        self.rows = np.stack([lines[np.arange(start, start + side) % period] for start in starts])

    def tiles(self, row: int) -> NDArray[np.uint8]:
        """Tiles (n, side, side, C) of the row of tiles with this number, cut out of its lines."""
        lines = self.rows[row % PATTERN_ROWS]
        return np.stack([lines[:, column : column + self.tiling.side] for column in self.tiling.columns])


class LineCameraScenario:
    """The search with one engine, a run at a time; the caller alternates it with those of others."""

    def __init__(self, subject: Subject, tiling: Tiling, seconds: float) -> None:
        self.subject = subject
        self._surface = Surface(subject.images, tiling, subject.rng)
        run_seconds = seconds / RUNS_IN_TIME
        self._capacity = tiling.stride / self._learn(len(tiling.columns), run_seconds)
        self._search = RateSearch(
            FIRST_SHARE_OF_CAPACITY * self._capacity,
            run_seconds,
            MINIMUM_BLOCKS * BLOCK_LINES,
            self._run,
            estimate=lambda run: MOST_BUSY * run.rate / run.busy if run.busy else math.inf,
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
            found.held,
            found.confirmed,
            found.reason,
        )

    def step(self, seconds_left: float) -> bool:
        """One run; False when the search is over."""
        return not self.subject.faults and self._search.step(seconds_left)

    def _learn(self, columns: int, most_seconds: float) -> float:
        """The engine's answers to some tiles of each row, and the time that a row takes.

        That the engine answers rightly was checked on the images that the lines are made of; here its answers are only
        to be recognised.
        """
        rng, tiles_of = self.subject.rng, self._surface.tiles
        chosen = rng.choice(PATTERN_ROWS * columns, size=min(KNOWN_TILES, PATTERN_ROWS * columns), replace=False)
        tiles = np.concatenate([tiles_of(row) for row in range(PATTERN_ROWS)])
        elapsed, answers = timed_ask(self.subject.engine, tiles[chosen])
        self.subject.faults += parity.form_faults(answers, len(chosen), tiles.shape[1])
        self.subject.faults += [] if self.subject.faults else parity.dependence_faults(answers)
        self._known = Known.of(tiles[chosen], answers)
        indices = np.full(PATTERN_ROWS * columns, -1)
        indices[chosen] = np.arange(len(chosen))
        self._indices = indices.reshape(PATTERN_ROWS, columns)
        estimate = elapsed / 1e9 / len(chosen) * columns
        if estimate > most_seconds:
            return estimate
        seconds = []
        for row in range(PATTERN_ROWS):
            start = time.perf_counter()
            ask_without_copy(self.subject.engine, marked_copies(tiles_of(row), rng))
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds))

    def _run(self, rate: float, seconds: float) -> CameraRun | None:
        blocks = round(seconds * rate / BLOCK_LINES)
        checks = SpotChecks(self._known, self.subject.engine, self.subject.rng)

        def inspect(row: int) -> None:
            self.subject.answer_copies(lambda: self._surface.tiles(row), self._indices[row % PATTERN_ROWS], checks)

        try:
            run = run_camera(inspect, self._surface.tiling, rate, blocks)
        except Exception as error:
            # Whatever a backend raises is its fault, and must not cost the figures of the others.
            self.subject.faults.append(f"raised {type(error).__name__} while lines came: {error}")
            return None
        if faults := checks.verdict():
            self.subject.faults += faults
            return None
        return run


def run_camera(
    inspect: Callable[[int], None],
    tiling: Tiling,
    rate: float,
    blocks: int,
    *,
    clock: Clock = time.perf_counter_ns,
    wait: Callable[[float], None] = time.sleep,
) -> CameraRun:
    """Let `blocks` blocks come at `rate` lines a second, and inspect what can be.

    Args:
        inspect: takes the number of a row of tiles, and returns when its results are there.
        clock, wait: nanoseconds, and sleeping for seconds.
    Raises:
        ClockError: the clock does not agree with the system's raw one.
    """
    steady = SteadyClock(clock, raw_clock) if clock is time.perf_counter_ns else None
    interval = 1e9 * BLOCK_LINES / rate
    begin = steady.bracket() if steady else (0, clock(), 0)
    start = begin[1]
    waiting: deque[int] = deque()
    lost: set[int] = set()
    latencies: list[float] = []
    rows = arrived = depth = working = 0

    def arrivals(now: int, busy: int) -> None:
        """Blocks that came until now, while `busy` buffers were under inspection."""
        nonlocal arrived, depth
        while arrived < blocks and start + (arrived + 1) * interval <= now:
            in_use = len(waiting) + busy
            if in_use >= BUFFERS:
                lost.add(arrived)
            else:
                waiting.append(arrived)
                depth = max(depth, in_use + 1)
            arrived += 1

    while arrived < blocks or waiting:
        arrivals(clock(), busy=0)
        if not waiting:
            wait(max(0.0, (start + (arrived + 1) * interval - clock()) / 1e9))
            continue
        block = waiting.popleft()
        done = [row for row in _rows_of(block, tiling) if not _blocks_of(row, tiling) & lost]
        before = clock()
        for row in done:
            inspect(row)
        now = clock()
        working += now - before
        rows += len(done)
        arrivals(now, busy=1)
        if done:
            latencies.append((now - (start + (block + 1) * interval)) / MILLISECOND)
    if steady:
        steady.verify(begin)
    share = working / 1e9 / max(rows, 1) * rate / tiling.stride
    return CameraRun(
        rate=rate,
        blocks=blocks,
        inspected=len(latencies),
        lines_lost=BLOCK_LINES * len(lost),
        queue_depth=depth,
        busy=share,
        latency_ms={**percentiles(latencies), "max": max(latencies)}
        if latencies
        else dict.fromkeys(("p50", "p90", "p99", "p999", "max")),
        held=not lost and bool(rows) and share <= MOST_BUSY,
    )


def _rows_of(block: int, tiling: Tiling) -> range:
    """The rows of tiles whose last line is in this block."""
    return range(tiling.rows_after(block * BLOCK_LINES), tiling.rows_after((block + 1) * BLOCK_LINES))


def _blocks_of(row: int, tiling: Tiling) -> set[int]:
    """The blocks that hold lines of this row of tiles."""
    first = row * tiling.stride
    return set(range(first // BLOCK_LINES, (first + tiling.side - 1) // BLOCK_LINES + 1))
