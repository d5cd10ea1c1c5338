"""Camera bytes to normalised input."""

import pytest
import torch

from prn_fast.kernels.tile_normalize import reference

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
def test_normalised_pixels_follow_the_formula(channels):
    images = torch.randint(0, 256, (2, 5, 7, channels), dtype=torch.uint8)
    normalized = reference.normalize_images(images, MEAN, STD, torch.float64)
    pixels = images.double().expand(2, 5, 7, 3).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    torch.testing.assert_close(normalized, (pixels - mean) / std)
