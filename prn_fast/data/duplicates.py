"""Near duplicates: images of one and the same part, such as another exposure or another crop of it.

A part that training has seen must not be scored, under whatever name its other pictures are filed.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from numpy.typing import NDArray

from prn_fast.data.images import read_image, resize_image
from prn_fast.data.samples import Sample

# Of the magnetic tiles' pairs at or above this, 97 in 100 lie close together in the order in which they were taken, as
# the exposures of one tile do; of all pairs, one in 100 does.
NEAR = 0.9
_SIDE = 48
_BLUR = _SIDE / 6
_SHIFT = 2
_WINDOW = _SIDE - 2 * _SHIFT
_LEAST_NORM = 1e-3


def near_duplicates(
    candidates: Sequence[Sample], of: Sequence[Sample], others: Sequence[Sample] = ()
) -> tuple[Sample, ...]:
    """Candidates that show the same part as one of `of`.

    Two images are near duplicates where their likeness is `NEAR` or above, and above that to any of `others`: where a
    product's parts all look alike, as those of one mould do, likeness alone says nothing.

    Args:
        candidates: images to choose from.
        of: images that they may be duplicates of.
        others: images of other parts of the product.
    Returns:
        Those found, in the order of `candidates`.
    Raises:
        DataError: an unreadable image.
    """
    if not candidates or not of:
        return ()
    usual = likeness(others, of).max(axis=0) if others else np.full(len(of), -1.0, np.float32)
    found = likeness(candidates, of)
    near = np.flatnonzero(((found >= NEAR) & (found > usual)).any(axis=1))
    return tuple(candidates[index] for index in near.tolist())


def likeness(samples: Sequence[Sample], of: Sequence[Sample]) -> NDArray[np.float32]:
    """How much images look alike, whatever the light and a small difference in their crop.

    Each image is taken at 48 x 48, grey, less its own blur. The likeness of two is their correlation, the largest over
    shifts by up to 2 pixels.

    Args:
        samples, of: N and M images of any size, none of them empty.
    Returns:
        float32 (N, M), -1..1; 0 where one of the two has no structure.
    Raises:
        DataError: an unreadable image.
    """
    details, known = _details(samples), _details(of)
    centres = _unit(details[:, _SHIFT : _SHIFT + _WINDOW, _SHIFT : _SHIFT + _WINDOW])
    shifts = [(down, right) for down in range(2 * _SHIFT + 1) for right in range(2 * _SHIFT + 1)]
    return np.max(
        [centres @ _unit(known[:, down : down + _WINDOW, right : right + _WINDOW]).T for down, right in shifts], axis=0
    )


def _details(samples: Sequence[Sample]) -> NDArray[np.float32]:
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(_detail, samples)))


def _detail(sample: Sample) -> NDArray[np.float32]:
    small = resize_image(read_image(sample.path, 1), _SIDE)[:, :, 0].astype(np.float32)
    return np.asarray(small - cv2.GaussianBlur(small, (0, 0), _BLUR), np.float32)


def _unit(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, W, W) to (N, W * W), of mean 0 and norm 1, or all zero without structure."""
    flat = windows.reshape(len(windows), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(norms > _LEAST_NORM, flat / np.maximum(norms, _LEAST_NORM), 0).astype(np.float32)
