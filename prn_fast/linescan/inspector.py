"""Strips in, defects out: cut, infer, stitch, label."""

from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.drift import DriftMonitor, Reference
from prn_fast.engine.base import Detections, Engine, StripDetections
from prn_fast.engine.parity import score_kind
from prn_fast.errors import ConfigError, EngineError, EngineUnavailableError
from prn_fast.linescan.core import Tiler
from prn_fast.linescan.defects import (
    CROP_MARGIN,
    HYSTERESIS,
    MAX_LINES,
    MIN_AREA,
    Defect,
    DefectTracker,
    PixelSize,
    SeverityLimits,
)
from prn_fast.linescan.pixels import engine_pixels, mirror_into_holes
from prn_fast.linescan.stitching import Stitched, StripStitcher
from prn_fast.model.config import TILE_OVERLAP

if TYPE_CHECKING:
    from prn_fast.linescan.core import Strip
    from prn_fast.package import Package


@dataclass(frozen=True)
class InspectionSettings:
    """How a web is inspected.

    Attributes:
        overlap: pixels that neighbouring tiles share, along the line and along the web.
        threshold: of the anomaly map; None takes the package's.
        hysteresis: share of the threshold down to which a defect continues; see `DefectTracker`.
        min_area: smaller regions are no defects, pixels.
        max_defect_lines: longer defects are reported in parts; see `DefectTracker`.
        limits: classes of severity.
        scale: size of a pixel in millimetres, if known.
        crops: attach to each defect the picture around it, and the map of the same place.
        drift_window: tiles that are compared with the calibration, see `DriftMonitor`; 0 compares none.
    Raises:
        ConfigError: a value out of range, or one that is not a number.
    """

    overlap: int = TILE_OVERLAP
    threshold: float | None = None
    hysteresis: float = HYSTERESIS
    min_area: int = MIN_AREA
    max_defect_lines: int = MAX_LINES
    limits: SeverityLimits = field(default_factory=SeverityLimits)
    scale: PixelSize | None = None
    crops: bool = False
    drift_window: int = 0

    def __post_init__(self) -> None:
        if self.overlap < 0:
            raise ConfigError(f"overlap is {self.overlap} pixels; it must be at least 0")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise ConfigError(f"the threshold of the anomaly map is {self.threshold}; it lies above 0 and below 1")
        if not 0 < self.hysteresis <= 1:
            raise ConfigError(f"hysteresis is {self.hysteresis}; it is a share of the threshold, above 0 and at most 1")
        if not (self.min_area >= 1 and self.max_defect_lines >= 1):
            raise ConfigError(
                f"min_area {self.min_area} and max_defect_lines {self.max_defect_lines} must be at least 1"
            )


@dataclass(frozen=True)
class Inspected:
    """The result of one strip.

    Attributes:
        stitched: the lines whose map became final, in order, numbered as the camera numbers them.
        defects: those that ended with them.
        tiles: that the strip was cut into.
        exited: of the tiles, those that left early, see `Detections`.
    """

    stitched: list[Stitched]
    defects: list[Defect]
    tiles: int = 0
    exited: int = 0


class Inspector:
    """Inspects a web strip by strip.

    Args:
        engine: its image size is the side of the tiles.
        width: pixels in a line, at least the engine's image size.
        pixel_format: GenICam name of what the camera sends.
        settings: with a threshold.
        drift: watches the tiles of whole strips; strips with missing lines do not show the line's state.
    Attributes:
        origin: added to the strips' line numbers, for cameras that do not begin to count at 0.
        drift: see above; None if drift is not watched.
    Raises:
        ConfigError: settings that cannot work.
    """

    def __init__(
        self,
        engine: Engine,
        width: int,
        pixel_format: str,
        settings: InspectionSettings,
        drift: DriftMonitor | None = None,
    ) -> None:
        if settings.threshold is None:
            raise ConfigError("an inspector needs a threshold; `open_inspector` takes the package's")
        side = engine.image_size
        if width < side:
            raise ConfigError(f"lines of {width} pixels are narrower than a tile of {side}; take a wider camera or web")
        if settings.overlap > side // 2:
            raise ConfigError(f"--overlap is {settings.overlap}; tiles of {side} pixels overlap by {side // 2} at most")
        self.engine = engine
        self.width = width
        self.pixel_format = pixel_format
        self.settings = settings
        self.drift = drift
        self.origin = 0
        self._stitcher = StripStitcher(width, side, settings.overlap)
        self._tiler = Tiler(width, tile=side, overlap=settings.overlap)
        self._tiles = np.empty((len(self._stitcher.lefts), side, side, engine.image_channels), np.uint8)
        self._tracker = DefectTracker(
            settings.threshold,
            settings.min_area,
            settings.max_defect_lines,
            settings.limits,
            settings.scale,
            settings.hysteresis,
        )
        self._recent: deque[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]] = deque()

    def warm_up(self) -> None:
        """Run all of the engine once on black tiles, so that what it prepares at a first run delays no strip.

        Raises:
            EngineError: as `examine`.
        """
        self._tiles[:] = 0
        if self.engine.takes_strips:
            black = np.zeros((self.engine.image_size, self.width, self.engine.image_channels), np.uint8)
            self.engine.infer_strip(black, self.settings.overlap)
            return
        self.engine.warm_up(self._tiles)

    def inspect(self, strip: "Strip") -> list[Defect]:
        """As `examine`, but returns the defects only."""
        return self.examine(strip).defects

    def examine(self, strip: "Strip") -> Inspected:
        """Inspect a strip and settle it.

        Strips come in the order of their lines; where one was left out, defects end at the hole.

        Raises:
            EngineError: the engine failed, or its output is not a number. The strip counts as dropped then, and the
                web must not go on as if it were good.
            EngineUnavailableError: the engine is away for now. The strip is not settled: examine it again, or drop it.
        """
        try:
            pixels = engine_pixels(strip.pixels, self.pixel_format, strip.first_line, self.engine.image_channels)
            found = self._detect(mirror_into_holes(pixels, strip.missing))
            if self.drift is not None and not strip.missing.any():
                self._observe_drift(self.drift, found, pixels)
            stitched = self._stitcher.add(found.map, pixels, strip.missing, strip.first_line, strip.owned)
            result = replace(self._label(stitched), tiles=len(found.raw_scores), exited=found.exited)
        except EngineUnavailableError:
            raise
        except BaseException:
            strip.drop("engine_error")
            raise
        strip.inspected()
        return result

    def finish(self) -> list[Defect]:
        """As `examine_end`, but returns the defects only."""
        return self.examine_end().defects

    def examine_end(self) -> Inspected:
        """End of the web: its last lines, and the defects that reach it."""
        last = self._label(self._stitcher.flush())
        return Inspected(last.stitched, last.defects + [self._with_crop(one) for one in self._tracker.finish()])

    def _detect(self, pixels: NDArray[np.uint8]) -> StripDetections:
        """The engine's output for a strip; checked here too, whatever the engine's class checks."""
        if self.engine.takes_strips:
            found = self.engine.infer_strip(pixels, self.settings.overlap)
            shapes = found.map.shape, found.raw_scores.shape
            if shapes != (pixels.shape[:2], (len(self._tiles),)) or not np.isfinite(found.map).all():
                raise EngineError(
                    f"{self.engine.name}: the map of a strip is missing or holds NaN; do not use this engine"
                )
            return found
        self._tiler.cut(pixels, out=self._tiles)
        tiles = self._detect_in_tiles()
        if tiles.maps.shape != self._tiles.shape[:3] or not np.isfinite(tiles.maps).all():
            raise EngineError(f"{self.engine.name}: a map is missing or holds NaN; do not use this engine")
        return StripDetections(tiles.raw_scores, self._stitcher.along_the_line(tiles.maps), int(tiles.exited.sum()))

    def _detect_in_tiles(self) -> Detections:
        (found,) = self.engine.infer_many([self._tiles])
        return found

    def _observe_drift(self, drift: DriftMonitor, found: StripDetections, pixels: NDArray[np.uint8]) -> None:
        if self.engine.takes_strips:  # and has cut them on its device
            self._tiler.cut(pixels, out=self._tiles)
        drift.observe(found.raw_scores, self._tiles)

    def _label(self, stitched: list[Stitched]) -> Inspected:
        """The defects that end in lines whose map is final."""
        stitched = [replace(one, first_line=one.first_line + self.origin) for one in stitched]
        defects = []
        for one in stitched:
            if self.settings.crops:
                self._remember(one)
            defects += [self._with_crop(found) for found in self._tracker.add(one.heat, one.first_line)]
        return Inspected(stitched, defects)

    def _remember(self, lines: Stitched) -> None:
        levels = np.rint(np.clip(lines.heat, 0, 1) * 255).astype(np.uint8)
        self._recent.append((lines.first_line, lines.pixels, levels))
        end = lines.first_line + len(lines.pixels)
        kept = self.settings.max_defect_lines + 2 * self.engine.image_size + CROP_MARGIN
        while self._recent and self._recent[0][0] + len(self._recent[0][1]) < end - kept:
            self._recent.popleft()

    def _with_crop(self, defect: Defect) -> Defect:
        if not self.settings.crops:
            return defect
        left = max(0, defect.left - CROP_MARGIN)
        right = defect.left + defect.width + CROP_MARGIN
        top, bottom = defect.first_line - CROP_MARGIN, defect.first_line + defect.lines + CROP_MARGIN
        parts = [
            (pixels[rows, left:right], levels[rows, left:right])
            for first, pixels, levels in self._recent
            if first < bottom and first + len(pixels) > top
            for rows in (slice(max(0, top - first), max(0, bottom - first)),)
        ]
        if not parts:
            return defect
        pixels, levels = (np.concatenate(one) for one in zip(*parts, strict=True))
        return replace(defect, crop=pixels, crop_map=levels)


def open_inspector(
    package: "Package | Path | str",
    width: int,
    pixel_format: str = "Mono8",
    *,
    engine: str | None = None,
    settings: InspectionSettings | None = None,
    **engine_options: Any,
) -> Inspector:
    """An inspector that runs a package.

    Args:
        package: a package or its path; or the address of a server that runs one, see `open_engine`.
        width, pixel_format: of the camera.
        engine: name of an engine in the package, or the address of a server that runs this package; None takes the best
            engine of the package. A server that is away is not waited for in here: `inspect_strips` does that.
        settings: without a threshold, the package's for pixels is taken. With a lower one all tiles run whole: early
            exit keeps only what is defective at the package's.
        engine_options: for `open_engine`.
    Raises:
        PackageError, EngineError, ConfigError: as `open_engine` and `Inspector`.
    """
    from prn_fast.engine import open_engine
    from prn_fast.engine.kserve import is_address
    from prn_fast.engine.remote import RemoteEngine
    from prn_fast.package import Package

    settings = settings or InspectionSettings()
    reference = None
    if not is_address(package):
        package = package if isinstance(package, Package) else Package.open(package)
        reference = Reference.of_calibration(package.manifest["calibration"])
        if settings.threshold is not None and settings.threshold < package.calibration("pixel_threshold"):
            engine_options["early_exit"] = False
    opened = open_engine(package, engine, **engine_options)
    try:
        threshold = opened.pixel_threshold if settings.threshold is None else settings.threshold
        settings = replace(settings, threshold=threshold)
        if isinstance(opened, RemoteEngine):
            opened.patience = 0.0
            if opened.leaves_early and threshold < opened.pixel_threshold:
                raise ConfigError(
                    f"{opened.name}: lets tiles leave early that are good at its pixel threshold, "
                    f"{opened.pixel_threshold:.3g}; give that or a higher threshold, or run the package here"
                )
        drift = None
        if settings.drift_window:
            drift = DriftMonitor(reference, score_kind(opened), settings.drift_window)
        return Inspector(opened, width, pixel_format, settings, drift)
    except BaseException:
        opened.close()
        raise
