"""The MVTec AD layout, and every way in which a folder can miss it."""

import shutil

import numpy as np
import pytest

from prn_fast.data.images import write_image
from prn_fast.data.layouts.mvtec import load as load_mvtec
from prn_fast.errors import DataError


def test_a_whole_set(mvtec_root):
    found = load_mvtec(mvtec_root)
    assert found.root == mvtec_root
    assert [sample.path.name for sample in found.train] == ["0.png", "1.png", "2.png"]
    assert {(sample.label, sample.kind, sample.mask) for sample in found.train} == {(0, "good", None)}
    assert [(sample.kind, sample.label) for sample in found.test] == (
        [("good", 0)] * 2 + [("crack", 1)] * 3 + [("stain", 1)] * 2
    )
    assert found.test[2].mask == mvtec_root / "ground_truth" / "crack" / "0_mask.png"


def test_masks_named_as_their_images(mvtec_root):
    mask = mvtec_root / "ground_truth" / "crack" / "0_mask.png"
    mask.rename(mask.with_name("0.png"))
    assert load_mvtec(mvtec_root).test[2].mask == mask.with_name("0.png")


def test_normal_images_alone_are_a_set(mvtec_root):
    shutil.rmtree(mvtec_root / "test")
    shutil.rmtree(mvtec_root / "ground_truth")
    assert load_mvtec(mvtec_root).test == ()


def test_missing_root(tmp_path):
    with pytest.raises(DataError, match="folder not found"):
        load_mvtec(tmp_path / "nowhere")


def test_root_without_training_images(tmp_path):
    with pytest.raises(DataError, match="no folder train/good"):
        load_mvtec(tmp_path)


@pytest.mark.parametrize("folder", ["train/good", "test/good", "test/crack"])
def test_empty_folder(mvtec_root, folder):
    for path in (mvtec_root / folder).iterdir():
        path.unlink()
    with pytest.raises(DataError, match=rf"{folder}: no images"):
        load_mvtec(mvtec_root)


def test_image_without_mask(mvtec_root):
    (mvtec_root / "ground_truth" / "crack" / "1_mask.png").unlink()
    with pytest.raises(DataError, match=r"test/crack/1\.png: no mask for this image; add .*crack/1_mask\.png"):
        load_mvtec(mvtec_root)


def test_no_masks_at_all(mvtec_root):
    shutil.rmtree(mvtec_root / "ground_truth")
    with pytest.raises(DataError, match="no mask for this image"):
        load_mvtec(mvtec_root)


def test_mask_without_image(mvtec_root):
    (mvtec_root / "test" / "crack" / "2.png").unlink()
    with pytest.raises(DataError, match=r"crack/2_mask\.png: no image for this mask"):
        load_mvtec(mvtec_root)


def test_masks_without_their_folder_of_images(mvtec_root):
    shutil.rmtree(mvtec_root / "test" / "stain")
    with pytest.raises(DataError, match=r"stain/0_mask\.png: no image for this mask"):
        load_mvtec(mvtec_root)


def test_two_masks_of_one_image(mvtec_root):
    masks = mvtec_root / "ground_truth" / "crack"
    shutil.copy(masks / "0_mask.png", masks / "0.png")
    with pytest.raises(DataError, match="mask of the same image"):
        load_mvtec(mvtec_root)


def test_mask_of_another_size(mvtec_root):
    write_image(mvtec_root / "ground_truth" / "stain" / "0_mask.png", np.ones((48, 40), bool))
    with pytest.raises(DataError, match=r"mask is 40x48 pixels but its image .*stain/0\.png is 48x40"):
        load_mvtec(mvtec_root)


def test_unreadable_mask(mvtec_root):
    (mvtec_root / "ground_truth" / "stain" / "0_mask.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"0_mask\.png: is damaged"):
        load_mvtec(mvtec_root)
