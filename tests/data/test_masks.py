"""What masks of many kinds mark, and which of them are refused."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from prn_fast.data.images import write_image
from prn_fast.data.masks import read_mask
from prn_fast.errors import DataError

SHAPE = (60, 80)
BLACK, WHITE, RED, GREEN = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0)


@pytest.fixture
def first() -> np.ndarray:
    """A defect with its mark (60, 80)."""
    mark = np.zeros(SHAPE, bool)
    mark[10:30, 12:40] = True
    return mark


@pytest.fixture
def second() -> np.ndarray:
    """Another one beside it, a part of which is thin."""
    mark = np.zeros(SHAPE, bool)
    mark[40:52, 50:70] = True
    mark[45, 8:50] = True
    return mark


def painted(*layers: tuple[np.ndarray, object], ground: object = 0) -> np.ndarray:
    """uint8 (H, W) or (H, W, C): values where marks are, above a ground."""
    depth = (len(ground),) if isinstance(ground, tuple) else ()
    values = np.empty((*SHAPE, *depth), np.uint8)
    values[:] = ground
    for mark, value in layers:
        values[mark] = value
    return values


def read(tmp_path, values, name="mask.png", mode=None, **options) -> np.ndarray:
    """What is read of values that were saved."""
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    (image.convert(mode) if mode else image).save(tmp_path / name, **options)
    return read_mask(tmp_path / name)


def palette_image(indices: np.ndarray, colours: dict[int, tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(indices).convert("L")
    image.putpalette([value for index in range(256) for value in colours.get(index, BLACK)])
    return image


@pytest.mark.parametrize("mark", [1, 2, 100, 127, 128, 200, 255])
@pytest.mark.parametrize("name", ["mask.png", "mask.bmp", "mask.tif"])
def test_a_single_value_marks_whichever_it_is(tmp_path, first, mark, name):
    np.testing.assert_array_equal(read(tmp_path, painted((first, mark)), name), first)


def test_a_mask_of_a_single_pixel(tmp_path):
    mark = np.zeros(SHAPE, bool)
    mark[3, 4] = True
    for value in (1, 127, 255):
        np.testing.assert_array_equal(read(tmp_path, painted((mark, value))), mark)


@pytest.mark.parametrize("name", ["mask.png", "mask.bmp", "mask.jpg", "mask.tif", "mask.webp"])
def test_a_black_mask_marks_nothing(tmp_path, name):
    assert not read(tmp_path, np.zeros(SHAPE, np.uint8), name).any()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_white_on_black_in_all_modes(tmp_path, first, mode):
    np.testing.assert_array_equal(read(tmp_path, painted((first, 255)), mode=mode), first)


@pytest.mark.parametrize("name", ["mask.png", "mask.bmp", "mask.tif"])
@pytest.mark.parametrize("white", [0, 1, 7])
def test_palettes_are_read_by_their_colours(tmp_path, first, name, white):
    black = 3 if white != 3 else 0
    image = palette_image(painted((first, white), ground=black), {white: WHITE})
    np.testing.assert_array_equal(read(tmp_path, image, name), first)


@pytest.mark.parametrize("name", ["mask.png", "mask.bmp"])
def test_palettes_of_one_bit_are_read_by_their_colours(tmp_path, first, name):
    Image.fromarray(~first).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    if name == "mask.bmp":  # its palette stands before the pixels
        pixels = int.from_bytes(content[10:14], "little")
        content = content[: pixels - 8] + bytes([255, 255, 255, 0, 0, 0, 0, 0]) + content[pixels:]
        (tmp_path / name).write_bytes(content)
    else:
        palette_image(painted((first, 0), ground=1), {0: WHITE}).save(tmp_path / name, bits=1)
    np.testing.assert_array_equal(read_mask(tmp_path / name), first)


@pytest.mark.parametrize(("paint", "ground"), [(255, 0), (0, 255)])
def test_a_transparent_grey_is_the_ground(tmp_path, first, paint, ground):
    np.testing.assert_array_equal(read(tmp_path, painted((first, paint), ground=ground), transparency=ground), first)


def test_palette_whose_second_index_is_transparent(tmp_path, first):
    image = palette_image(painted((first, 0), ground=1), {0: RED, 1: GREEN})
    np.testing.assert_array_equal(read(tmp_path, image, transparency=1), first)


def test_palette_with_one_colour_for_all_labels_is_refused(tmp_path, first):
    with pytest.raises(DataError, match=r"mask\.png: all colours of its palette are black; save"):
        read(tmp_path, palette_image(painted((first, 1)), {}))


def test_all_paints_mark(tmp_path, first, second):
    dark_blue = (0, 0, 90)
    for others in (GREEN, dark_blue, (128, 128, 0)):
        values = painted((first, RED), (second, others), ground=BLACK)
        np.testing.assert_array_equal(read(tmp_path, values), first | second)


@pytest.mark.parametrize("paint", [WHITE, RED, BLACK])
@pytest.mark.parametrize("beneath", [WHITE, BLACK])
def test_paint_over_nothing_is_read_by_its_shape(tmp_path, first, paint, beneath):
    values = painted((first, (*paint, 255)), ground=(*beneath, 0))
    np.testing.assert_array_equal(read(tmp_path, values), first)


def test_soft_edges_of_paint_over_nothing_are_cut_at_half(tmp_path, first):
    alpha = cv2.GaussianBlur(painted((first, 255)), (5, 5), 0)
    values = np.dstack([np.full((*SHAPE, 3), 255, np.uint8), alpha])
    np.testing.assert_array_equal(read(tmp_path, values), alpha > 127)


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_alpha_without_a_shape_says_nothing(tmp_path, first, alpha):
    np.testing.assert_array_equal(read(tmp_path, painted((first, (*WHITE, alpha)), ground=(*BLACK, alpha))), first)


def test_black_beside_paint_over_nothing_is_refused(tmp_path, first, second):
    values = painted((first, (*RED, 255)), (second, (*BLACK, 255)), ground=(*BLACK, 0))
    with pytest.raises(DataError, match="black may be good or defective"):
        read(tmp_path, values)


@pytest.mark.parametrize(
    "labels", [(85, 170), (170, 85), (127, 255), (255, 127), (1, 2), (2, 1), (40, 255), (254, 255)]
)
def test_labels_are_defects_all_of_them(tmp_path, first, second, labels):
    values = painted((first, labels[0]), (second, labels[1]))
    np.testing.assert_array_equal(read(tmp_path, values), first | second)


def test_labels_side_by_side(tmp_path, first):
    values = painted((first, 255))
    values[10:30, 20:25], values[10:30, 25:27] = 85, 170
    np.testing.assert_array_equal(read(tmp_path, values), first)


def test_a_thin_label_beside_a_white_area(tmp_path, first):
    scratch = np.zeros(SHAPE, bool)
    scratch[50, 5:70] = True
    np.testing.assert_array_equal(read(tmp_path, painted((first, 255), (scratch, 127))), first | scratch)


@pytest.mark.parametrize("label", [1, 3])
def test_white_beside_small_labels_is_ignored_and_said(tmp_path, first, label, caplog):
    around = cv2.dilate(first.view(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    np.testing.assert_array_equal(read(tmp_path, painted((around, 255), (first, label))), first)
    read(tmp_path, painted((around, 255), (first, label)), "another.png")
    assert [f"{tmp_path}: 255 beside small labels" in text for text in caplog.messages] == [True]


def test_the_rim_in_a_coloured_palette_is_ignored(tmp_path, first, second):
    around = cv2.dilate(first.view(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    indices = painted((around, 255), (first, 1), (second, 2))
    image = palette_image(indices, {1: (128, 0, 0), 2: (0, 128, 0), 255: (224, 224, 192)})
    np.testing.assert_array_equal(read(tmp_path, image), first | second)


def test_white_beside_traces_of_small_values_is_refused(tmp_path, first):
    values = painted((first, 255))
    values[8, 12:40:3] = 1
    with pytest.raises(DataError, match=r"mask\.png: holds 255 beside values up to 1, .* save it as 8-bit grey PNG"):
        read(tmp_path, values)


def test_soft_edges_are_cut_at_half(tmp_path, first, second):
    large = cv2.resize(painted((first | second, 255)), (333, 257), interpolation=cv2.INTER_NEAREST)
    half = cv2.resize(painted((first, 255)), (39, 31), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(painted((first, 255)), (0, 0), 3)
    for values in (np.array([[0, 100, 127, 128, 255]], np.uint8), half, blurred, cv2.resize(large, (201, 149))):
        np.testing.assert_array_equal(read(tmp_path, values), values > 127)


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_compressed_edges_are_cut_at_half(tmp_path, first, second, quality):
    for values in (painted((first, 255)), painted((first | second, 255))):
        as_jpeg = read(tmp_path, values, "mask.jpg", quality=quality)
        assert (as_jpeg != (values > 127)).mean() < 0.002
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, "JPEG", quality=quality)
        stored = np.asarray(Image.open(buffer))
        np.testing.assert_array_equal(as_jpeg, stored > 127)
        np.testing.assert_array_equal(read(tmp_path, stored), stored > 127)


def test_red_paint_in_a_lossy_file(tmp_path, first):
    read_back = read(tmp_path, painted((first, RED), ground=BLACK), "mask.jpg", quality=90)
    assert (read_back != first).mean() < 0.02


@pytest.mark.parametrize("labels", [(85, 170), (127, 255), (1, 2)])
def test_labels_in_a_lossy_file_are_refused(tmp_path, first, second, labels):
    with pytest.raises(DataError, match=r"mask\.jpg: has a lossy format .* save it as 8-bit grey PNG"):
        read(tmp_path, painted((first, labels[0]), (second, labels[1])), "mask.jpg", quality=95)


def test_a_picture_or_an_anomaly_map_is_no_mask(tmp_path, first, second):
    anomaly_map = cv2.GaussianBlur(painted((first | second, 255)), (0, 0), 8)
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, SHAPE, np.uint8), (0, 0), 4)
    for values in (anomaly_map, picture):
        with pytest.raises(DataError, match=r"mask\.png: holds \d+ values and is neither white on black"):
            read(tmp_path, values)


def test_a_mask_that_marks_nearly_everything_is_refused(tmp_path, first, second):
    nearly_all = np.ones(SHAPE, bool)
    nearly_all[:2] = False
    for mark in (~first, ~(first | second), nearly_all, np.ones(SHAPE, bool)):
        for value in (1, 255):
            with pytest.raises(DataError, match=r"mask\.png: marks \d+% of the image; make good pixels black"):
                read(tmp_path, painted((mark, value)))


def test_a_large_defect_is_not_taken_for_an_inverted_mask(tmp_path):
    mark = np.ones(SHAPE, bool)
    mark[:5] = False
    np.testing.assert_array_equal(read(tmp_path, painted((mark, 255))), mark)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((0, 1), np.uint16),
        ((0, 255), np.uint16),
        ((0, 65535), np.uint16),
        ((0, 4095), np.uint16),
        ((0, 2**31 - 1), np.int32),
        ((0, 1), np.float32),
        ((0, 0.5), np.float32),
        ((0, 255), np.float32),
    ],
)
def test_masks_with_more_than_8_bits(tmp_path, first, values, kind):
    stored = np.where(first, values[1], values[0]).astype(kind)
    np.testing.assert_array_equal(read(tmp_path, stored, "mask.tif"), first)
    if kind == np.uint16:
        np.testing.assert_array_equal(read(tmp_path, stored), first)


def test_labels_with_more_than_8_bits(tmp_path, first, second):
    values = painted((first, 1), (second, 3)).astype(np.uint16)
    np.testing.assert_array_equal(read(tmp_path, values), first | second)
    np.testing.assert_array_equal(read(tmp_path, values.astype(np.float32), "mask.tif"), first | second)
    around = cv2.dilate(first.view(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    ignored = np.where(around & ~first, 65535, values).astype(np.uint16)
    np.testing.assert_array_equal(read(tmp_path, ignored), (first | second))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_values_that_no_mask_has_are_refused(tmp_path, first, value):
    with pytest.raises(DataError, match=r"mask\.tif: has more than 8 bits a value and cannot be read as a mask"):
        read(tmp_path, np.where(first, np.float32(value), np.float32(0)), "mask.tif")


def test_colour_with_16_bits_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "mask.png"), np.full((8, 8, 3), 1, np.uint16))
    with pytest.raises(DataError, match=r"mask\.png: has more than 8 bits"):
        read_mask(tmp_path / "mask.png")


def test_rotation_is_applied(tmp_path, first):
    exif = Image.Exif()
    exif[0x0112] = 6
    np.testing.assert_array_equal(read(tmp_path, painted((first, 255)), exif=exif), np.rot90(first, -1))


def test_what_is_written_is_read(tmp_path, first):
    write_image(tmp_path / "mask.png", first)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), first)


def test_an_inverted_mask_whose_defect_touches_the_border_is_refused(tmp_path):
    mark = np.ones(SHAPE, bool)
    mark[:12, 20:60] = False
    with pytest.raises(DataError, match=r"mask\.png: marks 90% of the image; make good pixels black"):
        read(tmp_path, painted((mark, 255)))


@pytest.mark.parametrize("name", ["mask.tif", "mask.png", "mask.webp"])
def test_a_mask_of_several_pages_is_refused(tmp_path, first, second, name):
    pages = [Image.fromarray(painted((mark, 255))) for mark in (first, second)]
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:], lossless=True)
    with pytest.raises(DataError, match=r"mask\.\w+: has several pages; join them"):
        read_mask(tmp_path / name)
