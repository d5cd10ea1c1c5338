"""Objects on a background, and textures that fill the image."""

import cv2
import numpy as np
import pytest

from prn_fast.data.foreground import foreground_mask, random_pixel
from prn_fast.data.synthetic import MATERIALS, render


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [64, 256])
@pytest.mark.parametrize(("background", "body"), [(20, 160), (230, 90)], ids=["dark-belt", "light-table"])
def test_disc_on_a_background(background, body, side, channels):
    disc = np.zeros((side, side), np.uint8)
    cv2.circle(disc, (side // 2, int(0.45 * side)), side // 3, 1, cv2.FILLED)
    noise = np.random.default_rng(0).normal(0, 5, (side, side, channels))
    image = np.clip(np.where(disc[..., None], body, background) + noise, 0, 255).astype(np.uint8)
    assert overlap(foreground_mask(image), disc.astype(bool)) > 0.93


@pytest.mark.parametrize("material", MATERIALS)
@pytest.mark.parametrize("seed", range(3))
def test_built_in_materials(material, seed):
    surface = render(material, 256, np.random.default_rng(seed))
    image = np.clip(surface.picture, 0, 255).astype(np.uint8)
    assert overlap(foreground_mask(image), surface.foreground) > 0.95


@pytest.mark.parametrize("value", [0, 130, 255])
def test_even_image_is_all_foreground(value):
    assert foreground_mask(np.full((128, 128, 1), value, np.uint8)).all()


def test_lighting_that_falls_off_is_not_a_background():
    ramp = np.linspace(30, 220, 256, dtype=np.float32)[None].repeat(256, 0)
    assert foreground_mask(ramp.astype(np.uint8)[..., None]).all()


def test_random_pixel_is_a_marked_one():
    mask = np.zeros((200, 100), bool)
    mask[77, 31] = mask[5, 99] = True
    rng = np.random.default_rng(0)
    assert {random_pixel(mask, rng) for _ in range(40)} == {(77, 31), (5, 99)}
