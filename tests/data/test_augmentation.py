"""Cut-outs are warped as a matrix says, bent a little, and retouched where their pixels are."""

import cv2
import numpy as np
import pytest

from prn_fast.data.augmentation import LARGEST_BEND, CutOut, bend, retouch, warp
from prn_fast.data.noise import smooth_noise


def cut_out(channels: int = 1, shape: tuple[int, int] = (41, 57), seed: int = 0) -> CutOut:
    """A smooth surface with an ellipse on it."""
    rng = np.random.default_rng(seed)
    layers = [128 + 40 * smooth_noise(shape, (4, 4), rng) for _ in range(channels)]
    mask = np.zeros(shape, np.uint8)
    cv2.ellipse(mask, (shape[1] // 2, shape[0] // 2), (shape[1] // 4, shape[0] // 5), 0, 0, 360, 1, -1)
    alpha = cv2.blur(cv2.dilate(mask, np.ones((5, 5), np.uint8)).astype(np.float32), (5, 5))
    return CutOut(np.clip(np.stack(layers, -1), 0, 255).astype(np.uint8), mask.astype(np.float32), alpha)


@pytest.mark.parametrize("channels", [1, 3])
def test_warp_moves_pixels_as_opencv_does(channels):
    cut = cut_out(channels)
    matrix = np.array([[0.9, -0.3, 12.4], [-0.25, 1.1, 9.7]])
    warped = warp(cut, matrix, (60, 70))
    assert warped.pixels.shape == (60, 70, channels)
    assert warped.pixels.dtype == np.uint8
    expected = cv2.warpAffine(cut.pixels, matrix, (70, 60), borderMode=cv2.BORDER_REFLECT_101).reshape(60, 70, channels)
    # OpenCV rounds positions to a 32nd of a pixel.
    assert np.abs(warped.pixels.astype(int) - expected).max() <= 3
    for mine, theirs in ((warped.mask, cut.mask), (warped.alpha, cut.alpha)):
        np.testing.assert_allclose(mine, cv2.warpAffine(theirs, matrix, (70, 60)), atol=0.07)


def test_a_cut_out_that_is_not_moved_stays():
    cut = cut_out(3)
    same = warp(cut, np.eye(2, 3), cut.mask.shape)
    np.testing.assert_array_equal(same.pixels, cut.pixels)
    np.testing.assert_allclose(same.mask, cut.mask, atol=1e-4)
    np.testing.assert_allclose(same.alpha, cut.alpha, atol=1e-4)


def test_bending_moves_everything_alike_and_not_far():
    cut = cut_out(shape=(96, 96))
    # A defect that is as bright as its mask: bent, it must still be.
    marked = CutOut((255 * cut.mask).astype(np.uint8)[..., None], cut.mask, cut.alpha)
    moved = 0.0
    for seed in range(20):
        bent = bend(marked, np.random.default_rng(seed))
        np.testing.assert_allclose(bent.pixels[..., 0] / 255, bent.mask, atol=0.01)
        reach = 2 * int(np.ceil(2.5 * LARGEST_BEND * 96 / 2)) + 1
        near = cv2.dilate(cut.mask, np.ones((reach, reach), np.uint8))
        assert not (bent.mask > 0)[near == 0].any()
        moved = max(moved, float(np.abs(bent.mask - cut.mask).mean()))
    assert moved > 0.01


def test_retouching_changes_pixels_alone():
    cut = cut_out(3)
    changed = []
    for seed in range(30):
        result = retouch(cut, np.random.default_rng(seed))
        np.testing.assert_array_equal(result.mask, cut.mask)
        np.testing.assert_array_equal(result.alpha, cut.alpha)
        changed.append(result.pixels.astype(float).mean() - cut.pixels.mean())
    assert min(changed) < -5
    assert max(changed) > 5


def test_a_cut_out_smaller_than_a_kernel_is_retouched_too():
    small = cut_out(1, (3, 4))
    for seed in range(20):
        assert retouch(small, np.random.default_rng(seed)).pixels.shape == (3, 4, 1)


@pytest.mark.parametrize("change", [bend, retouch])
def test_same_draws_same_change(change):
    cut = cut_out(3)
    first, second = (change(cut, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first.pixels, second.pixels)
    np.testing.assert_array_equal(first.mask, second.mask)
