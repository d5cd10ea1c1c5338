"""Pixels of a strip as an engine takes them: grey or RGB."""

import cv2
import numpy as np
from numpy.typing import NDArray

_BAYER = "Bayer"
# Pattern in a GenICam name -> OpenCV's code, and the pattern one line further down.
_DEMOSAIC = {
    "RG": (cv2.COLOR_BayerRGGB2RGB, "GB"),
    "GB": (cv2.COLOR_BayerGBRG2RGB, "RG"),
    "GR": (cv2.COLOR_BayerGRBG2RGB, "BG"),
    "BG": (cv2.COLOR_BayerBGGR2RGB, "GR"),
}


def engine_pixels(pixels: NDArray[np.uint8], pixel_format: str, first_line: int, channels: int) -> NDArray[np.uint8]:
    """Colours from a mosaic, grey from colours, or three equal channels from grey, where the engine needs it.

    Args:
        pixels: (lines, width, C) of a strip, C = 1 or 3 (RGB).
        pixel_format: GenICam name of what the camera sent.
        first_line: number of the strip's first line; it says which line of a mosaic's pattern comes first.
        channels: 1 or 3.
    Returns:
        (lines, width, channels); `pixels` itself if nothing changes.
    """
    if pixel_format.startswith(_BAYER):
        pattern = pixel_format[len(_BAYER) :][:2]
        code, next_pattern = _DEMOSAIC[pattern]
        if first_line % 2:
            code, _ = _DEMOSAIC[next_pattern]
        pixels = np.asarray(cv2.cvtColor(pixels[:, :, 0], code), np.uint8)
    if pixels.shape[2] == channels:
        return pixels
    if channels == 1:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)[:, :, None]
    return np.repeat(pixels, channels, axis=2)


def mirror_into_holes(pixels: NDArray[np.uint8], missing: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Missing lines as mirror images of the nearest received ones: what an engine sees beside a hole looks normal.

    Repeated lines would be streaks, which a network rightly calls defective, even on the received lines next to them.

    Args:
        pixels: (lines, width, C).
        missing: (lines,), True where a line never arrived.
    Returns:
        Of the same shape; `pixels` itself where nothing, or everything, is missing.
    """
    if not missing.any() or missing.all():
        return pixels
    edges = np.flatnonzero(np.diff(np.concatenate(([True], missing, [True])).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]  # of the runs of received lines
    rows = np.arange(len(missing))
    for row in np.flatnonzero(missing):
        distance, run = min(
            (start - row if row < start else row - end + 1, run)
            for run, (start, end) in enumerate(zip(starts, ends, strict=True))
        )
        length = ends[run] - starts[run]
        within = (distance - 1) % (2 * length)
        within = min(within, 2 * length - 1 - within)
        rows[row] = starts[run] + within if row < starts[run] else ends[run] - 1 - within
    return pixels[rows]
