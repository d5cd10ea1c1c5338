"""Image and mask files, good and bad."""

import numpy as np
import pytest
from PIL import Image

from prn_fast.data import images
from prn_fast.errors import DataError


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


@pytest.mark.parametrize("mode", ["1", "LA", "RGBA", "P", "CMYK"])
def test_other_stored_kinds_are_read(tmp_path, picture, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(picture).convert(mode).save(path)
    assert images.read_image(path, 3).shape == (40, 30, 3)
    assert images.read_image(path, 1).shape == (40, 30, 1)


def test_rotation_noted_by_the_camera_is_applied(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    assert images.image_size(tmp_path / "a.png") == (30, 40)
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.png", 3), np.rot90(picture, -1))


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
    with pytest.raises(DataError, match="replace"):
        images.read_image(path, 1)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)], ids=["grey", "colour"])
def test_sixteen_bits_are_refused(tmp_path, shape):
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), np.full(shape, 4000, np.uint16))
    with pytest.raises(DataError, match="more than 8 bits"):
        images.read_image(tmp_path / "a.png", 1)


def test_float_image_is_refused(tmp_path):
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="more than 8 bits"):
        images.read_image(tmp_path / "a.tif", 1)


def test_huge_image_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    images.write_image(tmp_path / "a.png", np.zeros((30, 30), np.uint8))
    monkeypatch.setattr(images, "MAX_PIXELS", 899)
    with pytest.raises(DataError, match="million pixels"):
        images.read_image(tmp_path / "a.png", 1)


def test_image_beyond_the_decoders_own_limit_is_refused(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="million pixels"):
        images.read_image(tmp_path / "a.png", 1)


def test_folder_lists_only_images_sorted(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "inner.png").mkdir()
    assert [path.name for path in images.list_images(tmp_path)] == ["a.jpg", "b.PNG"]


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match="nowhere: folder not found"):
        images.list_images(tmp_path / "nowhere")


def test_file_in_place_of_a_folder(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=r"a\.png: this is a file"):
        images.list_images(tmp_path / "a.png")


def test_empty_folder(tmp_path):
    with pytest.raises(DataError, match="no images in this folder"):
        images.list_images(tmp_path)


@pytest.mark.parametrize("mark", [1, 2, 255])
def test_mask_marks(tmp_path, mark):
    values = np.zeros((6, 7), np.uint8)
    values[2:4, 3] = mark
    images.write_image(tmp_path / "m.png", values)
    np.testing.assert_array_equal(images.read_mask(tmp_path / "m.png"), values > 0)


def test_soft_edge_of_a_mask_is_cut_at_half(tmp_path):
    images.write_image(tmp_path / "m.png", np.array([[0, 100, 127, 128, 255]], np.uint8))
    assert images.read_mask(tmp_path / "m.png").tolist() == [[False, False, False, True, True]]


def test_palette_mask_marks_by_label_not_by_colour(tmp_path):
    mask = Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8)).convert("P")
    mask.putpalette([200, 200, 200, 0, 0, 0, 10, 10, 10])
    mask.save(tmp_path / "m.png")
    assert images.read_mask(tmp_path / "m.png").tolist() == [[False, True], [True, False]]


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
