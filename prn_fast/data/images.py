"""Image files: 8-bit arrays in, clear errors out; what masks mean is in `masks`."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from prn_fast.errors import DataError, one_line

# 240 MB as RGB: far larger than inspection images, far smaller than a machine's memory.
MAX_PIXELS = 80_000_000

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
_GREY_MODES = ("1", "L", "LA", "La")
_DEEP_MODES = ("I", "F")  # and their variants, such as I;16
_WIDTH_TAG, _HEIGHT_TAG, _ORIENTATION_TAG = 0x0100, 0x0101, 0x0112
_UPRIGHT = 1
_TRANSPOSING_ORIENTATIONS = (5, 6, 7, 8)
# What makes each orientation upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow warns of damaged metadata, and of sizes that are refused here anyway, without naming the file.
warnings.filterwarnings("ignore", module=r"PIL\.")


def image_size(path: Path | str, content: bytes | None = None) -> tuple[int, int]:
    """(height, width) of a file, or of its `content`, after the rotation that a camera may have recorded in it.

    Raises:
        DataError: as for `read_image`, so far as the header shows it.
    """
    path = Path(path)
    with opened_image(path, content) as image:
        width, height = _stored_size(image)
        return (width, height) if _orientation(image) in _TRANSPOSING_ORIENTATIONS else (height, width)


def stored_channels(path: Path | str) -> int:
    """1 for a file that stores grey values, 3 for one that stores colour (or a palette), from its header."""
    with opened_image(Path(path)) as image:
        return 1 if image.mode in _GREY_MODES or is_deep(image) else 3


def holds_colour(path: Path | str) -> bool:
    """Whether a pixel of a file differs in red, green and blue; a file that stores grey values is not decoded.

    Raises:
        DataError: as for `read_image`.
    """
    if stored_channels(path) == 1:
        return False
    image = read_image(path, 3)
    return any(not np.array_equal(image[..., 0], image[..., channel]) for channel in (1, 2))


def read_image(path: Path | str, channels: int, content: bytes | None = None) -> NDArray[np.uint8]:
    """Read an image of any stored kind.

    Args:
        path: PNG, JPEG, BMP, TIFF, WebP or PPM with 8 bits (or fewer) a value; transparency is dropped.
        channels: 1 (grey) or 3 (RGB).
        content: what the file holds, where it does not lie on the disk; `path` only names it then.
    Returns:
        uint8 (H, W, channels), turned upright if the camera recorded its rotation.
    Raises:
        DataError: the file is missing, empty, damaged, cut short, of another format, larger than `MAX_PIXELS`, or
            has more than 8 bits a value (which of them carry the picture only its camera knows).
    """
    path = Path(path)
    with opened_image(path, content) as image:
        if is_deep(image):
            raise DataError(
                f"{path}: has more than 8 bits a value; convert it to 8 bits, scaled by the range that the camera uses"
            )
        pixels = np.array(convert(upright(image), "L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def write_image(path: Path | str, image: NDArray[np.uint8] | NDArray[np.bool_]) -> None:
    """Write uint8 (H, W), (H, W, 1) or (H, W, 3) RGB as it is, or bool (H, W) as 0/255; the suffix sets the format."""
    values = image.astype(np.uint8) * 255 if image.dtype == np.bool_ else image
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    Image.fromarray(values).save(path, compress_level=1)  # formats other than PNG ignore it


def resize_image(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(H, W, C) to (side, side, C): area average along a shrinking axis, linear along a growing one."""
    return _resize(image, side).reshape(side, side, image.shape[2])


def resize_mask(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """(H, W) to (side, side); a pixel is marked where at least half of it was.

    A thinner mark keeps its best covered pixels: a mask with a mark never becomes empty.
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
def opened_image(path: Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """The file, or its `content`, with its header read and its size checked; nothing is decoded yet.

    Whatever Pillow raises within the block becomes a DataError that names the file.
    """
    try:
        # Given a name, Pillow 13 maps an uncompressed TIFF into memory, and scrambles it if its rotation is recorded.
        with _opened(path, content) as file, Image.open(file, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(path)
            yield image
    except (DataError, MemoryError):
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: file not found; check the path") from None
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except UnidentifiedImageError:
        size = path.stat().st_size if content is None else len(content)
        state = "is empty" if size == 0 else "is damaged or of another format"
        raise DataError(f"{path}: {state}; replace it by an 8-bit PNG, JPEG, BMP, TIFF, WebP or PPM image") from None
    # Pillow names no list of what its readers raise: most often OSError, SyntaxError or ValueError, but by version and
    # format also what parsing damaged bytes meets, such as TypeError or struct.error.
    except Exception as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)}); check or replace the file") from error


def _opened(path: Path, content: bytes | None) -> BinaryIO:
    return path.open("rb") if content is None else io.BytesIO(content)


def upright(image: Image.Image) -> Image.Image:
    """Decode an opened image and turn it upright; Pillow raises an error for a file that was cut short."""
    image.load()
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def convert(image: Image.Image, mode: str) -> Image.Image:
    """A decoded image in the mode "L", "RGB" or "RGBA", by colours where it has a palette."""
    # Converting directly from a palette with transparency, or from premultiplied colours, Pillow loses data or fails.
    if image.mode in ("P", "PA", "RGBa"):
        image = image.convert("RGBA")
    elif image.mode in ("La", "LAB"):
        image = image.convert("LA" if image.mode == "La" else "RGB")
    return image.convert(mode)


def is_deep(image: Image.Image) -> bool:
    """Whether an opened image has more than 8 bits a value."""
    if image.mode.startswith(_DEEP_MODES):
        return True
    # 16-bit colour has no mode of its own: the decoder's parameters show it. BGR;16 is 16 bits for a whole pixel.
    for decoder, _, _, arguments in getattr(image, "tile", ()):
        told = arguments if isinstance(arguments, tuple) else (arguments,)
        if any(";16" in str(one) for one in told if one != "BGR;16"):
            return True
        if decoder.startswith("ppm") and isinstance(told[-1], int) and told[-1] > 255:
            return True
    return False


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) before any rotation; of a TIFF, newer versions of Pillow show them after it."""
    if image.format == "TIFF":
        return int(image.tag_v2[_WIDTH_TAG]), int(image.tag_v2[_HEIGHT_TAG])  # type: ignore[attr-defined]
    return image.size


def _orientation(image: Image.Image) -> int:
    """The camera's rotation as an EXIF number; 1 (upright) if none can be read."""
    if image.format == "PNG":
        image.load()  # an EXIF chunk may stand behind the pixels
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # as in `opened_image`; a picture whose EXIF is broken is still a picture
        return _UPRIGHT
    return orientation if isinstance(orientation, int) else _UPRIGHT


def _too_large(path: Path) -> DataError:
    return DataError(f"{path}: more than {MAX_PIXELS // 1_000_000} million pixels; cut it into smaller images")
