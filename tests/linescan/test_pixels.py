import numpy as np
import pytest

from prn_fast.linescan.pixels import engine_pixels, mirror_into_holes

RNG = np.random.default_rng(0)


def test_pixels_that_fit_are_not_copied():
    pixels = RNG.integers(0, 255, (8, 12, 1), dtype=np.uint8)
    assert engine_pixels(pixels, "Mono8", 0, 1) is pixels


def test_grey_becomes_three_equal_channels_and_equal_channels_become_grey():
    grey = RNG.integers(0, 255, (8, 12, 1), dtype=np.uint8)
    colour = engine_pixels(grey, "Mono8", 0, 3)
    assert np.array_equal(colour, grey.repeat(3, axis=2))
    assert np.array_equal(engine_pixels(colour, "RGB8", 0, 1), grey)


@pytest.mark.parametrize("pattern", ["RG", "GR", "GB", "BG"])
@pytest.mark.parametrize("first_line", [0, 7])
def test_a_mosaic_of_one_colour_is_that_colour(pattern, first_line):
    colour = {"R": 200, "G": 120, "B": 40}
    patterns = {"RG": ("RG", "GB"), "GR": ("GR", "BG"), "GB": ("GB", "RG"), "BG": ("BG", "GR")}
    lines = [patterns[pattern][(first_line + line) % 2] for line in range(8)]
    mosaic = np.array([[colour[line[x % 2]] for x in range(12)] for line in lines], np.uint8)[:, :, None]
    found = engine_pixels(mosaic, f"Bayer{pattern}8", first_line, 3)
    assert np.array_equal(found, np.full((8, 12, 3), (200, 120, 40), np.uint8))


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        ("0123....", "01233210"),
        ("....4567", "76544567"),
        ("01....67", "01107667"),
        (".1.3..6.", "11133666"),
        ("..2.....", "22222222"),
        ("01......", "01100110"),
        ("01234567", "01234567"),
    ],
)
def test_missing_lines_mirror_the_nearest_received_ones(received, expected):
    missing = np.array([one == "." for one in received])
    pixels = np.arange(8, dtype=np.uint8)[:, None, None].repeat(3, axis=1)
    pixels[missing] = 99
    filled = mirror_into_holes(pixels, missing)
    assert "".join(str(one) for one in filled[:, 0, 0]) == expected
    assert (pixels[missing] == 99).all()


def test_a_strip_without_a_received_line_stays_as_it_is():
    pixels = RNG.integers(0, 255, (4, 5, 1), dtype=np.uint8)
    assert mirror_into_holes(pixels, np.ones(4, bool)) is pixels
    assert mirror_into_holes(pixels, np.zeros(4, bool)) is pixels
