"""The strip as the page shows it: made smaller, cut into frames, encoded."""

import threading
import time
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from prn_fast.linescan.inspector import Inspected
from prn_fast.linescan.stitching import Stitched
from prn_fast.overlay import heat_colours

VIEW_WIDTH = 1200
# As fast as an eye can follow.
_ROWS_A_SECOND = 1000
_MAX_ROWS_WAITING = 2000
_JPEG_QUALITY = 80
_HOLE_ROWS = 12
_HOLE_COLOUR = (90, 60, 40, 255)  # BGRA


@dataclass(frozen=True)
class Frame:
    """Some rows of the view.

    Attributes:
        first_line: number of the line that the first row begins with.
        line_factor: lines in a row.
        rows: how many.
        picture: JPEG.
        heat: PNG with transparency, of the same size.
    """

    first_line: int
    line_factor: int
    rows: int
    picture: bytes
    heat: bytes


class StripView:
    """Takes the lines of an inspection, and gives frames for a page.

    The picture is averaged over pixels; the anomaly map shows the largest value, so that no defect is too small to be
    seen. Where lines come faster than a page can show, more lines go into one row. Lines without a verdict show as a
    dark band.

    Args:
        width: pixels of the web.
        threshold: of the anomaly map.
    Attributes:
        factor: pixels of the web in one pixel of the view.
        watched: whether anyone looks; lines are not kept otherwise.
    """

    def __init__(self, width: int, threshold: float) -> None:
        self.factor = -(-width // VIEW_WIDTH)
        self.width = width // self.factor
        self.watched = False
        self._line_factor = self.factor
        self._colours = heat_colours(threshold)
        self._lock = threading.Lock()
        self._next_line: int | None = None
        self._rest: Stitched | None = None
        self._waiting: list[tuple[int, int, NDArray[np.uint8], NDArray[np.uint8]]] = []
        self._second_began = time.monotonic()
        self._rows_this_second = 0

    def add(self, inspected: Inspected) -> None:
        """Take the lines of a strip; called by the inspecting thread."""
        if not self.watched:
            self._next_line = self._rest = None
            return
        with self._lock:
            for lines in inspected.stitched:
                self._add(lines)

    def _add(self, lines: Stitched) -> None:
        if self._next_line is not None and lines.first_line != self._next_line:
            self._rest = None
            self._append(self._next_line, None)
        self._next_line = lines.first_line + len(lines.heat)
        if self._rest is not None:
            lines = _joined(self._rest, lines)
        count = len(lines.heat) // self._line_factor * self._line_factor
        self._rest = None
        if count < len(lines.heat):
            self._rest = Stitched(
                lines.first_line + count, lines.pixels[count:], lines.heat[count:], lines.missing[count:]
            )
        if count:
            part = slice(0, count)
            self._append(
                lines.first_line,
                Stitched(lines.first_line, lines.pixels[part], lines.heat[part], lines.missing[part]),
            )

    def _append(self, first_line: int, lines: Stitched | None) -> None:
        """Append lines, or the band of a hole, to the rows that wait."""
        if lines is None:
            picture: NDArray[np.uint8] = np.zeros((_HOLE_ROWS, self.width), np.uint8)
            heat = np.full((_HOLE_ROWS, self.width, 4), _HOLE_COLOUR, np.uint8)
        else:
            rows = len(lines.heat) // self._line_factor
            used = self.width * self.factor
            size = self.width, rows
            picture = np.asarray(cv2.resize(lines.pixels[:, :used], size, interpolation=cv2.INTER_AREA), np.uint8)
            blocks = lines.heat[:, :used].reshape(rows, self._line_factor, self.width, self.factor)
            heat = self._colours[np.rint(blocks.max(axis=(1, 3)) * 255).astype(np.uint8)]
            heat[lines.missing.reshape(rows, -1).any(axis=1)] = _HOLE_COLOUR
        self._waiting.append((first_line, self._line_factor, picture, heat))
        while sum(len(heat) for *_, heat in self._waiting) > _MAX_ROWS_WAITING:
            self._waiting.pop(0)
        self._rows_this_second += len(heat)
        seconds = time.monotonic() - self._second_began
        if seconds >= 1:
            if self._rows_this_second > _ROWS_A_SECOND * seconds:
                self._line_factor *= 2
                self._rest = None
            self._second_began, self._rows_this_second = time.monotonic(), 0

    def take(self) -> list[Frame]:
        """Frames of all rows that wait."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        frames = []
        for first_line, line_factor, picture, heat in waiting:
            if picture.ndim == 3:
                picture = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            _, png = cv2.imencode(".png", heat, [cv2.IMWRITE_PNG_COMPRESSION, 1])
            frames.append(Frame(first_line, line_factor, len(heat), jpeg.tobytes(), png.tobytes()))
        return frames


def _joined(one: Stitched, other: Stitched) -> Stitched:
    return Stitched(
        one.first_line,
        np.concatenate([one.pixels, other.pixels]),
        np.concatenate([one.heat, other.heat]),
        np.concatenate([one.missing, other.missing]),
    )
