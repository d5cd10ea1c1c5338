"""uint8 images to normalised channel-first floats.

    x_c = (pixel_c / 255 - mean_c) / std_c

A grey image is seen by the network as three equal channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

NETWORK_CHANNELS = 3


def normalize_images(
    images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Normalise images for the backbone.

    Args:
        images: (N, H, W, C), uint8 (or floats in 0..255), C = 1 or 3 (RGB).
        mean, std: three values each, for pixels in 0..1.
        dtype: of the result.
    Returns:
        (N, 3, H, W).
    """
    if images.shape[-1] != NETWORK_CHANNELS:
        images = images.expand(*images.shape[:-1], NETWORK_CHANNELS)
    # One multiply and one add a pixel: (p / 255 - m) / s = p * 1 / (255 s) - m / s.
    scale = torch.tensor([1.0 / (255.0 * s) for s in std], dtype=dtype, device=images.device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=dtype, device=images.device)
    return (images.to(dtype) * scale + shift).permute(0, 3, 1, 2)
