"""Image files, good and bad."""

import struct
import subprocess
import sys
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from prn_fast.data import images
from prn_fast.data.masks import read_mask
from prn_fast.errors import DataError
from tests.data.damaged import damaged_files, whole_files


@pytest.fixture
def picture() -> np.ndarray:
    ramp = np.linspace(0, 255, 40 * 30, dtype=np.uint8).reshape(40, 30)
    return np.stack([ramp, ramp[::-1], np.full_like(ramp, 77)], axis=2)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_formats_give_back_every_pixel(tmp_path, picture, suffix, channels):
    stored = picture[:, :, :channels]
    images.write_image(tmp_path / f"a{suffix}", stored)
    np.testing.assert_array_equal(images.read_image(tmp_path / f"a{suffix}", channels), stored)
    assert images.stored_channels(tmp_path / f"a{suffix}") == channels
    assert images.image_size(tmp_path / f"a{suffix}") == (40, 30)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_jpeg_is_read_as_rgb(tmp_path, suffix):
    red = np.full((16, 24, 3), (250, 5, 5), np.uint8)
    images.write_image(tmp_path / f"a{suffix}", red)
    np.testing.assert_allclose(images.read_image(tmp_path / f"a{suffix}", 3), red, atol=6)


def test_grey_file_reads_as_colour_and_colour_as_grey(tmp_path, picture):
    images.write_image(tmp_path / "grey.png", picture[:, :, 0])
    as_colour = images.read_image(tmp_path / "grey.png", 3)
    np.testing.assert_array_equal(as_colour, np.repeat(picture[:, :, :1], 3, axis=2))
    images.write_image(tmp_path / "colour.png", np.full((5, 6, 3), (100, 100, 100), np.uint8))
    assert images.read_image(tmp_path / "colour.png", 1).shape == (5, 6, 1)
    assert images.read_image(tmp_path / "colour.png", 1).max() == 100


@pytest.mark.parametrize(
    ("name", "mode", "tolerance"),
    [
        ("a.png", "RGBA", 0),
        ("a.tif", "RGBA", 0),
        ("a.png", "P", 0),
        ("a.bmp", "P", 0),
        ("a.tif", "CMYK", 1),
        ("a.jpg", "CMYK", 8),
        ("a.tif", "YCbCr", 3),
        ("a.tif", "LAB", 4),
        ("a.webp", "RGB", 8),
        ("a.ppm", "RGB", 0),
    ],
)
def test_colours_of_all_stored_kinds(tmp_path, name, mode, tolerance):
    colour = np.zeros((16, 24, 3), np.uint8)
    colour[:, :8], colour[:, 8:] = (204, 102, 51), (51, 102, 153)
    Image.fromarray(colour).convert(mode).save(tmp_path / name)
    np.testing.assert_allclose(
        images.read_image(tmp_path / name, 3)[:, ::6].astype(int), colour[:, ::6], atol=tolerance
    )
    grey = np.asarray(Image.fromarray(colour).convert("L"))[:, ::6].astype(int)
    np.testing.assert_allclose(images.read_image(tmp_path / name, 1)[:, ::6, 0], grey, atol=tolerance)
    assert images.stored_channels(tmp_path / name) == 3


@pytest.mark.parametrize(
    ("name", "mode"), [("a.png", "1"), ("a.tif", "1"), ("a.png", "LA"), ("a.tif", "LA"), ("a.pgm", "L")]
)
def test_greys_of_all_stored_kinds(tmp_path, name, mode):
    grey = np.zeros((16, 24), np.uint8)
    grey[4:9, 5:] = 255
    Image.fromarray(grey).convert(mode).save(tmp_path / name)
    np.testing.assert_array_equal(images.read_image(tmp_path / name, 1)[:, :, 0], grey)
    np.testing.assert_array_equal(images.read_image(tmp_path / name, 3)[:, :, 2], grey)
    assert images.stored_channels(tmp_path / name) == 1


def test_transparency_is_dropped_and_nothing_is_warned_of(tmp_path):
    image = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).convert("P")
    image.save(tmp_path / "a.png", transparency=bytes(range(0, 256, 16)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert images.read_image(tmp_path / "a.png", 1)[:, :, 0].tolist() == np.arange(16).reshape(4, 4).tolist()


def test_bitmap_of_16_bits_a_pixel(tmp_path):
    red, green, blue, white = 0xF800, 0x07E0, 0x001F, 0xFFFF
    header = struct.pack("<IiiHHIIiiII3I", 40, 2, -2, 1, 16, 3, 8, 0, 0, 0, 0, red, green, blue)
    pixels = struct.pack("<4H", red, green, blue, white)
    file_header = struct.pack("<2sIHHI", b"BM", 14 + len(header) + len(pixels), 0, 0, 14 + len(header))
    (tmp_path / "a.bmp").write_bytes(file_header + header + pixels)
    expected = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]]
    assert images.read_image(tmp_path / "a.bmp", 3).tolist() == expected


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotation_noted_by_the_camera_is_applied(tmp_path, name, orientation):
    upright = np.zeros((48, 32), np.uint8)
    upright[:16, :8], upright[:16, 8:] = 255, 120
    # Stored so that the noted turn makes it upright.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / name, exif=exif)
    assert images.image_size(tmp_path / name) == (48, 32)
    np.testing.assert_allclose(images.read_image(tmp_path / name, 1)[4::8, 4::8, 0], upright[4::8, 4::8], atol=12)


@pytest.mark.parametrize(
    "content", [b"", b"MM", b"no exif at all", b"II*\0\x08\0\0\0\xff\xff", b"MM\0*\xff\xff\xff\xff"]
)
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
@pytest.mark.filterwarnings("ignore")
def test_a_broken_exif_leaves_the_picture(tmp_path, picture, name, content):
    Image.fromarray(picture).save(tmp_path / name, exif=content, **({"lossless": True} if name == "a.webp" else {}))
    if name == "a.png":
        png = (tmp_path / name).read_bytes()
        chunk = b"eXIf" + content
        chunk = struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        (tmp_path / name).write_bytes(png[:33] + chunk + png[33:])
    assert images.image_size(tmp_path / name) == (40, 30)
    assert images.read_image(tmp_path / name, 3).shape == (40, 30, 3)
    if name != "a.jpg":
        np.testing.assert_array_equal(images.read_image(tmp_path / name, 3), picture)


def test_an_exif_that_could_not_be_written_again_turns_the_picture(tmp_path):
    # Orientation 6, and a negative number where EXIF has no sign.
    entries = struct.pack(">HHIH2x HHIh2x", 0x0112, 3, 1, 6, 0x0128, 8, 1, -5)
    exif = b"Exif\0\0" + struct.pack(">2sHIH", b"MM", 42, 8, 2) + entries + bytes(4)
    Image.new("L", (24, 16), 90).save(tmp_path / "a.jpg", exif=exif)
    assert images.read_image(tmp_path / "a.jpg", 1).shape == (24, 16, 1)
    assert images.image_size(tmp_path / "a.jpg") == (24, 16)


def test_nothing_is_printed_of_damaged_notes_beside_a_picture(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png", exif=b"II*\0\x08\0\0\0\xff\xff")
    program = "import sys; from prn_fast.data.images import read_image; print(read_image(sys.argv[1], 1).shape)"
    ran = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a.png"], capture_output=True, text=True, check=True
    )
    assert (ran.stdout, ran.stderr) == ("(8, 8, 1)\n", "")


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.png: file not found"):
        images.read_image(tmp_path / "nothing.png", 1)


def test_empty_file(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=r"a\.png: is empty"):
        images.read_image(tmp_path / "a.png", 1)


def test_file_that_is_no_image(tmp_path):
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"a\.png: is damaged or of another format"):
        images.read_image(tmp_path / "a.png", 1)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_file_cut_short(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    images.write_image(path, np.random.default_rng(0).integers(0, 255, (90, 90), np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"a\{suffix}: .* replace"):
        images.read_image(path, 1)


def test_size_of_a_png_cut_short_within_its_pixels(tmp_path):
    path = tmp_path / "a.png"
    images.write_image(path, np.random.default_rng(0).integers(0, 255, (90, 90), np.uint8))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"a\.png: cannot be read \(.*\); check or replace the file"):
        images.image_size(path)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("a.png", (8, 8)),
        ("a.png", (8, 8, 3)),
        ("a.png", (8, 8, 4)),
        ("a.tif", (8, 8)),
        ("a.tif", (8, 8, 3)),
        ("a.tif", (8, 8, 4)),
        ("a.pgm", (8, 8)),
        ("a.ppm", (8, 8, 3)),
    ],
)
def test_sixteen_bits_are_refused(tmp_path, name, shape):
    cv2.imwrite(str(tmp_path / name), np.full(shape, 4000, np.uint16))
    with pytest.raises(DataError, match=rf"{name}: has more than 8 bits a value; convert it"):
        images.read_image(tmp_path / name, 3)


@pytest.mark.parametrize(
    "content", [b"P5 2 2 1023\n" + bytes(8), b"P6 2 1 1023\n" + bytes(12), b"P3 1 1 1023\n1 2 3\n"]
)
def test_ten_bits_are_refused(tmp_path, content):
    (tmp_path / "a.ppm").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.ppm: has more than 8 bits"):
        images.read_image(tmp_path / "a.ppm", 3)


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.uint16])
def test_tiff_of_other_numbers_is_refused(tmp_path, kind):
    Image.fromarray(np.full((8, 8), 100, kind)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: has more than 8 bits"):
        images.read_image(tmp_path / "a.tif", 1)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_tiff_that_the_decoder_does_not_know_is_refused(tmp_path, kind):
    cv2.imwrite(str(tmp_path / "a.tif"), np.zeros((8, 8, 3), kind))
    with pytest.raises(DataError, match=r"a\.tif: .* replace it by an 8-bit PNG"):
        images.read_image(tmp_path / "a.tif", 1)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_pictures_or_data_errors(tmp_path):
    for name, content in damaged_files(400, seed=0):
        path = tmp_path / name
        path.write_bytes(content)
        for read in (images.image_size, lambda path: images.read_image(path, 3), read_mask):
            try:
                read(path)
            except DataError as error:
                assert name in str(error)  # noqa: PT017
                assert "\n" not in str(error)  # noqa: PT017


def test_whole_files_are_pictures(tmp_path):
    for name, content in whole_files().items():
        (tmp_path / name).write_bytes(content)
        height, width = images.image_size(tmp_path / name)
        assert sorted((height, width)) == [20, 24]
        if name not in ("deep.png", "float.tif"):
            assert images.read_image(tmp_path / name, 3).shape == (height, width, 3)


def test_huge_image_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    images.write_image(tmp_path / "a.png", np.zeros((30, 30), np.uint8))
    monkeypatch.setattr(images, "MAX_PIXELS", 899)
    with pytest.raises(DataError, match="million pixels"):
        images.read_image(tmp_path / "a.png", 1)


def test_image_beyond_the_decoders_own_limit_is_refused(tmp_path):
    images.write_image(tmp_path / "a.png", np.zeros((1, 1), np.uint8))
    png = bytearray((tmp_path / "a.png").read_bytes())
    png[16:24] = struct.pack(">2I", 20_000, 20_000)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(DataError, match="million pixels"):
        images.read_image(tmp_path / "a.png", 1)


@pytest.mark.parametrize("size", [(20, 20), (64, 64), (20, 100), (100, 20), (131, 97)], ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("channels", [1, 3])
def test_resized_image_keeps_its_mean(size, channels):
    image = np.random.default_rng(0).integers(0, 255, (*size, channels), np.uint8)
    resized = images.resize_image(image, 64)
    assert resized.shape == (64, 64, channels)
    assert resized.dtype == np.uint8
    assert abs(float(resized.mean()) - float(image.mean())) < 4


def test_shrinking_averages_areas():
    checks = (np.indices((64, 64)).sum(0) % 2 * 200).astype(np.uint8)[..., None]
    assert set(np.unique(images.resize_image(checks, 32))) == {100}


def test_resized_mask_keeps_its_area():
    mask = np.zeros((200, 100), bool)
    mask[50:150, 20:80] = True
    assert abs(images.resize_mask(mask, 64).mean() - mask.mean()) < 0.02


def test_thin_mark_survives_shrinking():
    mask = np.zeros((1024, 1024), bool)
    mask[:, 333] = True
    resized = images.resize_mask(mask, 64)
    assert resized.any(axis=1).all()
    assert resized.sum() <= 128


def test_empty_mask_stays_empty():
    assert not images.resize_mask(np.zeros((90, 70), bool), 64).any()
