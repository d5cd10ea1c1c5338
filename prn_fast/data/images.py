"""Image and mask files: 8-bit arrays in, clear errors out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from prn_fast.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
# Decoded as RGB this is 240 MB: far above inspection images, far below what fills a machine's memory.
MAX_PIXELS = 80_000_000

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_GREY_MODES = ("1", "L", "LA", "La")
_DEEP_MODES = ("I", "F")  # and their variants, such as I;16
_ORIENTATION_TAG = 0x0112
_TRANSPOSING_ORIENTATIONS = (5, 6, 7, 8)


def list_images(folder: Path | str) -> list[Path]:
    """Image files directly inside a folder, sorted by name; files whose suffix is not an image's are passed over.

    Raises:
        DataError: the folder is missing, or holds no image.
    """
    folder = existing_folder(folder)
    images = sorted(path for path in folder.iterdir() if is_image(path))
    if not images:
        raise no_images_in(folder)
    return images


def existing_folder(folder: Path | str) -> Path:
    """The folder as a Path; a DataError where it is missing or is a file."""
    folder = Path(folder)
    if not folder.exists():
        raise DataError(f"{folder}: folder not found; check the path")
    if not folder.is_dir():
        raise DataError(f"{folder}: this is a file; give the folder that holds the images")
    return folder


def is_image(path: Path) -> bool:
    """Whether the name says that a file is an image; hidden files are none."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def no_images_in(folder: Path) -> DataError:
    """The error for a folder without images."""
    return DataError(f"{folder}: no images in this folder; put {', '.join(IMAGE_SUFFIXES)} files there")


def image_size(path: Path | str) -> tuple[int, int]:
    """(height, width) from the file's header, after the rotation that a camera may have noted in it."""
    with _opened(Path(path)) as image:
        width, height = image.size
        turned = image.getexif().get(_ORIENTATION_TAG) in _TRANSPOSING_ORIENTATIONS
        return (width, height) if turned else (height, width)


def stored_channels(path: Path | str) -> int:
    """1 for a file that stores grey values, 3 for one that stores colour (or a palette), from its header."""
    with _opened(Path(path)) as image:
        return 1 if image.mode in _GREY_MODES or _is_deep(image) else 3


def read_image(path: Path | str, channels: int) -> NDArray[np.uint8]:
    """Read an image of any stored kind.

    Args:
        path: PNG, JPEG, BMP or TIFF with 8 bits (or 1 bit) a value; transparency is dropped.
        channels: 1 (grey) or 3 (RGB).
    Returns:
        uint8 (H, W, channels), turned upright where the camera noted its rotation.
    Raises:
        DataError: the file is missing, empty, damaged, cut short, of another format, larger than `MAX_PIXELS`, or
            has more than 8 bits a value (which of them carry the picture only its camera knows).
    """
    path = Path(path)
    with _opened(path) as image:
        if _is_deep(image):
            raise DataError(
                f"{path}: has more than 8 bits a value; convert it to 8 bits, scaled by the range that the camera uses"
            )
        pixels = _pixels(image, path, "L" if channels == 1 else "RGB")
    return pixels.reshape(*pixels.shape[:2], channels)


def read_mask(path: Path | str) -> NDArray[np.bool_]:
    """Read a defect mask (H, W); True marks the defect.

    Masks in use are 0/255 (soft or compressed edges are cut at half) or label numbers from 0 (all above 0 mark).

    Raises:
        DataError: as for `read_image`.
    """
    path = Path(path)
    with _opened(path) as image:
        # Label numbers live in the palette's indices, not in its colours; 16-bit masks keep their values.
        if image.mode == "P" or _is_deep(image):
            image.load()
            values = np.asarray(ImageOps.exif_transpose(image))
            if values.ndim != 2 or not np.isfinite(values).all():
                raise DataError(f"{path}: cannot be read as a mask; save it as 8-bit grey with 0 and 255")
        else:
            values = _pixels(image, path, "L")
    return values > (127 if values.max() > 127 else 0)


def write_image(path: Path | str, image: NDArray[np.uint8] | NDArray[np.bool_]) -> None:
    """Write uint8 (H, W), (H, W, 1) or (H, W, 3) RGB as it is, or bool (H, W) as 0/255; the suffix sets the format."""
    values = image.astype(np.uint8) * 255 if image.dtype == np.bool_ else image
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    Image.fromarray(values).save(path, compress_level=1)  # formats other than PNG take no notice


def resize_image(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(H, W, C) to (side, side, C): area average along a shrinking axis, linear along a growing one."""
    return _resize(image, side).reshape(side, side, image.shape[2])


def resize_mask(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """(H, W) to (side, side); a pixel is marked where at least half of it was.

    A mark thinner than that keeps its best covered pixels: a mask with a mark never becomes an empty one.
    """
    coverage = _resize(mask.astype(np.float32), side)
    largest = float(coverage.max())
    return coverage >= min(0.5, largest / 2) if largest > 0 else np.zeros((side, side), bool)


def _resize(values: NDArray, side: int) -> NDArray:
    height, width = values.shape[:2]
    if (height, width) == (side, side):
        return values.copy()
    # cv2 averages areas only where both axes shrink, so the shrinking axes go first.
    shrunk = cv2.resize(values, (min(width, side), min(height, side)), interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, (side, side), interpolation=cv2.INTER_LINEAR)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file with its header read and its size checked; nothing is decoded yet."""
    try:
        image = Image.open(path, formats=_FORMATS)
    except FileNotFoundError:
        raise DataError(f"{path}: file not found; check the path") from None
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except UnidentifiedImageError:
        state = "is empty" if path.stat().st_size == 0 else "is damaged or of another format"
        raise DataError(f"{path}: {state}; replace it by a PNG, JPEG, BMP or TIFF image") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path}: cannot be opened ({error}); check or replace the file") from None
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise _too_large(path)
        yield image


def _pixels(image: Image.Image, path: Path, mode: str) -> NDArray[np.uint8]:
    """Decode; unlike other decoders, this one reports a file that was cut short."""
    try:
        image.load()
        return np.array(ImageOps.exif_transpose(image).convert(mode))
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise DataError(f"{path}: cannot be decoded ({error}); replace the file") from None


def _is_deep(image: Image.Image) -> bool:
    # 16-bit colour has no mode of its own: the decoder's raw mode tells.
    return image.mode.startswith(_DEEP_MODES) or ";16" in str(getattr(image, "tile", ""))


def _too_large(path: Path) -> DataError:
    return DataError(f"{path}: more than {MAX_PIXELS // 1_000_000} million pixels; cut it into smaller images")
