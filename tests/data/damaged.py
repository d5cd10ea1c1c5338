"""Picture files, whole and at random damaged."""

import io
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, PngImagePlugin

_PNG_HEAD = 8


def whole_files() -> dict[str, bytes]:
    """Small files of all formats and of several kinds within them, by their names."""
    ramp = np.linspace(0, 255, 24 * 20, dtype=np.uint8).reshape(24, 20)
    colour = Image.fromarray(np.stack([ramp, ramp[::-1], np.full_like(ramp, 77)], axis=2))
    grey, palette = colour.convert("L"), colour.convert("P")
    mask = Image.fromarray(np.where(np.arange(480).reshape(24, 20) % 20 < 6, np.uint8(255), np.uint8(0)))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "taken by a camera"
    notes = PngImagePlugin.PngInfo()
    notes.add_text("note", "words " * 20, zip=True)
    return {
        "colour.png": _saved(colour, "PNG", exif=exif, pnginfo=notes),
        "palette.png": _saved(palette, "PNG", transparency=bytes(range(256))),
        "mask.png": _saved(mask, "PNG"),
        "deep.png": _saved(Image.fromarray(ramp.astype(np.uint16) * 257), "PNG"),
        "colour.jpg": _saved(colour, "JPEG", exif=exif),
        "progressive.jpg": _saved(grey, "JPEG", progressive=True, icc_profile=b"profile" * 9),
        "several.jpg": _saved(colour, "MPO", save_all=True, append_images=[colour]),
        "colour.bmp": _saved(colour, "BMP"),
        "palette.bmp": _saved(palette, "BMP"),
        "grey.tif": _saved(grey, "TIFF", exif=exif),
        "lzw.tif": _saved(colour, "TIFF", compression="tiff_lzw", exif=exif),
        "deflated.tif": _saved(mask, "TIFF", compression="tiff_deflate"),
        "jpeg.tif": _saved(colour, "TIFF", compression="jpeg"),
        "float.tif": _saved(grey.convert("F"), "TIFF"),
        "lossy.webp": _saved(colour, "WEBP", exif=exif),
        "lossless.webp": _saved(mask.convert("RGBA"), "WEBP", lossless=True),
        "grey.ppm": _saved(grey, "PPM"),
    }


def damaged_files(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of `count` files, each damaged in one to three places; same arguments, same files."""
    files = whole_files()
    names = sorted(files)
    rng = np.random.default_rng(seed)
    for index in range(count):
        name = names[index % len(names)]
        data = bytearray(files[name])
        for _ in range(rng.integers(1, 4)):
            other = files[names[rng.integers(len(names))]]
            _DAMAGES[rng.integers(len(_DAMAGES))](data, other, rng)
        yield name, bytes(_checksums_renewed(data) if rng.random() < 0.5 else data)


def _saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _place(data: bytearray, rng: np.random.Generator) -> int:
    """A position, near the head half of the time."""
    return int(rng.integers(max(1, min(len(data), 120) if rng.random() < 0.5 else len(data))))


def _flip_bits(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 9)):
        if data:
            data[_place(data, rng)] ^= 1 << int(rng.integers(8))


def _cut(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    del data[_place(data, rng) :]


def _take_out(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    start = _place(data, rng)
    del data[start : start + int(rng.integers(1, 40))]


def _splice(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    start, source = _place(data, rng), int(rng.integers(len(other)))
    data[start:start] = other[source : source + int(rng.integers(1, 200))]


def _overwrite(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
    start, length = _place(data, rng), int(rng.choice([1, 2, 4, 8]))
    data[start : start + length] = bytes([int(rng.choice([0, 1, 127, 128, 255]))]) * length


_DAMAGES = (_flip_bits, _cut, _take_out, _splice, _overwrite)


def _checksums_renewed(data: bytearray) -> bytearray:
    """Checksums of a PNG's chunks made right, so that what is within the chunks is looked at."""
    start = _PNG_HEAD
    while data.startswith(b"\x89PNG") and start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        end = start + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[start + 4 : end]).to_bytes(4, "big")
        start = end + 4
    return data
