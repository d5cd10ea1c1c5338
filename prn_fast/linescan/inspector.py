"""Strips in, defects out: cut, infer, stitch, label."""

from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine.base import Engine
from prn_fast.errors import ConfigError, EngineError
from prn_fast.linescan.core import Tiler
from prn_fast.linescan.defects import REACH, Defect, DefectTracker, Scale, SeverityLimits
from prn_fast.linescan.pixels import engine_pixels, mirror_into_holes
from prn_fast.linescan.stitching import Stitched, StripStitcher
from prn_fast.model.config import TILE_OVERLAP

if TYPE_CHECKING:
    from prn_fast.linescan.core import Strip
    from prn_fast.package import Package

_CROP_MARGIN = 16


@dataclass(frozen=True)
class Settings:
    """How a web is inspected.

    Attributes:
        overlap: pixels that neighbouring tiles share, along the line and along the web.
        threshold: of the anomaly map; None takes the package's.
        reach: share of the threshold down to which a defect goes on; see `DefectTracker`.
        min_area: smaller regions are no defects, pixels.
        max_defect_lines: longer defects are reported in parts; see `DefectTracker`.
        limits: classes of severity.
        scale: size of a pixel in millimetres, if known.
        crops: attach to each defect the picture around it.
    """

    overlap: int = TILE_OVERLAP
    threshold: float | None = None
    reach: float = REACH
    min_area: int = 16
    max_defect_lines: int = 2048
    limits: SeverityLimits = field(default_factory=SeverityLimits)
    scale: Scale | None = None
    crops: bool = False


@dataclass(frozen=True)
class Inspected:
    """What came out of one strip.

    Attributes:
        stitched: the lines whose map became final, in order, numbered as the camera numbers them.
        defects: those that ended with them.
    """

    stitched: list[Stitched]
    defects: list[Defect]


class Inspector:
    """Inspects a web strip by strip.

    Args:
        engine: its image size is the side of the tiles.
        width: pixels in a line, at least the engine's image size.
        pixel_format: GenICam name of what the camera sends.
        settings: with a threshold.
    Attributes:
        origin: added to the strips' line numbers, for cameras that do not begin to count at 0.
    Raises:
        ConfigError: settings that cannot work.
    """

    def __init__(self, engine: Engine, width: int, pixel_format: str, settings: Settings) -> None:
        if settings.threshold is None:
            raise ConfigError("an inspector needs a threshold; `open_inspector` takes the package's")
        self.engine = engine
        self.width = width
        self.pixel_format = pixel_format
        self.settings = settings
        self.origin = 0
        side = engine.image_size
        self._stitcher = StripStitcher(width, side, settings.overlap)
        self._tiler = Tiler(width, tile=side, overlap=settings.overlap)
        self._tiles = np.empty((len(self._stitcher.lefts), side, side, engine.image_channels), np.uint8)
        self._tracker = DefectTracker(
            settings.threshold,
            settings.min_area,
            settings.max_defect_lines,
            settings.limits,
            settings.scale,
            settings.reach,
        )
        self._recent: deque[tuple[int, NDArray[np.uint8]]] = deque()

    def warm_up(self) -> None:
        """Run the engine once on black tiles: what it prepares at its first run must not make a strip late.

        Raises:
            EngineError: as `examine`.
        """
        self._tiles[:] = 0
        self._maps()

    def inspect(self, strip: "Strip") -> list[Defect]:
        """As `examine`, of which it returns the defects only."""
        return self.examine(strip).defects

    def examine(self, strip: "Strip") -> Inspected:
        """Inspect a strip and settle it.

        Strips come in the order of their lines; where one was left out, defects end at the hole.

        Raises:
            EngineError: the engine failed, or its output is not a number. The strip counts as dropped then, and the
                web must not go on as if it were good.
        """
        try:
            pixels = engine_pixels(strip.pixels, self.pixel_format, strip.first_line, self.engine.image_channels)
            self._tiler.cut(mirror_into_holes(pixels, strip.missing), out=self._tiles)
            maps = self._maps()
        except BaseException:
            strip.drop("engine_error")
            raise
        stitched = self._stitcher.add(maps, pixels, strip.missing, strip.first_line, strip.owned)
        strip.inspected()
        return self._label(stitched)

    def finish(self) -> list[Defect]:
        """As `examine_end`, of which it returns the defects only."""
        return self.examine_end().defects

    def examine_end(self) -> Inspected:
        """End of the web: its last lines, and the defects that reach it."""
        last = self._label(self._stitcher.flush())
        return Inspected(last.stitched, last.defects + [self._with_crop(one) for one in self._tracker.finish()])

    def _maps(self) -> NDArray[np.float32]:
        """Anomaly maps of the tiles; checked here too, whatever an engine's class makes of its output."""
        maps = self.engine.infer(self._tiles).maps
        if maps.shape != self._tiles.shape[:3] or not np.isfinite(maps).all():
            raise EngineError(f"{self.engine.name}: a map is missing or holds NaN; do not use this engine")
        return maps

    def _label(self, stitched: list[Stitched]) -> Inspected:
        """The defects that end in lines whose map is final."""
        stitched = [replace(one, first_line=one.first_line + self.origin) for one in stitched]
        defects = []
        for one in stitched:
            if self.settings.crops:
                self._remember(one.first_line, one.pixels)
            defects += [self._with_crop(found) for found in self._tracker.add(one.heat, one.first_line)]
        return Inspected(stitched, defects)

    def _remember(self, first_line: int, pixels: NDArray[np.uint8]) -> None:
        self._recent.append((first_line, pixels))
        end = first_line + len(pixels)
        kept = self.settings.max_defect_lines + 2 * self.engine.image_size + _CROP_MARGIN
        while self._recent and self._recent[0][0] + len(self._recent[0][1]) < end - kept:
            self._recent.popleft()

    def _with_crop(self, defect: Defect) -> Defect:
        if not self.settings.crops:
            return defect
        left = max(0, defect.left - _CROP_MARGIN)
        right = defect.left + defect.width + _CROP_MARGIN
        top, bottom = defect.first_line - _CROP_MARGIN, defect.first_line + defect.lines + _CROP_MARGIN
        parts = [
            pixels[max(0, top - first) : max(0, bottom - first), left:right]
            for first, pixels in self._recent
            if first < bottom and first + len(pixels) > top
        ]
        return replace(defect, crop=np.concatenate(parts)) if parts else defect


def open_inspector(
    package: "Package | Path | str",
    width: int,
    pixel_format: str = "Mono8",
    *,
    engine: str | None = None,
    settings: Settings | None = None,
    **engine_options: Any,
) -> Inspector:
    """An inspector that runs a package.

    Args:
        package: a package or its path.
        width, pixel_format: of the camera.
        engine: name of an engine in the package; None takes the best.
        settings: without a threshold, the package's for pixels is taken.
        engine_options: for `open_engine`.
    Raises:
        PackageError, EngineError, ConfigError: as `open_engine` and `Inspector`.
    """
    from prn_fast.engine import open_engine
    from prn_fast.package import Package

    if not isinstance(package, Package):
        package = Package.open(package)
    settings = settings or Settings()
    if settings.threshold is None:
        settings = replace(settings, threshold=package.calibration("pixel_threshold"))
    return Inspector(open_engine(package, engine, **engine_options), width, pixel_format, settings)
