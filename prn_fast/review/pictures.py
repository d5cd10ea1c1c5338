"""What the page shows of an image: the picture, its map in colours, outlines, and masks."""

import io
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from prn_fast.data.images import image_size, read_image
from prn_fast.errors import DataError
from prn_fast.overlay import heat_colours
from prn_fast.review.predictions import Predicted

# Pixels of the longer side that are sent to the page; masks are painted at this size.
LONGEST = 1600
_THUMBNAIL = 72
_JPEG_QUALITY = 92


def shown_size(path: Path) -> tuple[int, int]:
    """(height, width) at which an image is shown."""
    height, width = image_size(path)
    shrink = max(1.0, max(height, width) / LONGEST)
    return max(1, round(height / shrink)), max(1, round(width / shrink))


def picture(path: Path, longest: int = LONGEST) -> bytes:
    """The image as JPEG, made smaller if it is large.

    Raises:
        DataError: it cannot be read.
    """
    image = read_image(path, 3)
    shrink = max(1.0, max(image.shape[:2]) / longest)
    if shrink > 1:
        size = max(1, round(image.shape[1] / shrink)), max(1, round(image.shape[0] / shrink))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    _, encoded = cv2.imencode(".jpg", image[:, :, ::-1].copy(), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return encoded.tobytes()


def thumbnail(path: Path) -> bytes:
    """The image as a small JPEG."""
    return picture(path, _THUMBNAIL)


def heat(item: Predicted, threshold: float) -> bytes:
    """The anomaly map as a PNG with transparency, at the size of the picture; empty where there is none."""
    values = _map(item)
    if values is None:
        return _png(np.zeros((1, 1, 4), np.uint8))
    return _png(heat_colours(threshold)[values])


def outlines(item: Predicted, threshold: float) -> list[list[int]]:
    """Outlines of the proposed mask: of each x, y, x, y, ... in pixels of the picture."""
    found = proposed_mask(item, threshold).astype(np.uint8)
    contours, _ = cv2.findContours(found, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    return [[int(value) for value in contour.reshape(-1)] for contour in contours]


def proposed_mask(item: Predicted, threshold: float) -> NDArray[np.bool_]:
    """Where the prediction sees a defect, bool at the size of the picture: the map at its threshold, or the boxes."""
    values = _map(item)
    if values is not None:
        return values >= threshold * 255
    height, width = shown_size(item.path)
    found = np.zeros((height, width), bool)
    full_height, full_width = image_size(item.path)
    for box in item.boxes:
        rows = (np.array([box.top, box.top + box.height]) * height / full_height).round().astype(int)
        columns = (np.array([box.left, box.left + box.width]) * width / full_width).round().astype(int)
        found[max(0, rows[0]) : rows[1], max(0, columns[0]) : columns[1]] = True
    return found


def encode_mask(mask: NDArray[np.bool_]) -> bytes:
    """A mask as PNG, white on black."""
    return _png(mask.astype(np.uint8) * 255)


def decode_mask(content: bytes, item: Predicted) -> NDArray[np.bool_]:
    """What was painted on the page, as a mask bool (H, W) of the image's own size.

    Raises:
        DataError: not a PNG of the picture's size.
    """
    height, width = shown_size(item.path)
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.size != (width, height):
                raise DataError(f"{item.name}: the mask has {image.size} pixels, the picture {(width, height)}")
            painted = np.asarray(image.convert("L")) >= 128
    except DataError:
        raise
    except Exception as error:  # Pillow names no list of what its readers raise
        raise DataError(f"{item.name}: the mask is not a PNG ({type(error).__name__})") from None
    full = image_size(item.path)
    if full == (height, width):
        return painted
    return np.asarray(
        cv2.resize(painted.astype(np.uint8), (full[1], full[0]), interpolation=cv2.INTER_NEAREST), np.uint8
    ).astype(bool)


def at_shown_size(mask: NDArray[np.bool_], item: Predicted) -> NDArray[np.bool_]:
    """A mask of the image's own size as the page shows it; no mark gets lost."""
    height, width = shown_size(item.path)
    small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small) > 0.25


def _map(item: Predicted) -> NDArray[np.uint8] | None:
    if item.map is None:
        return None
    values = read_image(item.map, 1)[:, :, 0]
    height, width = shown_size(item.path)
    return np.asarray(cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    _, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return encoded.tobytes()
