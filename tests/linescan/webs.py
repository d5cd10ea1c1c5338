"""A web whose defects a simple engine can find, and the comparison of what was found with what was planted."""

import time
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from prn_fast.engine.base import Engine
from prn_fast.linescan.defects import Defect
from prn_fast.linescan.inspection import Inspection
from prn_fast.linescan.inspector import InspectionSettings, Inspector
from prn_fast.linescan.sinks import Sink
from prn_fast.linescan.snapshot import Snapshot
from prn_fast.linescan.sources.base import Block, Event, Gap, Source
from prn_fast.linescan.sources.synthetic import Planted, weave

SIDE = 64
LEVEL = 150
THRESHOLD = 0.55


class DarknessEngine(Engine):
    """Finds what is darker than the surface: map = clip((150 - 3x3 mean) / 120, 0, 1), score = its maximum.

    Attributes:
        calls: number of runs so far.
        broken_from: the run from which on the maps hold NaN; None never.
    """

    def __init__(self, side: int = SIDE, channels: int = 1, broken_from: int | None = None) -> None:
        super().__init__("darkness", side, channels, batch=256)
        self.broken_from = broken_from
        self.calls = 0

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        self.calls += 1
        grey = images.mean(axis=3, dtype=np.float32) if images.shape[3] == 3 else images[:, :, :, 0]
        mean = np.stack([cv2.blur(one, (3, 3)) for one in grey]).astype(np.float32)
        maps = np.clip((LEVEL - mean) / 120, 0, 1)
        if self.broken_from is not None and self.calls >= self.broken_from:
            maps[-1, 3, 3] = np.nan
        return maps.max(axis=(1, 2)), maps


def make_inspector(source: Source, engine: Engine | None = None, **settings: object) -> Inspector:
    """An inspector for a source, with the engine above."""
    values = {"overlap": 16, "threshold": THRESHOLD, "min_area": 6} | settings
    return Inspector(engine or DarknessEngine(), source.width, source.pixel_format, InspectionSettings(**values))


def planted_strip(width: int, lines: int, seed: int = 0, defects: int = 10) -> tuple[NDArray[np.uint8], list[Planted]]:
    """(lines, width) pixels of brushed metal with dark spots at random places, and three bars across tile borders."""
    strip, _ = weave(width, lines, material="brushed_metal", defects=0, seed=seed)
    pixels = np.ascontiguousarray(strip[:, :, 0])
    rng = np.random.default_rng(seed)
    planted = [
        Planted("bar", lines // 2 - 100, width // 2, 200, 5),
        Planted("bar", 300, 30, 4, width // 3),
        Planted("bar", lines - 10, width - 60, 10, 40),
    ]
    while len(planted) < defects + 3:
        radius = int(rng.integers(3, 10))
        side = 2 * radius + 1
        top, left = int(rng.integers(0, lines - side)), int(rng.integers(0, width - side))
        spot = Planted("spot", top, left, side, side)
        if not any(near(spot, one) for one in planted):
            planted.append(spot)
    for one in planted:
        box = pixels[one.first_line : one.first_line + one.lines, one.left : one.left + one.width]
        if one.kind == "bar":
            box[:] = 20
        else:
            cv2.circle(box, (one.width // 2, one.lines // 2), one.width // 2, 20, -1)
    return pixels, sorted(planted, key=lambda one: (one.first_line, one.left))


def near(one: Planted, other: Planted, margin: int = 30) -> bool:
    """Whether two boxes overlap, or lie closer than a margin."""
    return (
        one.first_line - margin < other.first_line + other.lines
        and other.first_line - margin < one.first_line + one.lines
        and one.left - margin < other.left + other.width
        and other.left - margin < one.left + one.width
    )


def on_the_web(planted: list[Planted], strip_lines: int, lines: range) -> list[Planted]:
    """The defects of all rounds of a strip that lie wholly within some lines."""
    rounds = range(lines.start // strip_lines, lines.stop // strip_lines + 1)
    everywhere = [
        Planted(one.kind, one.first_line + number * strip_lines, one.left, one.lines, one.width)
        for number in rounds
        for one in planted
    ]
    return [one for one in everywhere if lines.start <= one.first_line and one.first_line + one.lines <= lines.stop]


def check_found(found: list[Defect], planted: list[Planted], ignored: list[Planted] | None = None) -> None:
    """Each planted defect was found exactly once, and nothing else; those to be ignored may be found or not."""
    for one in planted:
        hits = [defect for defect in found if near(_box(defect), one, 2)]
        assert len(hits) == 1, f"{one} was found {len(hits)} times: {hits}"
        assert abs(hits[0].lines - one.lines) <= 6, (one, hits)
        assert abs(hits[0].width - one.width) <= 6, (one, hits)
    known = [*planted, *(ignored or [])]
    for defect in found:
        assert any(near(_box(defect), one, 2) for one in known), f"nothing was planted at {defect}"


def _box(defect: Defect) -> Planted:
    return Planted("", defect.first_line, defect.left, defect.lines, defect.width)


class ListSource(Source):
    """Plays events that a test made up."""

    live = False

    def __init__(self, width: int, events: list[Event], live: bool = False) -> None:
        super().__init__("list", width, "Mono8", 256)
        self._events = events
        self.live = live

    def events(self):
        """See `Source.events`."""
        yield from self._events


def blocks(web: NDArray[np.uint8], sizes: list[int], first_line: int = 0) -> list[Event]:
    """A web cut into blocks of the given sizes, over and over."""
    cut: list[Event] = []
    line = 0
    while line < len(web):
        rows = web[line : line + sizes[len(cut) % len(sizes)]]
        cut.append(Block(rows, first_line + line, 0))
        line += len(rows)
    return cut


def web_with_three_defects() -> NDArray[np.uint8]:
    """(300, 200) pixels with dark boxes from the lines 50, 120 and 200 on, at pixel 60."""
    web = np.full((300, 200), LEVEL, np.uint8)
    for top in (50, 120, 200):
        web[top : top + 8, 60:75] = 10
    return web


def three_defects() -> ListSource:
    """That web in blocks of 100 lines, and 50 lines that are missing."""
    return ListSource(200, [*blocks(web_with_three_defects(), [100]), Gap(300, 50, "incomplete")])


def inspect_three_defects(
    sinks: Sequence[Sink], engine: Engine | None = None, source: Source | None = None, **settings: object
) -> Snapshot:
    """The end of an inspection of `three_defects`, or of a source like it."""
    source = source or three_defects()
    return Inspection(source, make_inspector(source, engine, **settings), sinks).run()


class SlowEngine(DarknessEngine):
    """Takes a number of seconds for each run."""

    def __init__(self, seconds: float, side: int = SIDE) -> None:
        super().__init__(side)
        self.seconds = seconds

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        time.sleep(self.seconds)
        return super().run(images)


def assert_balanced(snapshot: Snapshot) -> None:
    """Every line is inspected, missing or dropped."""
    assert snapshot.waiting == 0
    assert snapshot.lines == snapshot.inspected + sum(snapshot.missing.values()) + sum(snapshot.dropped.values())
