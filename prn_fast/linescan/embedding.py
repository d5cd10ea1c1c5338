"""The Python side of `prn::Inspector`: what a C++ host's inspecting thread runs."""

import math
import time
from collections.abc import Callable
from typing import Any

from prn_fast.linescan.core import LineRing, pixel_format_name
from prn_fast.linescan.defects import Defect, Scale
from prn_fast.linescan.inspector import Settings, open_inspector

# How long one wait for a strip lasts; the end of the web is seen at once.
_POP_SECONDS = 1.0


class Host:
    """Opens the engine, then inspects the host's lines until the web ends.

    Args:
        package: path of the model package.
        width: pixels a line.
        pixel_format: PFNC code.
        overlap: of the tiles, pixels.
        engine: name; "" takes the best that the package holds.
        threshold: of the anomaly map; 0 takes the package's.
        min_area: pixels; 0 takes the usual.
        pixel_mm, line_mm: size of a pixel on the web; 0 if unknown.
        budget_ms: a strip that waited longer is dropped ("overload"); 0 drops none.
    Attributes:
        tile: side of the tiles, pixels.
    Raises:
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
    ) -> None:
        given: dict[str, Any] = {}
        if threshold:
            given["threshold"] = threshold
        if min_area:
            given["min_area"] = min_area
        if pixel_mm or line_mm:
            given["scale"] = Scale(pixel_mm, line_mm)
        settings = Settings(overlap=overlap, **given)
        self._inspector = open_inspector(
            package, width, pixel_format_name(pixel_format), engine=engine or None, settings=settings
        )
        self._inspector.warm_up()
        self._budget_ns = budget_ms * 1e6 if budget_ms else math.inf
        self.tile = self._inspector.engine.image_size

    def run(self, ring: Any, report_defect: Callable[..., None], report_error: Callable[[str], None]) -> None:
        """Inspect strips until the web has ended and none waits.

        A strip that fails counts as dropped ("engine_error"), is reported, and the inspection goes on with the next.

        Args:
            ring: capsule of the host's ring.
            report_defect: takes number, first_line, left, lines, width, area, peak, severity, continues.
            report_error: takes one line of text.
        """
        lines = LineRing.from_capsule(ring)
        while True:
            strip = lines.pop(_POP_SECONDS)
            if strip is None:
                if lines.finished:
                    break
                continue
            if time.monotonic_ns() - strip.arrival_ns > self._budget_ns:
                strip.drop("overload")
                continue
            try:
                report(self._inspector.inspect(strip), report_defect)
            except Exception as error:
                report_error(one_line(f"lines {strip.owned.start} to {strip.owned.stop - 1}", error))
        try:
            report(self._inspector.finish(), report_defect)
        except Exception as error:
            report_error(one_line("end of the web", error))


def report(defects: list[Defect], report_defect: Callable[..., None]) -> None:
    """Hand defects to the host; one that its callback refuses does not keep the others back."""
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


def one_line(place: str, error: Exception) -> str:
    """Where it failed, and how."""
    text = " ".join(str(error).split())
    return f"{place}: {type(error).__name__}: {text}" if text else f"{place}: {type(error).__name__}"
