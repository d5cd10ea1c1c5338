"""A built-in inspection set: seeded pictures of surfaces with defects, for demonstrations and tests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from prn_fast.data.images import write_image
from prn_fast.data.noise import fractal_noise, normalised, smooth_noise
from prn_fast.data.samples import GOOD
from prn_fast.errors import ConfigError, DataError

Field = NDArray[np.float32]  # (S, S)
Picture = NDArray[np.float32]  # (S, S, 3), grey levels 0..255
Mask = NDArray[np.bool_]  # (S, S)

_DRAWS = 100
_MIN_PIXELS = 12
_MIN_CHANGE = 8  # grey levels, mean over the mask


@dataclass(frozen=True)
class Surface:
    """A rendered surface without defects.

    Attributes:
        picture: what the camera sees, RGB.
        foreground: where the object is; all True where the material fills the picture.
        beneath: what shows where material is missing: the threads below, or the background.
        pitch: distance of threads in pixels; 0 where there are none.
    """

    picture: Picture
    foreground: Mask
    beneath: Picture
    pitch: float = 0.0


def write_synthetic_surfaces(
    root: Path | str,
    seed: int = 0,
    side: int = 256,
    train: int = 120,
    good: int = 40,
    defects: int = 60,
    materials: Sequence[str] = (),
) -> Path:
    """Write a set of PNG images in the layout that `load_mvtec` reads.

    Args:
        root: folder to make; it must not hold a set already.
        seed: same arguments, same pixels.
        side: image side in pixels, at least 64.
        train: normal training images.
        good: normal test images.
        defects: anomalous test images, spread evenly over materials and their kinds of defect.
        materials: names from `MATERIALS`, which take turns; empty means all.
    Returns:
        root.
    Raises:
        ConfigError: an unknown material, or a number that cannot work.
        DataError: the folder has a train, test or ground_truth folder already.
    """
    root = Path(root)
    materials = tuple(materials) or tuple(MATERIALS)
    unknown = sorted(set(materials) - set(MATERIALS))
    if unknown:
        raise ConfigError(f"unknown material {', '.join(unknown)}; choose from {', '.join(MATERIALS)}")
    if side < 64 or train < 1 or min(good, defects) < 0:
        raise ConfigError("side must be at least 64, train at least 1, good and defects at least 0")
    for name in ("train", "test", "ground_truth"):
        if (root / name).exists():
            raise DataError(f"{root / name}: exists already; remove it or choose another folder")

    for part, count, stream in (("train", train, 0), ("test", good, 1)):
        if count:
            folder = root / part / GOOD
            folder.mkdir(parents=True)
        for index in range(count):
            material = materials[index % len(materials)]
            rng = np.random.default_rng((seed, stream, index))
            write_image(folder / f"{index:03d}_{material}.png", _as_bytes(render(material, side, rng).picture))
    plan = [(material, kind) for material in materials for kind in MATERIALS[material].defects]
    # Materials take turns, so that any number of images is spread over them.
    plan.sort(key=lambda pair: MATERIALS[pair[0]].defects.index(pair[1]))
    for index in range(defects):
        material, kind = plan[index % len(plan)]
        rng = np.random.default_rng((seed, 2, index))
        picture, mask = add_defect(render(material, side, rng), kind, rng)
        for folder in (root / "test" / kind, root / "ground_truth" / kind):
            folder.mkdir(parents=True, exist_ok=True)
        write_image(root / "test" / kind / f"{index:03d}_{material}.png", _as_bytes(picture))
        write_image(root / "ground_truth" / kind / f"{index:03d}_{material}_mask.png", mask)
    return root


def render(material: str, side: int, rng: np.random.Generator) -> Surface:
    """One normal surface of a material in `MATERIALS`."""
    return MATERIALS[material].render(side, rng)


def add_defect(surface: Surface, kind: str, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """Put one defect of a kind in `DEFECTS` on a surface; its mask marks at least 12 pixels, all in the foreground."""
    for _ in range(_DRAWS):
        picture, drawn = DEFECTS[kind](surface, rng)
        mask = drawn & surface.foreground
        change = np.abs(picture - surface.picture).max(axis=2)
        # A defect that fell mostly outside the object, or that does not show, is drawn again.
        if mask.sum() >= max(_MIN_PIXELS, 0.7 * drawn.sum()) and change[mask].mean() > _MIN_CHANGE:
            return np.where(surface.foreground[..., None], picture, surface.picture), mask
    raise DataError(f"no {kind} of a visible size in {_DRAWS} draws; choose a larger side than {len(surface.picture)}")


def _as_bytes(picture: Picture) -> NDArray[np.uint8]:
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


# Materials


def _brushed_metal(side: int, rng: np.random.Generator) -> Surface:
    """Rolled steel: fine streaks along one direction, an even sheen across."""
    streaks = smooth_noise((side, side), (3, side / 1.5), rng) * 7 + smooth_noise((side, side), (12, side), rng) * 6
    lanes = smooth_noise((side, side), (1, 14), rng) * 4
    tone = 150 + rng.uniform(-8, 8) + streaks + lanes + _sheen(side, 22, rng)
    picture = _lit(tone, (0.99, 1.0, 1.02), rng)
    return _filling(picture)


def _cast_iron(side: int, rng: np.random.Generator) -> Surface:
    """Sand-cast metal: grains lit from one side."""
    height = fractal_noise((side + 2, side + 2), (side / 12, side / 12), 3, rng, gain=0.7)
    relief = normalised(height[2:, 2:] - height[:-2, :-2])
    tone = 96 + rng.uniform(-6, 6) + 13 * relief + _sheen(side, 12, rng)
    return _filling(_lit(tone, (1.0, 1.0, 1.03), rng))


def _woven_fabric(side: int, rng: np.random.Generator) -> Surface:
    """Plain weave: warp threads (upright) and weft threads (across) take turns on top."""
    pitch = side / 32
    y, x = np.indices((side, side), np.float32)
    phase = rng.uniform(0, pitch, 2)
    u = (x + phase[0] + 1.2 * smooth_noise((side, side), (3, 3), rng)) / pitch
    v = (y + phase[1] + 1.2 * smooth_noise((side, side), (3, 3), rng)) / pitch
    warp, weft = np.abs(np.sin(np.pi * u)) ** 0.6, np.abs(np.sin(np.pi * v)) ** 0.6
    warp_above = (np.floor(u) + np.floor(v)) % 2 == 0
    shade = np.where(warp_above, warp * (0.75 + 0.25 * weft), weft * (0.7 + 0.25 * warp))
    fibres = smooth_noise((side, side), (side / 2, side / 2), rng) * 6
    thread = 14 * smooth_noise((side, side), (1, 32), rng) * warp_above * 0.4
    light = 1 + _sheen(side, 0.06, rng)
    blue = np.array([92, 118, 160], np.float32) * rng.uniform(0.96, 1.04)
    picture = ((0.35 + 0.75 * shade) * light)[..., None] * blue + (fibres + thread)[..., None]
    gap = ((0.2 + 0.6 * weft * (0.8 + 0.2 * ~warp_above)) * light)[..., None] * blue + fibres[..., None]
    return Surface(_noisy(picture, rng), np.ones((side, side), bool), gap.astype(np.float32), pitch)


def _wood(side: int, rng: np.random.Generator) -> Surface:
    """Planed wood: year rings cut lengthwise, with pores along the grain."""
    x = np.linspace(0, 1, side, dtype=np.float32)
    bend = 0.10 * smooth_noise((side, side), (1.2, 2.5), rng) + 0.012 * smooth_noise((side, side), (2, 14), rng)
    rings = (x + bend) * rng.uniform(11, 15) + rng.uniform(0, 1)
    saw = rings - np.floor(rings)
    early = np.clip(saw / 0.8, 0, 1) ** 2 * np.clip((1 - saw) / 0.12, 0, 1)
    pores = smooth_noise((side, side), (side / 14, side / 1.3), rng)
    pores = np.clip(pores - 0.9, 0, None) * 26
    fine = smooth_noise((side, side), (5, side / 2), rng) * 4
    tone = 1 - 0.20 * early[..., None] * np.array([0.75, 1.0, 1.25], np.float32)
    colour = np.array([196, 152, 104], np.float32) * rng.uniform(0.95, 1.05)
    picture = colour * tone + (fine - pores + _sheen(side, 8, rng))[..., None]
    return _filling(_noisy(picture, rng))


def _machined_ring(side: int, rng: np.random.Generator) -> Surface:
    """A turned metal ring on a dark belt: an object with background."""
    y, x = np.indices((side, side), np.float32)
    centre = side / 2 + rng.uniform(-0.03, 0.03, 2) * side
    dy, dx = y - centre[0], x - centre[1]
    radius = np.sqrt(dy**2 + dx**2) / side
    outer, inner = 0.41, 0.19
    edge = 1.2 / side
    inside = np.clip((outer - radius) / edge, 0, 1) * np.clip((radius - inner) / edge, 0, 1)
    belt = 30 + 3 * smooth_noise((side, side), (side / 3, side / 3), rng) + 3 * smooth_noise((side, side), (3, 3), rng)
    turning = _along_radius(radius, side / 1.6, rng) * 9
    # A lathe's grooves throw light back in two opposite fans.
    angle = np.arctan2(dy, dx)
    fan = np.cos(2 * (angle - rng.uniform(0, np.pi))) * 0.5 + np.cos(4 * (angle - rng.uniform(0, np.pi))) * 0.2
    chamfer = 34 * np.exp(-(((radius - outer + 0.012) / 0.007) ** 2))
    chamfer -= 30 * np.exp(-(((radius - inner - 0.010) / 0.007) ** 2))
    tone = 146 + 26 * fan + turning + chamfer
    beneath = _lit(belt, (0.95, 1.0, 1.0), rng)
    metal = _lit(tone.astype(np.float32), (1.03, 1.0, 0.93), rng)
    picture = beneath + inside[..., None] * (metal - beneath)
    return Surface(picture.astype(np.float32), inside > 0.5, beneath)


def _along_radius(radius: Field, rings: float, rng: np.random.Generator) -> Field:
    profile = rng.standard_normal(int(rings) + 2).astype(np.float32)
    return np.interp(radius, np.linspace(0, 0.75, len(profile)), profile).astype(np.float32)


def _filling(picture: Picture) -> Surface:
    """A material that fills the picture; what is missing from it shows as a dark hollow."""
    return Surface(picture, np.ones(picture.shape[:2], bool), picture * 0.25)


def _sheen(side: int, strength: float, rng: np.random.Generator) -> Field:
    """Light that varies slowly: a slope and a soft hump."""
    y, x = np.indices((side, side), np.float32) / side - 0.5
    slope = rng.uniform(-1, 1, 2)
    return strength * (slope[0] * x + slope[1] * y + 0.4 * smooth_noise((side, side), (1, 1), rng)).astype(np.float32)


def _lit(tone: Field, colour: tuple[float, float, float], rng: np.random.Generator) -> Picture:
    return _noisy(tone[..., None] * np.array(colour, np.float32), rng)


def _noisy(picture: NDArray, rng: np.random.Generator) -> Picture:
    """Add the sensor's noise."""
    return picture.astype(np.float32) + 2 * rng.standard_normal(picture.shape, np.float32)


# Defects


def _scratch(surface: Surface, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A furrow: a bright lip beside a dark groove, fading in and out."""
    side = len(surface.picture)
    heading = rng.uniform(0, 2 * np.pi)
    path = _path(_start(surface, rng), heading, side * rng.uniform(0.12, 0.4), rng.uniform(0.005, 0.03), rng)
    width = side / 256 * rng.uniform(1.2, 2.4)
    groove = _stroke(side, path, width) * _fading(side, path)
    lip = _stroke(side, path + width * np.array([-np.sin(heading), np.cos(heading)]), width) * _fading(side, path)
    strength = rng.uniform(35, 75)
    picture = surface.picture - (strength * groove)[..., None] + (strength * lip * (1 - groove))[..., None]
    return picture, np.maximum(groove, lip) > 0.35


def _crack(surface: Surface, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A dark jagged line with branches, widest where it began."""
    side = len(surface.picture)
    start, heading = _start(surface, rng), rng.uniform(0, 2 * np.pi)
    trunk = _path(start, heading, side * rng.uniform(0.2, 0.5), 0.35, rng)
    width = side / 256 * rng.uniform(1.3, 2.6)
    line = _stroke(side, trunk[: len(trunk) // 2 + 1], width)
    line = np.maximum(line, _stroke(side, trunk[len(trunk) // 2 :], 0.7 * width))
    for _ in range(rng.integers(0, 3)):
        fork = trunk[rng.integers(len(trunk) // 3, len(trunk))]
        branch = _path(
            fork, heading + rng.choice((-1, 1)) * rng.uniform(0.4, 1.0), side * rng.uniform(0.05, 0.15), 0.35, rng
        )
        line = np.maximum(line, _stroke(side, branch, 0.6 * width))
    depth = rng.uniform(0.55, 0.85)
    return surface.picture * (1 - depth * line)[..., None], line > 0.35


def _hole(surface: Surface, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A blowhole or pit: dark, with a lit far edge."""
    side = len(surface.picture)
    radius = side / 256 * np.exp(rng.uniform(np.log(2.5), np.log(9)))
    distance = _ragged_disc(surface, radius, 0.18, rng)
    inside = np.clip(0.5 - distance, 0, 1)
    shifted = np.roll(distance, (1 + round(radius / 6),) * 2, (0, 1))
    lit = np.clip(0.5 - shifted, 0, 1) * (1 - inside)
    dark = surface.picture * rng.uniform(0.2, 0.4)
    picture = surface.picture + inside[..., None] * (dark - surface.picture) + (45 * lit)[..., None]
    return picture, inside > 0.4


def _stain(surface: Surface, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A dried drop: a tint, strongest at its rim, that leaves the structure visible."""
    side = len(surface.picture)
    radius = side * rng.uniform(0.05, 0.17)
    distance = _ragged_disc(surface, radius, 0.22, rng)
    inside = np.clip(0.5 - distance / 2, 0, 1)
    rim = np.exp(-((distance / (1.5 + radius / 12)) ** 2)) * inside
    tint = np.array([0.86, 0.74, 0.55], np.float32) if rng.random() < 0.6 else np.array([0.72, 0.72, 0.74], np.float32)
    strength = rng.uniform(0.5, 1.0) * inside * (0.8 + 0.15 * smooth_noise((side, side), (8, 8), rng)) + 0.3 * rim
    return surface.picture * (1 + strength[..., None] * (tint - 1)), distance < 0


def _missing_thread(surface: Surface, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A warp thread that broke: over some length only the weft shows."""
    side = len(surface.picture)
    pitch = surface.pitch
    threads = int(rng.integers(1, 3))
    left = pitch * int(rng.integers(2, int(side / pitch) - 3))
    top, length = rng.uniform(0, 0.6) * side, rng.uniform(0.2, 0.5) * side
    y, x = np.indices((side, side), np.float32)
    sway = 1.0 * smooth_noise((side, side), (3, 1), rng)
    band = np.clip(0.5 + threads * pitch / 2 - np.abs(x - left - threads * pitch / 2 + sway), 0, 1)
    band *= np.clip(0.5 + length / 2 - np.abs(y - top - length / 2), 0, 1)
    picture = surface.picture + band[..., None] * (surface.beneath - surface.picture)
    return picture, band > 0.5


def _chip(surface: Surface, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A piece broken off at the outline of the object, with a bright fracture around the gap."""
    side = len(surface.picture)
    outline = surface.foreground & ~cv2.erode(surface.foreground.view(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    radius = side * rng.uniform(0.025, 0.07)
    distance = _ragged_disc(surface, radius, 0.25, rng, centre=_pick(outline, rng))
    gone = np.clip(0.5 - distance, 0, 1)
    fracture = np.clip(0.5 - (distance - 1 - radius / 6), 0, 1) * (1 - gone)
    grain = 30 * smooth_noise((side, side), (side / 3, side / 3), rng)
    picture = surface.picture + fracture[..., None] * (185 + grain[..., None] - surface.picture)
    picture += gone[..., None] * (surface.beneath - picture)
    return picture, (np.maximum(gone, fracture) > 0.5) & surface.foreground


def _fibre(surface: Surface, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """Contamination: a coloured hair lying on the surface, with its shadow."""
    side = len(surface.picture)
    path = _path(_start(surface, rng), rng.uniform(0, 2 * np.pi), side * rng.uniform(0.2, 0.5), 0.18, rng)
    width = side / 256 * rng.uniform(1.2, 2.2)
    hair, shadow = _stroke(side, path, width), _stroke(side, path + width, width)
    colours = ((150, 40, 40), (40, 110, 60), (235, 230, 215), (25, 25, 30))
    colour = np.array(colours[rng.integers(len(colours))], np.float32)
    picture = surface.picture * (1 - 0.35 * shadow)[..., None]
    return picture + 0.9 * hair[..., None] * (colour - picture), hair > 0.35


def _pick(mask: Mask, rng: np.random.Generator) -> NDArray[np.float64]:
    """(x, y) of a random marked pixel."""
    marked = np.flatnonzero(mask)
    y, x = divmod(int(marked[rng.integers(marked.size)]), mask.shape[1])
    return np.array([x, y], float)


def _start(surface: Surface, rng: np.random.Generator) -> NDArray[np.float64]:
    """(x, y) on the object, away from the picture's border."""
    inner = np.zeros_like(surface.foreground)
    margin = len(inner) // 8
    inner[margin:-margin, margin:-margin] = surface.foreground[margin:-margin, margin:-margin]
    return _pick(inner, rng)


def _ragged_disc(
    surface: Surface,
    radius: float,
    raggedness: float,
    rng: np.random.Generator,
    centre: NDArray[np.float64] | None = None,
) -> Field:
    """Distance in pixels to the outline of a roundish patch, negative inside."""
    side = len(surface.picture)
    x0, y0 = _start(surface, rng) if centre is None else centre
    y, x = np.indices((side, side), np.float32)
    stretch, turn = np.exp(rng.normal(0, 0.2)), rng.uniform(0, np.pi)
    along = (x - x0) * np.cos(turn) + (y - y0) * np.sin(turn)
    across = (y - y0) * np.cos(turn) - (x - x0) * np.sin(turn)
    cells = max(2.0, 1.2 * side / radius)
    lumps = fractal_noise((side, side), (cells, cells), 2, rng)
    return (np.hypot(along / stretch, across * stretch) - radius * (1 + raggedness * lumps)).astype(np.float32)


def _path(
    start: NDArray[np.float64], heading: float, length: float, wander: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Points (n, 2) as (x, y), about 4 pixels apart; the heading changes at random."""
    steps = max(4, int(length / 4))
    headings = heading + np.cumsum(rng.normal(0, wander, steps))
    return start + np.cumsum(length / steps * np.column_stack([np.cos(headings), np.sin(headings)]), axis=0)


def _stroke(side: int, path: NDArray[np.float64], width: float) -> Field:
    """Coverage 0..1 of a line with a width that need not be whole."""
    scale = 4
    canvas = np.zeros((side * scale, side * scale), np.uint8)
    points = np.round((path + 0.5) * scale).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(canvas, [points], False, 255, max(1, round(width * scale)))
    return np.asarray(cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA), np.float32) / np.float32(255)


def _fading(side: int, path: NDArray[np.float64]) -> Field:
    """1 around the middle of a path, falling towards its ends."""
    y, x = np.indices((side, side), np.float32)
    middle, reach = path[len(path) // 2], np.linalg.norm(path[-1] - path[0]) / 2 + 1
    return np.clip(1.6 - 1.4 * np.hypot(x - middle[0], y - middle[1]) / reach, 0.25, 1).astype(np.float32)


@dataclass(frozen=True)
class Material:
    """How a material is rendered, and which defects it has."""

    render: Callable[[int, np.random.Generator], Surface]
    defects: tuple[str, ...]


DEFECTS: dict[str, Callable[[Surface, np.random.Generator], tuple[Picture, Mask]]] = {
    "scratch": _scratch,
    "crack": _crack,
    "hole": _hole,
    "stain": _stain,
    "fibre": _fibre,
    "missing_thread": _missing_thread,
    "chip": _chip,
}

MATERIALS: dict[str, Material] = {
    "brushed_metal": Material(_brushed_metal, ("scratch", "stain", "hole")),
    "cast_iron": Material(_cast_iron, ("hole", "crack", "scratch")),
    "woven_fabric": Material(_woven_fabric, ("missing_thread", "stain", "hole", "fibre")),
    "wood": Material(_wood, ("crack", "stain", "scratch", "hole")),
    "machined_ring": Material(_machined_ring, ("chip", "scratch", "crack", "fibre")),
}
