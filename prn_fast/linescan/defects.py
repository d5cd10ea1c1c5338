"""Defects of an endless map: connected regions above a threshold, each reported once."""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from prn_fast.errors import ConfigError

# A faint stretch does not split a scratch in two: hysteresis, as in Canny's edges (1986).
HYSTERESIS = 0.8
# Pixels around the box of a defect that its picture shows, as far as the web goes.
CROP_MARGIN = 16
# Regions of fewer pixels are no defects.
MIN_AREA = 16
# Longer defects are reported in parts: a scratch along the whole web must not wait for its end.
MAX_LINES = 2048


class Severity(StrEnum):
    """How large a defect is, by the limits of `SeverityLimits`."""

    MINOR = "minor"
    MAJOR = "major"
    CRITICAL = "critical"


@dataclass(frozen=True)
class SeverityLimits:
    """Areas from which a defect is major and critical: square millimetres with a `PixelSize`, else pixels."""

    major: float = 200.0
    critical: float = 2000.0

    def __post_init__(self) -> None:
        if not 0 <= self.major <= self.critical < math.inf:
            raise ConfigError(
                f"severity limits are {self.major} and {self.critical}; give numbers with 0 <= major <= critical"
            )

    def classify(self, area: float) -> Severity:
        """The class of an area."""
        if area >= self.critical:
            return Severity.CRITICAL
        return Severity.MAJOR if area >= self.major else Severity.MINOR


@dataclass(frozen=True)
class PixelSize:
    """Size of a pixel on the web, millimetres: along a line from the optics, along the web from the encoder."""

    pixel: float
    line: float

    def __post_init__(self) -> None:
        if not (0 < self.pixel < math.inf and 0 < self.line < math.inf):
            raise ConfigError(f"a pixel of {self.pixel} x {self.line} mm is impossible; give sizes above 0")


@dataclass(frozen=True)
class Millimetres:
    """Place and size of a defect on the web."""

    along: float
    across: float
    length: float
    width: float
    area: float


@dataclass(frozen=True)
class Defect:
    """A connected region (8 neighbours) of the anomaly map that reaches the threshold; see `DefectTracker`.

    Attributes:
        number: counts up from 1 in the order of reporting.
        first_line, left: upper left corner of its box: line number, pixel.
        lines, width: size of its box.
        area: pixels.
        peak: largest value of the map in it, 0..1.
        severity: see `SeverityLimits`.
        continues: it was longer than the limit and was cut here; what follows is reported as another defect.
        millimetres: the same place and size on the web, where the scale is known.
        crop: uint8 (h, w, C), the picture around it, as far as it is still there; None if pictures are not kept.
        crop_map: uint8 (h, w), the anomaly map of the same place, 0 to 255 for 0 to 1; None if pictures are not kept.
    """

    number: int
    first_line: int
    left: int
    lines: int
    width: int
    area: int
    peak: float
    severity: Severity
    continues: bool = False
    millimetres: Millimetres | None = None
    crop: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)
    crop_map: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)

    @property
    def picture_bytes(self) -> int:
        """Memory that the picture and its map take."""
        return sum(one.nbytes for one in (self.crop, self.crop_map) if one is not None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the picture."""
        values: dict[str, Any] = {
            "number": self.number,
            "first_line": self.first_line,
            "left": self.left,
            "lines": self.lines,
            "width": self.width,
            "area": self.area,
            "peak": round(self.peak, 4),
            "severity": str(self.severity),
            "continues": self.continues,
        }
        if self.millimetres is not None:
            values["mm"] = {name: round(value, 3) for name, value in vars(self.millimetres).items()}
        return values


@dataclass
class _Region:
    """A region that may continue below."""

    top: int
    bottom: int  # one past the last line
    left: int
    right: int  # one past the last pixel
    area: int
    peak: float

    def take(self, other: "_Region") -> None:
        self.top, self.bottom = min(self.top, other.top), max(self.bottom, other.bottom)
        self.left, self.right = min(self.left, other.left), max(self.right, other.right)
        self.area += other.area
        self.peak = max(self.peak, other.peak)


class DefectTracker:
    """Finds the defects of a map that arrives in parts, and reports each when it has ended.

    A defect is a connected region (8 neighbours) at or above `hysteresis` x threshold whose largest value is at or
    above the threshold.

    Each part is labelled by itself; a region that touches one of the part before is merged with it. So a defect does
    not depend on how the web was cut into parts.

    Args:
        threshold: of the map, above 0.
        hysteresis: share of the threshold down to which a region continues, above 0 and at most 1.
        min_area: smaller regions are no defects, pixels.
        max_lines: a region of this length is reported as it is and begins anew: a scratch along the whole
            web must not wait for its end.
        limits: classes of severity.
        scale: millimetres, if known.
    """

    def __init__(
        self,
        threshold: float,
        min_area: int = MIN_AREA,
        max_lines: int = MAX_LINES,
        limits: SeverityLimits | None = None,
        scale: PixelSize | None = None,
        hysteresis: float = HYSTERESIS,
    ) -> None:
        if not 0 < threshold < 1:
            raise ConfigError(f"the threshold of the anomaly map is {threshold}; it lies above 0 and below 1")
        if not 0 < hysteresis <= 1:
            raise ConfigError(f"hysteresis is {hysteresis}; it is a share of the threshold, above 0 and at most 1")
        if min_area < 1 or max_lines < 1:
            raise ConfigError(f"min_area {min_area} and max_lines {max_lines} must be at least 1")
        self.threshold = threshold
        self._lower = hysteresis * threshold
        self.max_lines = max_lines
        self._min_area = min_area
        self._limits = limits or SeverityLimits()
        self._scale = scale
        self._reported = 0
        self._last_id = 0
        self._next_line: int | None = None
        # Regions that touch the last line, and the region's number for each of its pixels (0: none).
        self._open: dict[int, _Region] = {}
        self._seam = np.zeros(0, np.int64)

    def add(self, heat: NDArray[np.float32], first_line: int) -> list[Defect]:
        """Add a part of the map (n, width) that begins at a line; one that does not follow the last ends all regions.

        Returns:
            The defects that ended, in the order of their first lines.
        """
        ended = self._end_open() if first_line != self._next_line else []
        self._next_line = first_line + len(heat)
        mask = heat >= self._lower
        if not mask.any():
            return self._report(ended + self._end_open())

        count, labelled, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
        labels = np.asarray(labelled, np.int32)
        peaks = np.zeros(count, np.float32)
        np.maximum.at(peaks, labels[mask], heat[mask])
        base = self._last_id
        self._last_id += count - 1
        touching = _touching(self._seam, labels[0], base) if self._open else []
        large = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] >= self._min_area).tolist()
        edges = np.unique(labels[[0, -1]]).tolist()
        for label in {*large, *edges} - {0}:
            left, top, width, height, area = (int(value) for value in stats[label])
            top += first_line
            self._open[base + label] = _Region(top, top + height, left, left + width, area, float(peaks[label]))

        root = _joined(touching)
        for number in list(self._open):
            if root.get(number, number) != number:
                self._open[root[number]].take(self._open.pop(number))
        self._seam = np.where(labels[-1] > 0, base + labels[-1], 0)
        for number in np.unique(self._seam).tolist():
            self._seam[self._seam == number] = root.get(number, number)
        going_on = set(np.unique(self._seam).tolist())
        ended += [self._open.pop(number) for number in list(self._open) if number not in going_on]
        long = [number for number, one in self._open.items() if one.bottom - one.top >= self.max_lines]
        self._seam[np.isin(self._seam, long)] = 0
        return self._report(ended, [self._open.pop(number) for number in long])

    def finish(self) -> list[Defect]:
        """End of the web: the defects that were still open."""
        self._next_line = None
        return self._report(self._end_open())

    def _end_open(self) -> list[_Region]:
        ended = list(self._open.values())
        self._open.clear()
        return ended

    def _report(self, ended: list[_Region], cut: list[_Region] | None = None) -> list[Defect]:
        found = [(one, False) for one in ended] + [(one, True) for one in cut or []]
        found.sort(key=lambda one: (one[0].top, one[0].left))
        # The map is float32, so it is compared with a float32.
        least = np.float32(self.threshold)
        return [
            self._defect(one, continues)
            for one, continues in found
            if one.area >= self._min_area and np.float32(one.peak) >= least
        ]

    def _defect(self, region: _Region, continues: bool) -> Defect:
        self._reported += 1
        lines, width = region.bottom - region.top, region.right - region.left
        millimetres = None
        if self._scale is not None:
            pixel, line = self._scale.pixel, self._scale.line
            millimetres = Millimetres(
                region.top * line, region.left * pixel, lines * line, width * pixel, region.area * pixel * line
            )
        return Defect(
            number=self._reported,
            first_line=region.top,
            left=region.left,
            lines=lines,
            width=width,
            area=region.area,
            peak=region.peak,
            severity=self._limits.classify(millimetres.area if millimetres else region.area),
            continues=continues,
            millimetres=millimetres,
        )


def _touching(seam: NDArray[np.int64], first: NDArray[np.int32], base: int) -> list[tuple[int, int]]:
    """Pairs of a region above the seam and one below it that touch, diagonally too."""
    padded = np.pad(seam, 1)
    pairs = set()
    for shift in range(3):
        above = padded[shift : shift + len(seam)]
        both = (above > 0) & (first > 0)
        pairs |= set(zip(above[both].tolist(), (base + first[both]).tolist(), strict=True))
    return sorted(pairs)


def _joined(pairs: list[tuple[int, int]]) -> dict[int, int]:
    """For every number in the pairs, the smallest number that it is connected with (union-find)."""
    parent: dict[int, int] = {}

    def find(number: int) -> int:
        while (above := parent.setdefault(number, number)) != number:
            number = above
        return number

    for one, other in pairs:
        low, high = sorted((find(one), find(other)))
        parent[high] = low
    return {number: find(number) for number in parent}
