"""Where in an image the inspected object is."""

import cv2
import numpy as np
from numpy.typing import NDArray

# Outlines need no full resolution; this side keeps the work near 0.1 ms.
_WORKING_SIDE = 128
_BORDER = 3
_MIN_SHARE, _MAX_SHARE = 0.03, 0.92
_MIN_CONTRAST = 18  # grey levels between object and background
_MIN_SEPARATION = 0.6  # between-class variance over total variance
_BORDER_UNEVENNESS = 0.3  # the border's own differences, over those of the object


def foreground_mask(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Separate an object from the even background around it; a texture that fills the image is all foreground.

    Otsu's threshold on each pixel's difference to the median colour of the image's border (largest over the
    channels), then closing of gaps and holes. The result counts only when it looks like an object on a background:
    nearly all of the border is even background, object and background differ clearly, and the object is neither tiny
    nor the whole image. In every other case the whole image is foreground.

    Args:
        image: uint8 (H, W, C), C = 1 or 3.
    Returns:
        bool (H, W), never empty.
    """
    height, width = image.shape[:2]
    small = (min(height, _WORKING_SIDE), min(width, _WORKING_SIDE))
    shrunk = np.asarray(cv2.resize(image, small[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    found = _object_in(shrunk.reshape(*small, -1))
    if found is None:
        return np.ones((height, width), bool)
    return cv2.resize(found, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def _object_in(image: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """The object as 0/1, or None where there is no clear one."""
    background = np.median(_frame(image), axis=0)
    difference = np.abs(image.astype(np.float32) - background.astype(np.float32)).max(axis=2)
    difference = cv2.GaussianBlur(np.minimum(difference, 255).astype(np.uint8), (3, 3), 0)
    _, above = cv2.threshold(difference, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    if not _is_clear(difference, above):
        return None

    closed = np.asarray(cv2.morphologyEx(above, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)), np.uint8)
    # Small parts beside an object are dust, small holes in it belong to it; large ones are background.
    cleaned = 1 - _without_small_parts(1 - _without_small_parts(closed))
    return cleaned if _MIN_SHARE <= cleaned.mean() <= _MAX_SHARE else None


def _without_small_parts(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Connected parts of at least a tenth of the largest one's area."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    areas = stats[:, cv2.CC_STAT_AREA]
    kept = areas >= 0.1 * areas[1:].max(initial=0)
    kept[0] = False
    return kept[labels].astype(np.uint8)


def _is_clear(difference: NDArray[np.uint8], above: NDArray[np.uint8]) -> bool:
    share = float(above.mean())
    if not 0 < share < 1:
        return False
    inside, outside = float(cv2.mean(difference, above)[0]), float(cv2.mean(difference, 1 - above)[0])
    if inside - outside < _MIN_CONTRAST:
        return False
    total = float(np.var(difference))
    if share * (1 - share) * (inside - outside) ** 2 < _MIN_SEPARATION * total:
        return False
    return float(np.percentile(_frame(difference), 90)) < _BORDER_UNEVENNESS * inside


def _frame(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels (n, ...) of the image's border."""
    n, inner = _BORDER, image.shape[2:]
    sides = (image[:n], image[-n:], image[n:-n, :n], image[n:-n, -n:])
    return np.concatenate([side.reshape(-1, *inner) for side in sides])


def random_pixel(mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[int, int]:
    """(y, x) of a random marked pixel of a mask that is not empty."""
    for _ in range(8):  # a hit is likely, and far cheaper than a list of all marked pixels
        y, x = int(rng.integers(mask.shape[0])), int(rng.integers(mask.shape[1]))
        if mask[y, x]:
            return y, x
    marked = np.flatnonzero(mask)
    y, x = divmod(int(marked[rng.integers(marked.size)]), mask.shape[1])
    return y, x
