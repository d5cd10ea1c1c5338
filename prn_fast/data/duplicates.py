"""Near duplicates: images of one and the same part, such as another exposure or another crop of it.

A part that training has seen must not be scored, whatever the names of its other pictures.
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
# Fewer images do not show how alike the parts of a product are.
MIN_IMAGES = 20
# Enough to show how alike the parts are; comparing all pairs of more would take long.
_MAX_IMAGES = 1024
# With more near pairs than this, among images that mostly show different parts, likeness does not mean the same part.
_MAX_NEAR_PAIRS = 0.2
# Of the near pairs, no more than this share may come from different parts, by an estimate from above. In known sets it
# is 0 to 0.2 where several pictures show a part (magnetic tiles), and above 1.5 where all parts look alike.
_MAX_BY_CHANCE = 0.5
# If the bands below are empty, at least this many near pairs form a group of their own; fewer may be the few of many
# like parts that were taken in one pose.
_GROUP = 8
# Width of the bands below `NEAR` in which the estimate counts pairs, on the scale of Fisher's z.
_BAND = 0.2
_SIDE = 48
_BLUR = _SIDE / 6
_SHIFT = 2
_WINDOW = _SIDE - 2 * _SHIFT
_MIN_NORM = 1e-3


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is kept of an image, to recognise it and its near duplicates without it.

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


def tells_parts_apart(images: Sequence[Sample | Fingerprint]) -> bool:
    """Whether a likeness of `NEAR` or above means the same part, rather than the same kind of part.

    Where several pictures show a part, their likeness stands apart from that of different parts: it lies above `NEAR`,
    with few pairs just below. Where all parts look alike, as screws in one pose do, the likeness of different parts
    reaches beyond `NEAR`. How many pairs it brings there is estimated from the two bands below, of n1 pairs and, below
    these, n2: on the scale of Fisher's z, where correlations spread like a normal distribution, the tail falls from
    band to band by n1 / n2 or faster, which leaves at most n1 r / (1 - r) beyond, with r = n1 / n2. Since counts vary
    by chance, n1 is raised by one and a standard deviation.

    Args:
        images: of the product's parts, most of different ones; best are normal images, which are all taken alike.
    Returns:
        False also for fewer than `MIN_IMAGES` images.
    Raises:
        DataError: an unreadable image.
    """
    # One of each group of identical files: copies say nothing about likeness.
    prints = list({one.sha256: one for one in fingerprints(images)}.values())
    if len(prints) < MIN_IMAGES:
        return False
    if len(prints) > _MAX_IMAGES:
        # Drawn at random: every n-th image would never include two consecutive pictures of a part.
        chosen = np.sort(np.random.default_rng(0).choice(len(prints), _MAX_IMAGES, replace=False))
        prints = [prints[index] for index in chosen.tolist()]
    pairs = likeness(prints, prints)[np.triu_indices(len(prints), 1)].astype(np.float64)
    z = np.arctanh(np.clip(pairs, -1 + 1e-7, 1 - 1e-7))
    edges = np.arctanh(NEAR) - _BAND * np.array([2, 1, 0])
    below, just_below = np.histogram(z, edges)[0].tolist()
    near = int((pairs >= NEAR).sum())
    if near > _MAX_NEAR_PAIRS * len(pairs):
        return False
    if near == 0 or below == 0:
        return just_below == 0 and (near == 0 or near >= _GROUP)
    count = just_below + 1 + just_below**0.5
    return below > count and count**2 / (below - count) <= _MAX_BY_CHANCE * near


def near_duplicates(
    candidates: Sequence[Sample | Fingerprint],
    of: Sequence[Sample | Fingerprint],
    others: Sequence[Sample | Fingerprint] = (),
    *,
    copies_only: bool = False,
) -> NDArray[np.bool_]:
    """Which candidates show the same part as one of `of`.

    Two images are near duplicates where their likeness is `NEAR` or above, and above that to any of `others`. A copy of
    the file is one in any case. Renamed, encoded again, in other light, or in a crop that differs by a few hundredths
    of the side, a part is found; mirrored, turned, or in a crop that differs by more, it is not.

    Args:
        candidates: N images, or what was kept of them.
        of: images that they may be duplicates of.
        others: images of other parts of the product.
        copies_only: only copies of the file count: for a product whose parts likeness cannot tell apart
            (`tells_parts_apart`).
    Returns:
        bool (N,).
    Raises:
        DataError: an unreadable image.
    """
    if not candidates or not of:
        return np.zeros(len(candidates), np.bool_)
    known, prints = fingerprints(of), fingerprints(candidates)
    copies = np.isin([one.sha256 for one in prints], [one.sha256 for one in known])
    if copies_only:
        return copies
    usual = likeness(others, known).max(axis=0) if others else np.full(len(of), -1.0, np.float32)
    found = likeness(prints, known)
    return np.asarray(copies | ((found >= NEAR) & (found > usual)).any(axis=1), np.bool_)


def group_parts(images: Sequence[Sample | Fingerprint], largest_share: float) -> NDArray[np.intp] | None:
    """Which images show one and the same part: those that a chain of near duplicates joins.

    Args:
        images: N images, most of different parts.
        largest_share: of the images that a part may have, above 0: if a chain joins more, it may join different parts,
            and each image counts as a part of its own.
    Returns:
        (N,), the number of each image's part, 0 to their number less one; None where likeness cannot tell, see
        `tells_parts_apart`.
    Raises:
        DataError: an unreadable image.
    """
    from scipy.sparse.csgraph import connected_components

    prints = fingerprints(images)
    if not tells_parts_apart(prints):
        return None
    _, parts = connected_components(likeness(prints, prints) >= NEAR, directed=False)
    alone = np.arange(len(prints))
    return parts.astype(np.intp) if np.bincount(parts).max() <= max(1.0, largest_share * len(prints)) else alone


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


def fingerprints(images: Sequence[Sample | Fingerprint]) -> list[Fingerprint]:
    """Of each image; those that are fingerprints stay as they are. A DataError for an unreadable image."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda one: one if isinstance(one, Fingerprint) else Fingerprint.of(one), images))


def _details(images: Sequence[Sample | Fingerprint]) -> NDArray[np.float32]:
    pictures = (one.picture.astype(np.float32) for one in fingerprints(images))
    return np.stack([picture - cv2.GaussianBlur(picture, (0, 0), _BLUR) for picture in pictures])


def _unit(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, W, W) to (N, W * W), of mean 0 and norm 1, or all zero without structure."""
    flat = windows.reshape(len(windows), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(norms > _MIN_NORM, flat / np.maximum(norms, _MIN_NORM), 0).astype(np.float32)
