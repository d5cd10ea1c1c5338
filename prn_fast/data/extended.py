"""Extended anomalies: real defects of a few seen images, cut out and pasted into normal ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from prn_fast.data.augmentation import CutOut, bend, retouch, warp
from prn_fast.data.foreground import random_pixel
from prn_fast.errors import ConfigError

_MIN_PIXELS = 4
_PLACES_TRIED = 6


@dataclass(frozen=True)
class _Region(CutOut):
    """One defect with some of its surroundings, cut from a seen image; alpha falls from 1 on it to 0 around it."""

    centre: tuple[float, float]  # (y, x) in the seen image, in shares of its height and width
    reach: int  # pixels from the defect to where alpha is 0
    touches: tuple[tuple[bool, ...], tuple[bool, ...]]  # the seen image's (top, bottom), (left, right) border


class SeenRegions:
    """The defects of the seen images, ready to be pasted.

    Args:
        seen: pairs of an anomalous image uint8 (S, S, C) and its mask bool (S, S).
        augment: change each defect a little before it is pasted; otherwise only its brightness is adapted to the place.
    Raises:
        ConfigError: a mask that does not fit its image, or that marks nothing.
    """

    def __init__(self, seen: Sequence[tuple[NDArray[np.uint8], NDArray[np.bool_]]], augment: bool = True) -> None:
        self._images = [_cut(image, mask) for image, mask in seen]
        self._augment = augment

    def __bool__(self) -> bool:
        return bool(self._images)

    def paste(
        self, image: NDArray[np.uint8], foreground: NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]] | None:
        """Paste one seen defect, changed a little, at a place inside the foreground.

        Augmented, the defect is mirrored, turned, scaled, bent, and changed in gamma, sharpness and contrast. Its
        surroundings are brought to the brightness of the place it goes to, so that the border of the paste does not
        show.

        Returns:
            the image and the mask, or None where no tried place has room for the drawn defect.
        """
        regions = self._images[rng.integers(len(self._images))]
        region = regions[rng.integers(len(regions))]
        changed = _augmented(region, rng) if self._augment else region
        for _ in range(_PLACES_TRIED):
            centre = _place(changed, foreground, rng)
            pasted = _pasted(image, foreground, changed, centre, rng if self._augment else None)
            if pasted is not None:
                return pasted
        return None


def _cut(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> list[_Region]:
    """Regions of one seen image; parts of a defect that lie close together stay together."""
    if image.shape[:2] != mask.shape:
        raise ConfigError(f"seen image {image.shape} and its mask {mask.shape} differ in size")
    if not mask.any():
        raise ConfigError("the mask of a seen anomaly marks nothing")
    side = max(mask.shape)
    reach = max(3, side // 32) | 1
    joined = cv2.dilate(mask.astype(np.uint8), np.ones((reach, reach), np.uint8))
    count, labels = cv2.connectedComponents(joined)
    regions = []
    for label in range(1, count):
        part = mask & (labels == label)
        rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
        # Small defects are cut with little of their surroundings, large ones with a wider seam.
        seam = int(np.clip(0.12 * np.sqrt(part.sum()), 2, side / 32))
        margin = 2 * seam + 2
        window = (
            slice(max(0, rows[0] - margin), rows[-1] + 1 + margin),
            slice(max(0, columns[0] - margin), columns[-1] + 1 + margin),
        )
        cut = part[window].astype(np.float32)
        grown = cv2.dilate(cut, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * seam + 1,) * 2))
        alpha = np.maximum(cut, cv2.blur(grown, (2 * seam + 1,) * 2))
        centre = ((rows[0] + rows[-1]) / 2 / mask.shape[0], (columns[0] + columns[-1]) / 2 / mask.shape[1])
        touches = (_touched(rows, mask.shape[0]), _touched(columns, mask.shape[1]))
        regions.append(_Region(np.ascontiguousarray(image[window]), cut, alpha, centre, 2 * seam, touches))
    return regions


def _touched(marked: NDArray[np.intp], size: int) -> tuple[bool, bool]:
    """Whether a region's first and last row (or column) lie on the image's border."""
    near = size / 64
    return bool(marked[0] <= near), bool(marked[-1] >= size - 1 - near)


def _augmented(region: _Region, rng: np.random.Generator) -> _Region:
    """Mirror, turn, scale, bend and retouch."""
    height, width = region.mask.shape
    at_border = any(map(any, region.touches))
    # Surfaces have a grain: small turns keep a defect's real look, free ones add variety.
    angle = rng.normal(0, 2 if at_border else 8)
    if not at_border and rng.random() < 0.3:
        angle = rng.uniform(-180, 180)
    scale = np.exp(rng.normal(0, 0.2))
    if any(map(all, region.touches)):
        scale = max(scale, 1.03)  # from border to border it stays
    mirror_y, mirror_x = rng.choice((-1, 1), 2)
    touches = (region.touches[0][::mirror_y], region.touches[1][::mirror_x])
    turn = np.deg2rad(angle)
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = linear @ np.diag([mirror_x, mirror_y])
    extent = np.abs(linear) @ (width, height)
    new_width, new_height = (int(np.ceil(v)) + 2 for v in extent)
    shift = np.array([new_width / 2, new_height / 2]) - linear @ np.array([width / 2, height / 2])
    matrix = np.column_stack([linear, shift])
    cut = warp(region, matrix, (new_height, new_width))
    if not at_border:
        cut = bend(cut, rng)  # the straight cut of the image's border stays straight
    cut = retouch(cut, rng)
    return _Region(cut.pixels, cut.mask, cut.alpha, region.centre, int(np.ceil(scale * region.reach)), touches)


def _place(region: _Region, foreground: NDArray[np.bool_], rng: np.random.Generator) -> tuple[int, int]:
    """(y, x) of the centre: half of the time near the place where the defect was seen, otherwise anywhere.

    A defect that the border of its image cut off is put at a border again: elsewhere the cut would show as a straight
    edge.
    """
    height, width = foreground.shape
    if rng.random() < 0.5:
        y, x = np.array(region.centre) + rng.normal(0, 0.08, 2)
        place = [int(np.clip(y, 0, 0.999) * height), int(np.clip(x, 0, 0.999) * width)]
    else:
        place = list(random_pixel(foreground, rng))
    for axis, (size, extent) in enumerate(zip(foreground.shape, region.mask.shape, strict=True)):
        beyond = 2 + round(0.04 * region.mask.shape[1 - axis])  # hides the slant that a small turn gives the cut
        match region.touches[axis]:
            case (True, True):
                place[axis] = size // 2
            case (True, False):
                place[axis] = extent // 2 - beyond
            case (False, True):
                place[axis] = size - extent + extent // 2 + beyond
    return place[0], place[1]


def _pasted(
    image: NDArray[np.uint8],
    foreground: NDArray[np.bool_],
    region: _Region,
    centre: tuple[int, int],
    rng: np.random.Generator | None,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]] | None:
    height, width = region.mask.shape
    top, left = centre[0] - height // 2, centre[1] - width // 2
    bottom, right = min(top + height, image.shape[0]), min(left + width, image.shape[1])
    target = (slice(max(top, 0), bottom), slice(max(left, 0), right))
    source = (slice(max(-top, 0), bottom - top), slice(max(-left, 0), right - left))

    inside = foreground[target]
    marked = (region.mask[source] > 0.5) & inside
    count = int(np.count_nonzero(marked))
    if count < max(_MIN_PIXELS, 0.6 * np.count_nonzero(region.mask > 0.5)):
        return None
    alpha = region.alpha[source] * inside
    if count < np.count_nonzero(region.mask > 0.5):
        # If part of the defect falls outside, its soft surroundings there go too.
        near = np.ones((2 * region.reach + 1,) * 2, np.uint8)
        alpha *= cv2.dilate(marked.view(np.uint8), near)
    below = image[target].astype(np.float32)
    defect = _fitted(region.pixels[source].astype(np.float32), below, region.mask[source], alpha, rng)

    result = image.copy()
    result[target] = np.clip(below + alpha[..., None] * (defect - below) + 0.5, 0, 255).astype(np.uint8)
    mask = np.zeros(foreground.shape, bool)
    mask[target] = marked
    return result, mask


def _fitted(
    defect: NDArray[np.float32],
    below: NDArray[np.float32],
    mask: NDArray[np.float32],
    alpha: NDArray[np.float32],
    rng: np.random.Generator | None,
) -> NDArray[np.float32]:
    """Bring the defect's surroundings to the brightness below them, smoothly across the whole region.

    With `rng`, the defect's contrast is changed a little, too.
    """
    seam = ((alpha > 0.02) & (mask < 0.1)).astype(np.float32)
    total = float(seam.sum())
    if total < 1:
        return defect
    source_mean = (defect * seam[..., None]).sum((0, 1)) / total
    target_mean = (below * seam[..., None]).sum((0, 1)) / total
    # A defect on a darker surface is fainter, as its surroundings are.
    contrast = np.clip((target_mean.mean() + 8) / (source_mean.mean() + 8), 0.5, 1.6)
    if rng is not None:
        contrast *= np.exp(rng.normal(0, 0.15))
    defect = (defect - source_mean) * contrast + target_mean
    # What still differs along the seam varies slowly: spread it over the region by normalised blurring.
    small = (min(24, seam.shape[1]), min(24, seam.shape[0]))
    gap = cv2.resize((below - defect) * seam[..., None], small, interpolation=cv2.INTER_AREA)
    gap = gap.reshape(small[1], small[0], -1)
    weight = cv2.resize(seam, small, interpolation=cv2.INTER_AREA)
    sigma = max(small) / 5
    spread = cv2.GaussianBlur(gap, (0, 0), sigma).reshape(gap.shape)
    spread = spread / (cv2.GaussianBlur(weight, (0, 0), sigma)[..., None] + 1e-3 * weight.max() + 1e-6)
    return defect + cv2.resize(spread, seam.shape[::-1], interpolation=cv2.INTER_LINEAR).reshape(defect.shape)
