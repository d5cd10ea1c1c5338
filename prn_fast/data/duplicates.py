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

# Of the magnetic tiles' pairs at or above this, 95 in 100 lie close together in the order in which they were taken, as
# the exposures of one tile do; of all pairs, one in 100 does.
NEAR = 0.9
_SIDE = 48
_BLUR = _SIDE / 6


def near_duplicates(
    candidates: Sequence[Sample], of: Sequence[Sample], others: Sequence[Sample] = ()
) -> tuple[Sample, ...]:
    """Candidates that show the same part as one of `of`.

    Two images are near duplicates where their fingerprints correlate at `NEAR` or above, and better than with any of
    `others`: where a product's parts all look alike, as those of a fixed mould do, likeness alone says nothing.

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
    known = fingerprints(of)
    usual = (fingerprints(others) @ known.T).max(axis=0) if others else np.full(len(of), -1.0, np.float32)
    likeness = fingerprints(candidates) @ known.T
    found = ((likeness >= NEAR) & (likeness > usual)).any(axis=1)
    return tuple(sample for sample, is_near in zip(candidates, found, strict=True) if is_near)


def fingerprints(samples: Sequence[Sample]) -> NDArray[np.float32]:
    """What tells a part from others whatever its light: the image at 48 x 48, grey, less its own blur, of norm 1.

    Args:
        samples: N images of any size.
    Returns:
        float32 (N, 2304), so that a product of two is their correlation; an image without structure is all zero.
    Raises:
        DataError: an unreadable image.
    """
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(_fingerprint, samples)))


def _fingerprint(sample: Sample) -> NDArray[np.float32]:
    small = resize_image(read_image(sample.path, 1), _SIDE)[:, :, 0].astype(np.float32)
    detail = (small - cv2.GaussianBlur(small, (0, 0), _BLUR)).ravel()
    norm = float(np.linalg.norm(detail))
    return detail / norm if norm > 1e-3 else np.zeros_like(detail)
