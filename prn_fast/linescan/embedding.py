"""The Python side of `prn::Inspector` and `prn::Engine`: what runs inside a C or C++ host."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from prn_fast.drift import DriftState
from prn_fast.engine import open_engine
from prn_fast.errors import ConfigError, EngineUnavailableError, printable
from prn_fast.linescan.core import LineRing, pixel_format_name
from prn_fast.linescan.defects import Defect, PixelSize
from prn_fast.linescan.inspector import Inspected, InspectionSettings, open_inspector
from prn_fast.linescan.loop import drop_rest, inspect_strips


class _Closing(Exception):
    """The host destroys its inspector."""


class Host:
    """Opens the engine, then inspects the host's lines until the web ends.

    Args:
        package: path of the model package, or the address of a server that runs one.
        width: pixels in a line.
        pixel_format: PFNC code.
        overlap: of the tiles, pixels.
        engine: name, or the address of a server that runs this package; "" takes the best that the package holds.
        threshold: of the anomaly map; 0 takes the package's.
        min_area: pixels; 0 takes the default.
        pixel_mm, line_mm: size of a pixel on the web; 0 if unknown.
        budget_ms: a strip that waited longer is dropped ("overload"); 0 drops none.
        drift_window: tiles that are compared with the calibration, see `DriftMonitor`; 0 compares none.
    Attributes:
        tile: side of the tiles, pixels.
    Raises:
        ConfigError: a value out of range, or one that is not a number.
        PRNError: as `open_inspector`.
    """

    def __init__(
        self,
        package: str,
        *,
        width: int,
        pixel_format: int,
        overlap: int,
        engine: str = "",
        threshold: float = 0.0,
        min_area: int = 0,
        pixel_mm: float = 0.0,
        line_mm: float = 0.0,
        budget_ms: float = 0.0,
        drift_window: int = 0,
    ) -> None:
        if not (math.isfinite(budget_ms) and budget_ms >= 0):
            raise ConfigError(f"budget_ms is {budget_ms}; give milliseconds above 0, or 0 for no budget")
        given: dict[str, Any] = {}
        if threshold:
            given["threshold"] = threshold
        if min_area:
            given["min_area"] = min_area
        if pixel_mm or line_mm:
            given["scale"] = PixelSize(pixel_mm, line_mm)
        settings = InspectionSettings(overlap=overlap, drift_window=drift_window, **given)
        self._inspector = open_inspector(
            package, width, pixel_format_name(pixel_format), engine=engine or None, settings=settings
        )
        self._inspector.warm_up()
        self._budget_ns = int(budget_ms * 1e6) if budget_ms else None
        self.tile = self._inspector.engine.image_size

    def run(
        self,
        ring: Any,
        report_defect: Callable[..., None],
        report_error: Callable[[str], None],
        is_closing: Callable[[], bool] = lambda: False,
        report_drift: Callable[..., None] = lambda state, reason, tiles, window, notes: None,
    ) -> None:
        """Inspect strips until the web has ended and none waits.

        An engine that fails ends the inspection, as in `Inspection`: the strip and all lines that follow count as
        dropped ("engine_error"), and the host is notified once. If the engine's server is away, nothing ends: the host
        is notified the first time, and strips wait. A callback that fails is reported, and the inspection goes on.

        Args:
            ring: capsule of the host's ring.
            report_defect: takes number, first_line, left, lines, width, area, peak, severity, continues.
            report_error: takes one line of text.
            is_closing: asked before each strip. Once it is true, waiting strips are dropped ("closed"), as are all
                lines that follow, until the web ends.
            report_drift: takes state, reason, tiles, window, notes of the drift: before the first strip, and whenever
                the state of one of its quantities has changed.
        """
        lines = LineRing.from_capsule(ring)
        failures: list[BaseException] = []

        def stop_if_closing() -> None:
            if is_closing():
                raise _Closing

        def fail(error: BaseException) -> None:
            failures.append(error)
            if not isinstance(error, _Closing):
                report_error(_described(error))

        told: tuple[DriftState, ...] = ()

        def tell_drift() -> None:
            nonlocal told
            monitor = self._inspector.drift
            if monitor is None or monitor.drift.states == told:
                return
            drift = monitor.drift
            told = drift.states
            report_drift(str(drift.state), drift.reason, drift.tiles, drift.window, "\n".join(monitor.notes))

        def report(result: Inspected, latency_ns: int | None) -> None:
            for tell in (lambda: report_defects(result.defects, report_defect), tell_drift):
                try:
                    tell()
                except Exception as error:
                    report_error(_described(error))

        told_away = False

        def away(error: EngineUnavailableError) -> None:
            nonlocal told_away
            if not told_away:
                report_error(_described(error))
            told_away = True

        try:
            tell_drift()
        except Exception as error:
            report_error(_described(error))
        inspect_strips(lines, self._inspector, self._budget_ns, report, fail, stop_if_closing, away)
        if failures:
            drop_rest(lines, "closed" if isinstance(failures[0], _Closing) else "engine_error")


class EngineHost:
    """An engine for hosts in C and C++, which give memory of their own; see `engine.h`.

    Args:
        package: path of the model package.
        engine: name; None takes the best that the package holds.
        batch: most images in one run; 0 takes the default.
    Attributes:
        image_size, image_channels: of the images.
        threshold, pixel_threshold: of the package.
    Raises:
        PRNError: as `open_engine`.
    """

    def __init__(self, package: str, engine: str | None = None, batch: int = 0) -> None:
        options: dict[str, Any] = {"batch": batch} if batch else {}
        self._engine = open_engine(package, engine, **options)
        self.image_size, self.image_channels = self._engine.image_size, self._engine.image_channels
        self.threshold, self.pixel_threshold = self._engine.threshold, self._engine.pixel_threshold

    def infer(
        self,
        images: memoryview,
        defective: memoryview | None,
        scores: memoryview | None,
        raw_scores: memoryview | None,
        maps: memoryview | None,
    ) -> None:
        """Inspect images (N, S, S, C) and write the wanted fields of the `Detections` into the memory given for them.

        Raises:
            EngineError: as `Engine.infer`.
        """
        side = self.image_size
        found = self._engine.infer(np.frombuffer(images, np.uint8).reshape(-1, side, side, self.image_channels))
        for values, memory in (
            (found.defective, defective),
            (found.scores, scores),
            (found.raw_scores, raw_scores),
            (found.maps, maps),
        ):
            if memory is not None:
                np.frombuffer(memory, values.dtype)[:] = values.reshape(-1)

    def close(self) -> None:
        """See `Engine.close`."""
        self._engine.close()


def report_defects(defects: list[Defect], report_defect: Callable[..., None]) -> None:
    """Hand defects to the host; if its callback refuses one, the others still follow."""
    refused: Exception | None = None
    for one in defects:
        try:
            report_defect(
                one.number,
                one.first_line,
                one.left,
                one.lines,
                one.width,
                one.area,
                one.peak,
                str(one.severity),
                one.continues,
            )
        except Exception as error:
            refused = error
    if refused is not None:
        raise refused


def _described(error: BaseException) -> str:
    """One line: where it failed, if a note says so, and how."""
    text = printable(str(error))
    parts = [*getattr(error, "__notes__", [])[-1:], type(error).__name__, *([text] if text else [])]
    return ": ".join(parts)
