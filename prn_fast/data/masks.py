"""Mask files: which pixels of an image they mark as defective.

People and tools store masks in many ways. Black is good; everything else is decided from all of its pixels:

- two values, black and any other: the other marks the defect;
- any colour marks the defect, whichever it is: pixels are read by their strongest channel, palettes by their colours;
- paint over nothing: where the alpha channel is transparent, nothing is marked; black paint counts as paint there;
- a few values that fill areas, such as 1, 2, 3 or 85, 170: labels, all of them defects. 255 beside small labels is what
  many tools write for "ignore": metrics here know no such pixels, and they count as good. In a mask that has no label
  beside it, 255 is white, and marks;
- white with soft or compressed edges: cut at half.

Anything else could be read in two ways and is refused, as is a mask that marks nearly everything: it is most often
inverted.
"""

import logging
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from prn_fast.data.images import convert, is_deep, opened_image, upright
from prn_fast.data.pages import further_pages
from prn_fast.errors import DataError

# Labels have at most this many values; the edges of soft masks have more, or lie between black and white.
MAX_LABELS = 32
# A larger share of the image is no defect, nor one of `INVERTED_SHARE` with `INVERTED_BORDER` of the border: the defect
# of an inverted mask may touch it.
MAX_SHARE = 0.95
INVERTED_SHARE = 0.5
INVERTED_BORDER = 0.75

_WHITE = 255
_HALF = 127
# Clearly dark, clearly white: between them lie edges, or what is refused.
_DARK, _BRIGHT = 64, 192
# Compression leaves values below and above these around black and within white.
_MIN_GREY, _MAX_GREY = 16, 239
# Share of the grey pixels that must lie in areas, for labels; where there are very few greys, they may be thin lines.
_LABEL_SHARE = 0.25
_MAX_THIN_LABELS = 4
# An edge of 5 pixels spans more than this.
_EVEN = 32
_LOSSY_FORMATS = ("JPEG", "MPO", "WEBP")
_LOSSY_COMPRESSION = "jpeg"  # of a TIFF
_ANIMATED_FORMATS = ("PNG", "WEBP")
_ADVICE = "save it as 8-bit grey PNG, 0 for good and 255 for defective"

_log = logging.getLogger(__name__)


def read_mask(path: Path | str) -> NDArray[np.bool_]:
    """Read a defect mask (H, W); True marks the defect, by the rules at the top of this module.

    Where pixels are marked as "ignore", a warning is logged, once for each folder: they are False.

    Raises:
        DataError: as for `read_image`, except that masks may have more than 8 bits; the mask can be read in two ways,
            marks nearly the whole image, or has several pages.
    """
    path = Path(path)
    with opened_image(path) as image:
        if any(further_pages([path])) or (image.format in _ANIMATED_FORMATS and getattr(image, "n_frames", 1) > 1):
            raise DataError(f"{path}: has several pages; join them in one, since what the others mark would be lost")
        lossy = image.format in _LOSSY_FORMATS or image.info.get("compression") == _LOSSY_COMPRESSION
        deep = is_deep(image)
        levels, ignored = _levels(upright(image), deep, path)
    if ignored is None:
        ignored = _ignored(levels, lossy, path)
    if ignored.any():
        levels[ignored] = 0
        _say_ignored(path.parent)
    marked = _marked(levels, lossy, path)
    _refuse_inverted(marked, path)
    return marked


def _levels(image: Image.Image, deep: bool, path: Path) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """How far each pixel (H, W) is from black, and which pixels a palette has for "ignore"; None if levels decide."""
    if deep:
        return _scaled(np.asarray(image), path), None
    if image.mode in ("1", "L") and "transparency" not in image.info:
        return np.array(convert(image, "L")), None
    colours = np.asarray(convert(image, "RGBA"))
    levels = _strongest(colours, path)
    if image.mode != "P":
        return levels, None
    indices = np.asarray(image)
    if not levels.any() and (indices != indices[0, 0]).any():
        raise DataError(f"{path}: all colours of its palette are black; {_ADVICE}")
    return levels, _ignored_in_palette(indices, colours)


def _scaled(values: NDArray, path: Path) -> NDArray[np.uint8]:
    """8-bit levels of a mask with more bits: black and white stay what they are, nothing else becomes black."""
    if values.ndim != 2 or not np.isfinite(values).all() or values.min() < 0:
        raise DataError(f"{path}: has more than 8 bits a value and cannot be read as a mask; {_ADVICE}")
    whites = (1, _WHITE, 2**16 - 1, 2**32 - 1) if values.dtype.kind == "f" else (_WHITE, 2**16 - 1, 2**32 - 1)
    highest = float(values.max())
    white = next((one for one in whites if highest <= one), highest)
    levels = np.rint(values.astype(np.float64) * (_WHITE / white))
    return np.where(values > 0, np.maximum(levels, 1), 0).astype(np.uint8)


def _strongest(colours: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    """Levels (H, W) of colours (H, W, 4) over black: the strongest of red, green and blue."""
    levels, alpha = colours[..., :3].max(axis=2), colours[..., 3]
    if alpha.min() == alpha.max():  # no shape in it
        return levels
    painted = np.rint(levels * (alpha / np.float32(_WHITE))).astype(np.uint8)
    black = (levels == 0) & (alpha > _HALF)
    if not painted.any():
        return alpha.copy()
    if black.any() and (alpha <= _HALF).any():
        raise DataError(
            f"{path}: has black, other colours and transparent parts, so that black may be good or defective; {_ADVICE}"
        )
    return painted


def _ignored_in_palette(indices: NDArray[np.uint8], colours: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """Pixels of index 255 beside small labels in a coloured palette, such as that of PASCAL VOC; None: levels say."""
    labels = indices[(indices > 0) & (indices < _WHITE)]
    ignored = indices == _WHITE
    if not ignored.any() or not labels.size or labels.max() > MAX_LABELS:
        return None
    # In a palette of greys, 255 is white, and indices are levels.
    return None if (colours[ignored][:, :3] == _WHITE).all() else ignored


def _ignored(levels: NDArray[np.uint8], lossy: bool, path: Path) -> NDArray[np.bool_]:
    """Pixels of 255 beside small labels."""
    labels = (levels > 0) & (levels < _WHITE)
    ignored = levels == _WHITE
    if lossy or not ignored.any() or not labels.any() or levels[labels].max() > MAX_LABELS:
        return np.zeros_like(ignored)
    if _flat(levels)[labels].mean() < _LABEL_SHARE:
        raise DataError(
            f"{path}: holds 255 beside values up to {levels[labels].max()}, which are labels or traces of compression; "
            f"{_ADVICE}"
        )
    return ignored


@cache
def _say_ignored(folder: Path) -> None:
    _log.warning("%s: 255 beside small labels is read as 'ignore' in these masks; such pixels count as good", folder)


def _marked(levels: NDArray[np.uint8], lossy: bool, path: Path) -> NDArray[np.bool_]:
    values = np.flatnonzero(np.bincount(levels.ravel(), minlength=_WHITE + 1))
    if len(values) == 2 and values[0] < _DARK and values[1] >= _BRIGHT:
        return levels > _HALF
    if len(values) == 1 and values[0] < (_DARK if lossy else 1):
        return np.zeros(levels.shape, np.bool_)
    if not lossy and len(values) <= MAX_LABELS + 1 and (values[-1] <= _HALF or _has_labels(levels)):
        return levels > 0
    if values[-1] <= _HALF or _has_grey_areas(levels):
        stored = "has a lossy format and" if lossy else f"holds {len(values)} values and"
        raise DataError(f"{path}: {stored} is neither white on black with soft edges nor a few labels; {_ADVICE}")
    return levels > _HALF


def _has_labels(levels: NDArray[np.uint8]) -> bool:
    """Whether greys fill areas or stand alone, rather than between black and white."""
    grey = (levels > 0) & (levels <= _MAX_GREY)
    if not grey.any():
        return False
    darkest, brightest = cv2.erode(levels, _neighbours(3)), cv2.dilate(levels, _neighbours(3))
    labelled = darkest == brightest
    if len(np.unique(levels[grey])) <= _MAX_THIN_LABELS:
        labelled |= (levels >= _MIN_GREY) & ~((darkest < levels) & (levels < brightest))
    return bool(labelled[grey].mean() >= _LABEL_SHARE)


def _has_grey_areas(levels: NDArray[np.uint8]) -> bool:
    """Whether there are areas, not edges, of neither black nor white."""
    grey = (levels >= _DARK) & (levels < _BRIGHT)
    spread = cv2.dilate(levels, _neighbours(5)) - cv2.erode(levels, _neighbours(5))
    return bool((grey & (spread < _EVEN)).any())


def _flat(levels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels whose neighbours all have their value."""
    return np.asarray(cv2.erode(levels, _neighbours(3)) == cv2.dilate(levels, _neighbours(3)), np.bool_)


def _neighbours(side: int) -> NDArray[np.uint8]:
    return np.ones((side, side), np.uint8)


def _refuse_inverted(marked: NDArray[np.bool_], path: Path) -> None:
    share = float(marked.mean())
    border = np.concatenate([marked[0], marked[-1], marked[:, 0], marked[:, -1]])
    if share > MAX_SHARE or (share > INVERTED_SHARE and border.mean() > INVERTED_BORDER):
        raise DataError(
            f"{path}: marks {share:.0%} of the image; make good pixels black and defects white, or leave out the image "
            "if its defect is that large"
        )
