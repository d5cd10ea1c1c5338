"""Simulated anomalies: a noise-shaped place in a normal image, filled with something that does not belong there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from prn_fast.data.foreground import random_pixel
from prn_fast.data.noise import fractal_noise, smooth_noise

FillSource = Literal["tone", "textures", "image"]
FILL_SOURCES: tuple[FillSource, ...] = get_args(FillSource)
# How often each source fills a small anomaly and a large one; unused sources leave their share to the others.
_SMALL_FILLS: dict[FillSource, float] = {"tone": 0.75, "textures": 0.1, "image": 0.15}
_LARGE_FILLS: dict[FillSource, float] = {"tone": 0.4, "textures": 0.45, "image": 0.15}

# Shares of the image that an anomaly covers, drawn on a logarithmic scale: blowholes are as likely as stains.
MIN_SHARE, MAX_SHARE = 0.0005, 0.3
# Share of a side of the image that another tool or another light covers.
MIN_BAND_SHARE, MAX_BAND_SHARE = 0.05, 0.6
_MIN_PIXELS = 6
# Mean change over the mask, in grey levels, below which the anomaly could not be seen.
_MIN_CHANGE = 6.0
_LARGE_SHARE = 0.02
_SMALL_PIXELS = 200


@dataclass(frozen=True)
class _Place:
    """Where an anomaly lies: a window of the image, and in it the mask and its softened opacity."""

    window: tuple[slice, slice]
    mask: NDArray[np.bool_]  # (h, w)
    alpha: NDArray[np.float32]  # (h, w), 0..1


def simulate(
    image: NDArray[np.uint8],
    foreground: NDArray[np.bool_],
    textures: Sequence[NDArray[np.uint8]],
    rng: np.random.Generator,
    sources: Sequence[FillSource] = FILL_SOURCES,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Make one simulated anomaly.

    Its shape is noise scattered over the whole image, one compact blob, a thin line, or a band: all on one side of a
    nearly straight border, or between two. Its filling is a change of the image's tone ("tone"), a texture ("textures")
    or a piece of the image itself ("image"); the latter two are blended with random opacity. An anomaly that would be
    too faint to see becomes a change of tone.

    Args:
        image: normal image uint8 (S, S, C).
        foreground: bool (S, S), not empty; the anomaly lies inside it.
        textures: uint8 images (h, w, C).
        rng: source of all draws.
        sources: of the filling, one or more.
    Returns:
        the image and the mask, never empty.
    """
    area = image.shape[0] * image.shape[1] * np.exp(rng.uniform(np.log(MIN_SHARE), np.log(MAX_SHARE)))
    kind = rng.random()
    if kind < 0.3:
        place = _line(foreground, rng)
    elif kind < 0.4:
        place = _band(foreground, rng)
    elif kind < 0.55 and area > _LARGE_SHARE / 4 * foreground.size:
        place = _scattered(foreground, area, rng)
    else:
        place = _blob(foreground, area, rng)

    below = image[place.window].astype(np.float32)
    filling = _filling(image, below, place, textures, rng, sources)
    result = image.copy()
    result[place.window] = _blended(below, filling, place, rng)
    mask = np.zeros(foreground.shape, bool)
    mask[place.window] = place.mask
    return result, mask


# Places


def _scattered(foreground: NDArray[np.bool_], area: float, rng: np.random.Generator) -> _Place:
    """Everything above a level of noise, over the whole image; the level gives the area."""
    shape = foreground.shape
    cells = np.exp2(rng.uniform(1, 5.5, 2))
    field = smooth_noise(shape, (cells[0], cells[1]), rng)
    lump = min(shape) / (2 * cells.max())
    return _softened((slice(0, shape[0]), slice(0, shape[1])), _highest(field, foreground, area), lump, rng)


def _blob(foreground: NDArray[np.bool_], area: float, rng: np.random.Generator) -> _Place:
    """One spot with a ragged outline: noise on a hill, cut at the level that gives the area."""
    y, x = random_pixel(foreground, rng)
    stretch = np.exp(rng.normal(0, 0.4))
    turn = rng.uniform(0, np.pi)
    radius = np.sqrt(area / np.pi)
    axes = radius * np.array([stretch, 1 / stretch])
    reach_y, reach_x = (
        int(np.ceil(2.2 * np.hypot(axes[0] * a, axes[1] * b))) + 2
        for a, b in ((np.sin(turn), np.cos(turn)), (np.cos(turn), np.sin(turn)))
    )
    window = _window(y, x, reach_y, reach_x, foreground.shape)
    inside = foreground[window]
    v = np.arange(window[0].start - y, window[0].stop - y, dtype=np.float32)[:, None]
    u = np.arange(window[1].start - x, window[1].stop - x, dtype=np.float32)[None]
    along, across = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
    hill = -np.sqrt((along / axes[0]) ** 2 + (across / axes[1]) ** 2)
    raggedness = rng.uniform(0.05, 0.5)
    lumps = rng.uniform(2, 7)
    cells = (max(1.0, lumps * inside.shape[0] / (2 * reach_y)), max(1.0, lumps * inside.shape[1] / (2 * reach_x)))
    field = hill + raggedness * fractal_noise(inside.shape, cells, 3, rng, gain=0.6)
    return _softened(window, _highest(field, inside, area), float(axes.min()), rng)


def _band(foreground: NDArray[np.bool_], rng: np.random.Generator) -> _Place:
    """All on one side of a nearly straight border, up to the image's end, or a stripe between two of them."""
    height, width = foreground.shape
    share = np.exp(rng.uniform(np.log(MIN_BAND_SHARE), np.log(MAX_BAND_SHARE)))
    # Most borders run along the image's axes, as a part's sides and its machining do.
    heading = rng.integers(4) * np.pi / 2 + rng.normal(0, 0.04) if rng.random() < 0.8 else rng.uniform(0, 2 * np.pi)
    v = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    u = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None]
    across = np.float32(np.cos(heading)) * u + np.float32(np.sin(heading)) * v
    if rng.random() < 0.3:
        across = -np.abs(across - np.float32(rng.uniform(-0.4, 0.4)))
    waviness = np.float32(np.exp(rng.uniform(np.log(0.003), np.log(0.04))))
    field = across + waviness * fractal_noise(foreground.shape, (4.0, 4.0), 3, rng)
    mask = _highest(field, foreground, share * np.count_nonzero(foreground))
    return _softened((slice(0, height), slice(0, width)), mask, min(height, width) / 8, rng)


def _line(foreground: NDArray[np.bool_], rng: np.random.Generator) -> _Place:
    """A crack or scratch: a wandering path, thin, sometimes with a branch."""
    shape = foreground.shape
    side = min(shape)
    y, x = random_pixel(foreground, rng)
    canvas = np.zeros(shape, np.uint8)
    # Half of the lines run along the image's axes, as the marks of machining and of a grain do.
    heading = rng.integers(4) * np.pi / 2 + rng.normal(0, 0.06) if rng.random() < 0.5 else rng.uniform(0, 2 * np.pi)
    length = side * np.exp(rng.uniform(np.log(0.05), np.log(0.8)))
    wander = rng.choice((0.02, 0.15, 0.35))
    width = side / 256 * np.exp(rng.uniform(np.log(0.8), np.log(3.5)))
    path = _wandering((x, y), heading, length, wander, rng)
    _draw(canvas, path, width)
    if len(path) > 4 and wander > 0.1 and rng.random() < 0.4:
        fork = int(rng.integers(1, len(path) - 1))
        turn = rng.choice((-1, 1)) * rng.uniform(0.3, 1.0)
        branch = _wandering(tuple(path[fork]), heading + turn, length * rng.uniform(0.2, 0.5), wander, rng)
        _draw(canvas, branch, width * 0.7)
    x0, y0, w, h = cv2.boundingRect(canvas)
    window = (slice(max(0, y0 - 2), y0 + h + 2), slice(max(0, x0 - 2), x0 + w + 2))
    strength = canvas[window] * foreground[window]
    mask = strength > 100
    if np.count_nonzero(mask) < _MIN_PIXELS:
        return _blob(foreground, MIN_SHARE * foreground.size, rng)
    return _Place(window, mask, strength.astype(np.float32) / np.float32(255))


def _wandering(
    start: tuple[float, float], heading: float, length: float, wander: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Points (n, 2) as (x, y) along a path whose heading changes at random."""
    steps = max(2, int(length / 5))
    headings = heading + np.cumsum(rng.normal(0, wander, steps))
    moves = length / steps * np.column_stack([np.cos(headings), np.sin(headings)])
    return np.vstack([start, start + np.cumsum(moves, axis=0)])


def _draw(canvas: NDArray[np.uint8], path: NDArray[np.float64], width: float) -> None:
    points = np.round(path * 16).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(canvas, [points], False, 255, max(1, round(width)), cv2.LINE_AA, shift=4)


def _highest(field: NDArray[np.float32], inside: NDArray[np.bool_], area: float) -> NDArray[np.bool_]:
    """The highest values of a field inside a region, as many as the area."""
    values = field[inside]
    count = int(np.clip(round(area), _MIN_PIXELS, values.size))
    level = np.partition(values, values.size - count)[values.size - count]
    return (field >= level) & inside


def _softened(window: tuple[slice, slice], mask: NDArray[np.bool_], radius: float, rng: np.random.Generator) -> _Place:
    """Give the mask an edge from sharp to as soft as a fifth of the radius of its parts."""
    reach = int(min(rng.uniform(1, 2 + 0.2 * radius), 12))
    alpha = cv2.blur(mask.astype(np.float32), (2 * reach + 1,) * 2)
    return _Place(window, mask, np.minimum(1.0, 1.2 * alpha))


def _window(y: int, x: int, reach_y: int, reach_x: int, shape: tuple[int, int]) -> tuple[slice, slice]:
    return (
        slice(max(0, y - reach_y), min(shape[0], y + reach_y + 1)),
        slice(max(0, x - reach_x), min(shape[1], x + reach_x + 1)),
    )


# Fillings


def _filling(
    image: NDArray[np.uint8],
    below: NDArray[np.float32],
    place: _Place,
    textures: Sequence[NDArray[np.uint8]],
    rng: np.random.Generator,
    sources: Sequence[FillSource],
) -> NDArray[np.float32]:
    """What the anomaly shows, float32 (h, w, C); opacity is included."""
    large = np.count_nonzero(place.mask) > _LARGE_SHARE * image.shape[0] * image.shape[1]
    shares = _LARGE_FILLS if large else _SMALL_FILLS
    used = [source for source in FILL_SOURCES if source in sources]
    ends = np.cumsum([shares[source] for source in used])
    kind = used[int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))]
    if kind == "tone":
        return _toned(below, place, rng)
    source = textures[int(rng.integers(len(textures)))] if kind == "textures" else image
    patch = _crop(source, below.shape[:2], rng)
    opacity = rng.uniform(0.25, 1.0)
    return below + opacity * (_jittered(patch, rng) - below)


def _toned(below: NDArray[np.float32], place: _Place, rng: np.random.Generator) -> NDArray[np.float32]:
    """The image itself, darker or brighter, from barely visible to strong, with some of its structure lost."""
    mean, least = _visibility(below, place)
    strongest = 120.0 if np.count_nonzero(place.mask) < _SMALL_PIXELS else 70.0
    change = np.exp(rng.uniform(np.log(least), np.log(max(strongest, 2 * least))))
    sign = -1.0 if rng.random() < 0.6 else 1.0
    if sign < 0 and mean < 1.2 * least:
        sign = 1.0
    tint = 1 + rng.normal(0, rng.choice((0.05, 0.3)), below.shape[2]) if below.shape[2] > 1 else np.ones(1)
    kept = rng.uniform(0.3, 1.0)
    return mean + kept * (below - mean) + (sign * change * tint).astype(np.float32)


def _crop(source: NDArray[np.uint8], shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """A random piece of an image at the wanted size, at one to two times its own scale, mirrored at random."""
    scale = rng.uniform(1, 2)
    height, width = (max(1, min(int(n / scale), m)) for n, m in zip(shape, source.shape[:2], strict=True))
    top, left = rng.integers(source.shape[0] - height + 1), rng.integers(source.shape[1] - width + 1)
    rows, columns = rng.choice((-1, 1), 2)
    piece = np.ascontiguousarray(source[top : top + height, left : left + width][::rows, ::columns])
    resized = cv2.resize(piece, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return resized.reshape(*shape, -1).astype(np.float32)


def _jittered(patch: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Contrast, brightness and, in colour, the balance and order of the channels changed at random."""
    mean = float(patch.mean())
    changed = (patch - mean) * rng.uniform(0.5, 1.5) + mean + rng.uniform(-50, 50)
    if patch.shape[2] > 1:
        changed = changed[:, :, rng.permutation(patch.shape[2])] * rng.uniform(0.8, 1.2, patch.shape[2])
    return changed.astype(np.float32)


def _blended(
    below: NDArray[np.float32], filling: NDArray[np.float32], place: _Place, rng: np.random.Generator
) -> NDArray[np.uint8]:
    change = place.alpha[..., None] * (filling - below)
    blended = np.clip(below + change, 0, 255)
    marked = place.mask.view(np.uint8)
    changed = float(np.mean(cv2.mean(cv2.absdiff(blended, below), mask=marked)[: below.shape[2]]))
    mean, least = _visibility(below, place)
    if changed < least:
        # Away from the nearer end of the scale, where there is room.
        sign = 1.0 if mean < 100 else -1.0
        blended = np.clip(below + sign * place.alpha[..., None] * rng.uniform(2, 4) * least, 0, 255)
    return (blended + 0.5).astype(np.uint8)


def _visibility(below: NDArray[np.float32], place: _Place) -> tuple[float, float]:
    """Mean of the pixels below the anomaly, and the change in grey levels that can be seen on their texture."""
    mean, deviation = (float(v.mean()) for v in cv2.meanStdDev(below, mask=place.mask.view(np.uint8)))
    # A large patch stands out from a texture by less than a small one.
    factor = 1.2 if np.count_nonzero(place.mask) < _SMALL_PIXELS else 0.5
    return mean, max(_MIN_CHANGE, factor * deviation)
