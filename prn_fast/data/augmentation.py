"""Random changes of a cut-out defect, computed by kornia.

kornia runs on the torch that training needs anyway, and is maintained; albumentations' last free release is not, and
brings a second build of OpenCV. Random values are drawn here, from the item's own generator, so that an item does not
depend on the process or on what was made before it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prn_fast.data.noise import smooth_noise

LARGEST_BEND = 0.05  # share of a cut-out's size
BEND_LUMPS = 3.0  # along each side
GAMMA_SPREAD = 0.15  # standard deviation of log gamma
BLUR_CHANCE, SHARPEN_CHANCE = 0.2, 0.1
BLUR_SIGMA = (0.4, 1.0)  # pixels
_KERNEL = (5, 5)


@dataclass(frozen=True)
class CutOut:
    """A piece of an image with a defect.

    Attributes:
        pixels: uint8 (h, w, C).
        mask: float32 (h, w), 1 on the defect.
        alpha: float32 (h, w), opacity, 0..1.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.float32]
    alpha: NDArray[np.float32]


def warp(cut: CutOut, matrix: NDArray[np.float64], size: tuple[int, int]) -> CutOut:
    """Move pixels from (x, y) to matrix @ (x, y, 1).

    Beyond its border a cut-out's pixels are mirrored; mask and alpha are 0 there.

    Args:
        matrix: (2, 3).
        size: (height, width) of the result.
    """
    from kornia.geometry.transform import warp_affine

    pixels, layers = _tensors(cut)
    wanted = torch.from_numpy(matrix.astype(np.float32))[None]
    return _cut_out(warp_affine(pixels, wanted, size, padding_mode="reflection"), warp_affine(layers, wanted, size))


def bend(cut: CutOut, rng: np.random.Generator) -> CutOut:
    """Bend a cut-out smoothly, by up to about `LARGEST_BEND` of its size."""
    from kornia.geometry.transform import elastic_transform2d

    pixels, layers = _tensors(cut)
    shape = cut.mask.shape
    field = np.stack([smooth_noise(shape, (BEND_LUMPS, BEND_LUMPS), rng) for _ in range(2)])
    # kornia's unit is half the size. The field is smooth already, so its kernel has no visible effect.
    strength = float(rng.uniform(0, LARGEST_BEND))
    bent = elastic_transform2d(
        torch.cat([pixels, layers], dim=1),
        torch.from_numpy(field)[None],
        kernel_size=(3, 3),
        sigma=(1.0, 1.0),
        alpha=(strength, strength),
        align_corners=True,
        padding_mode="border",
    )
    return _cut_out(bent[:, :-2], bent[:, -2:])


def retouch(cut: CutOut, rng: np.random.Generator) -> CutOut:
    """Change the gamma, and sometimes the sharpness, of a cut-out's pixels."""
    from kornia.enhance import adjust_gamma
    from kornia.filters import gaussian_blur2d, unsharp_mask

    pixels, layers = _tensors(cut)
    changed = 255.0 * adjust_gamma(pixels / 255.0, float(np.exp(rng.normal(0, GAMMA_SPREAD))))
    kind, sigma = rng.random(), float(rng.uniform(*BLUR_SIGMA))
    if min(cut.mask.shape) >= max(_KERNEL):
        if kind < BLUR_CHANCE:
            changed = gaussian_blur2d(changed, _KERNEL, (sigma, sigma))
        elif kind < BLUR_CHANCE + SHARPEN_CHANCE:
            changed = unsharp_mask(changed, _KERNEL, (sigma, sigma))
    return _cut_out(changed, layers)


def _tensors(cut: CutOut) -> tuple[Tensor, Tensor]:
    """Pixels (1, C, h, w) and mask and alpha (1, 2, h, w), float32."""
    pixels = torch.from_numpy(np.ascontiguousarray(cut.pixels.transpose(2, 0, 1), np.float32))[None]
    return pixels, torch.from_numpy(np.stack([cut.mask, cut.alpha]))[None]


def _cut_out(pixels: Tensor, layers: Tensor) -> CutOut:
    """The reverse of `_tensors`."""
    rounded = pixels[0].add(0.5).clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
    mask, alpha = layers[0].clamp(0, 1).numpy()
    return CutOut(np.ascontiguousarray(rounded.numpy()), mask, alpha)
