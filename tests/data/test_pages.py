"""Pages of a TIFF."""

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from prn_fast.data.folders import PassedOver
from prn_fast.data.images import write_image
from prn_fast.data.pages import further_pages, read_pages
from prn_fast.errors import DataError


@pytest.fixture
def pages():
    return np.random.default_rng(0).integers(0, 255, (3, 20, 30), np.uint8)


def save(path, images, **options):
    first, *rest = (one if isinstance(one, Image.Image) else Image.fromarray(one) for one in images)
    first.save(path, save_all=True, append_images=rest, **options)


def test_every_page_is_read(tmp_path, pages):
    save(tmp_path / "a.tif", pages, compression="tiff_lzw")
    read = list(read_pages(tmp_path / "a.tif", 1))
    np.testing.assert_array_equal(np.stack(read)[..., 0], pages)
    assert [one.shape for one in read_pages(tmp_path / "a.tif", 3)] == [(20, 30, 3)] * 3
    assert [one.why for one in further_pages([tmp_path / "a.tif"])] == ["further page"] * 2


def test_other_images_have_one_page(tmp_path, pages):
    write_image(tmp_path / "a.png", pages[0])
    write_image(tmp_path / "b.tif", pages[1])
    assert [len(list(read_pages(tmp_path / name, 1))) for name in ("a.png", "b.tif")] == [1, 1]
    assert list(further_pages([tmp_path / "a.png", tmp_path / "b.tif"])) == []


def test_an_image_of_another_format_under_the_name_of_a_tiff_has_one_page(tmp_path, pages):
    write_image(tmp_path / "a.png", pages[0])
    (tmp_path / "a.png").rename(tmp_path / "a.tif")
    assert len(list(read_pages(tmp_path / "a.tif", 1))) == 1
    assert list(further_pages([tmp_path / "a.tif"])) == []


def test_every_page_is_turned_upright(tmp_path, pages):
    save(tmp_path / "a.tif", pages, tiffinfo={0x0112: 6})
    turned = [np.rot90(page, -1) for page in pages]
    np.testing.assert_array_equal(np.stack(list(read_pages(tmp_path / "a.tif", 1)))[..., 0], turned)


def test_thumbnails_and_masks_are_no_pages(tmp_path, pages):
    images = [Image.fromarray(pages[0]), Image.fromarray(pages[1, ::2, ::2].copy()), Image.fromarray(pages[2])]
    for image, kind in zip(images, (0, 1, 2), strict=True):
        directory = TiffImagePlugin.ImageFileDirectory_v2()
        directory[254] = kind
        image.encoderinfo = {"tiffinfo": directory}
    save(tmp_path / "a.tif", images)
    np.testing.assert_array_equal([one[..., 0] for one in read_pages(tmp_path / "a.tif", 1)], pages[[0, 2]])


def test_a_page_of_another_kind_is_refused(tmp_path, pages):
    save(tmp_path / "a.tif", [pages[0], pages[1].astype(np.uint16) * 100])
    with pytest.raises(DataError, match=r"a\.tif: page 2 is stored in another way than page 1"):
        list(read_pages(tmp_path / "a.tif", 1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kept", range(700, 1900, 37))
def test_a_file_cut_short_is_an_error_and_no_fewer_pages(tmp_path, pages, kept):
    path = tmp_path / "a.tif"
    save(path, pages)
    content = path.read_bytes()
    assert len(content) > 1900
    path.write_bytes(content[:kept])
    with pytest.raises(DataError, match=r"a\.tif"):
        list(read_pages(path, 1))
    assert list(further_pages([path]))


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_further_frames_of_an_animation_are_named(tmp_path, suffix):
    frames = [Image.fromarray(np.full((16, 16, 3), level, np.uint8)) for level in (10, 90, 200)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    (tmp_path / f"b{suffix}").write_bytes(b"torn")
    found = list(further_pages([tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"]))
    assert found == [PassedOver(tmp_path / f"a{suffix}", "further frame")] * 2
