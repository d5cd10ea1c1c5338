"""Files of several images: pages of a TIFF, as a recorder writes them, and frames of an animation."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from prn_fast.data.folders import PassedOver
from prn_fast.data.images import MAX_PIXELS, convert, opened_image, read_image, upright
from prn_fast.errors import DataError

_SUFFIXES = (".tif", ".tiff")
_ANIMATION_SUFFIXES = (".png", ".webp")
_SUBFILE_TYPE, _BITS, _PHOTOMETRIC = 254, 258, 262
# Bits of the first: a smaller copy of another page, and a mask of one.
_NO_PICTURE = 0b101


def further_pages(paths: Iterable[Path]) -> Iterator[PassedOver]:
    """The pages after the first of each TIFF, and the frames after the first of each animated PNG or WebP file.

    `read_image` does not read them.
    """
    for path in paths:
        yield from further_pages_of(path)


def further_pages_of(path: Path, content: bytes | None = None) -> Iterator[PassedOver]:
    """As `further_pages`, of one file, or of what it holds (see `read_image`)."""
    if path.suffix.lower() in _ANIMATION_SUFFIXES:
        # Reading it will report that it cannot be opened.
        with suppress(DataError), opened_image(path, content) as image:
            yield from [PassedOver(path, "further frame")] * (getattr(image, "n_frames", 1) - 1)
    if path.suffix.lower() in _SUFFIXES:
        try:
            with opened_image(path, content) as image:
                for _ in _picture_pages(image):
                    yield PassedOver(path, "further page")
        except DataError:
            yield PassedOver(path, "damaged further page")


def read_pages(path: Path, channels: int) -> Iterator[NDArray[np.uint8]]:
    """All pages of an image file, one after the other; smaller copies of a page (thumbnails) and masks are no pages.

    Args:
        path: any image; only a TIFF has further pages.
        channels: 1 (grey) or 3 (RGB).
    Returns:
        uint8 (H, W, channels) of each page.
    Raises:
        DataError: as for `read_image`; a page that is damaged or stored in another way than the first.
    """
    yield read_image(path, channels)
    if path.suffix.lower() not in _SUFFIXES:
        return
    with opened_image(path) as image:
        stored = _storage(image)
        for page in _picture_pages(image):
            if _storage(image) != stored or image.width * image.height > MAX_PIXELS:
                raise DataError(f"{path}: page {page} is stored in another way than page 1; save the pages alike")
            pixels = np.array(convert(upright(image), "L" if channels == 1 else "RGB"))
            yield pixels.reshape(*pixels.shape[:2], channels)


def _picture_pages(image: Image.Image) -> Iterator[int]:
    """Turn to each page after the first that is a picture; its number, from 1. Only a TIFF has any."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return  # another format, under a TIFF's name
    for page in range(1, image.n_frames):
        image.seek(page)
        if not int(image.tag_v2.get(_SUBFILE_TYPE, 0)) & _NO_PICTURE:
            yield page + 1


def _storage(image: Image.Image) -> tuple[object, ...]:
    """What determines how values are read."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return ()
    return image.mode, image.tag_v2.get(_BITS), image.tag_v2.get(_PHOTOMETRIC)
