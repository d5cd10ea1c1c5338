"""Near duplicates: images of one and the same part, such as another exposure or another crop of it.

A part that training has seen must not be scored, under whatever name its other pictures are filed.
"""

import base64
import functools
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

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


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is kept of an image, so that it and its near duplicates are known again without it.

    Attributes:
        sha256: of the file, hex.
        picture: uint8 (48, 48), grey.
    """

    sha256: str
    picture: NDArray[np.uint8]

    @classmethod
    def of(cls, sample: Sample) -> Self:
        """Of an image file; a DataError if it cannot be read."""
        picture = resize_image(read_image(sample.path, 1), _SIDE)[:, :, 0]
        return cls(hashlib.sha256(sample.path.read_bytes()).hexdigest(), picture)

    def to_dict(self) -> dict[str, str]:
        """JSON-ready: the picture's rows in base64."""
        return {"sha256": self.sha256, "picture": base64.b64encode(self.picture.tobytes()).decode()}

    @classmethod
    def from_dict(cls, values: dict[str, str]) -> Self:
        """Inverse of `to_dict`."""
        pixels = np.frombuffer(base64.b64decode(values["picture"]), np.uint8)
        return cls(values["sha256"], pixels.reshape(_SIDE, _SIDE))


def near_duplicates(
    candidates: Sequence[Sample], of: Sequence[Sample | Fingerprint], others: Sequence[Sample] = ()
) -> tuple[Sample, ...]:
    """Candidates that show the same part as one of `of`.

    Two images are near duplicates where their likeness is `NEAR` or above, and above that to any of `others`: where a
    product's parts all look alike, as those of one mould do, likeness alone says nothing. A copy of the file is one in
    any case. Renamed, encoded again, in other light, or in a crop that differs by a few hundredths of the side, a part
    is found; mirrored, turned, or in a crop that differs by more, it is not.

    Args:
        candidates: images to choose from.
        of: images that they may be duplicates of, or what was kept of them.
        others: images of other parts of the product.
    Returns:
        Those found, in the order of `candidates`.
    Raises:
        DataError: an unreadable image.
    """
    if not candidates or not of:
        return ()
    known = _fingerprints(of)
    usual = likeness(others, known).max(axis=0) if others else np.full(len(of), -1.0, np.float32)
    prints = _fingerprints(candidates)
    found = likeness(prints, known)
    copies = np.isin([one.sha256 for one in prints], [one.sha256 for one in known])
    near = np.flatnonzero(copies | ((found >= NEAR) & (found > usual)).any(axis=1))
    return tuple(candidates[index] for index in near.tolist())


def group_parts(samples: Sequence[Sample], largest_share: float) -> NDArray[np.intp]:
    """Which images show one and the same part: those that a chain of near duplicates joins.

    Where a product's parts all look alike, likeness would join them all and says nothing: if a group holds more than
    `largest_share` of the images, each image counts as a part of its own.

    Args:
        samples: N images.
        largest_share: of the images that a part may have, above 0.
    Returns:
        (N,), the number of each image's part, 0 to their number less one.
    Raises:
        DataError: an unreadable image.
    """
    from scipy.sparse.csgraph import connected_components

    alone = np.arange(len(samples))
    if not samples:
        return alone
    prints = _fingerprints(samples)
    _, parts = connected_components(likeness(prints, prints) >= NEAR, directed=False)
    return parts.astype(np.intp) if np.bincount(parts).max() <= max(1.0, largest_share * len(samples)) else alone


def likeness(images: Sequence[Sample | Fingerprint], of: Sequence[Sample | Fingerprint]) -> NDArray[np.float32]:
    """How much images look alike, whatever the light and a small difference in their crop.

    Each image is taken at 48 x 48, grey, less its own blur. The likeness of two is their correlation, the largest over
    shifts by up to 2 pixels.

    Args:
        images, of: N and M images of any size, none of them empty.
    Returns:
        float32 (N, M), -1..1; 0 where one of the two has no structure.
    Raises:
        DataError: an unreadable image.
    """
    details, known = _details(images), _details(of)
    centres = _unit(details[:, _SHIFT : _SHIFT + _WINDOW, _SHIFT : _SHIFT + _WINDOW])
    shifts = [(down, right) for down in range(2 * _SHIFT + 1) for right in range(2 * _SHIFT + 1)]
    return functools.reduce(
        np.maximum,
        (centres @ _unit(known[:, down : down + _WINDOW, right : right + _WINDOW]).T for down, right in shifts),
    )


def _fingerprints(images: Sequence[Sample | Fingerprint]) -> list[Fingerprint]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda one: one if isinstance(one, Fingerprint) else Fingerprint.of(one), images))


def _details(images: Sequence[Sample | Fingerprint]) -> NDArray[np.float32]:
    pictures = (one.picture.astype(np.float32) for one in _fingerprints(images))
    return np.stack([picture - cv2.GaussianBlur(picture, (0, 0), _BLUR) for picture in pictures])


def _unit(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, W, W) to (N, W * W), of mean 0 and norm 1, or all zero without structure."""
    flat = windows.reshape(len(windows), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(norms > _LEAST_NORM, flat / np.maximum(norms, _LEAST_NORM), 0).astype(np.float32)
