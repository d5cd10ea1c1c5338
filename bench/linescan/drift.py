"""Does drift show in time, and only then? A lamp fades over a web of good tiles, and a web that nothing happens to.

    python -m prn_fast.bench.linescan.drift PACKAGE --material brushed_metal --json FILE
    python -m prn_fast.bench.linescan.drift PACKAGE --good DIR --json FILE

The webs are made of good tiles that training has not seen, drawn surfaces or real images: each tile is one of them at
random, mirrored at random, times the light of the lamp, with the noise of a camera. Those that are run through the
network (`--run`, `--scored`) are measured; longer webs are drawn from these: a tile of the fading web from those at its
light, one of the unchanged web from those at full light.

What passes is compared with three references: the one in the package, one as `prn-calibrate` makes it of good tiles of
this line, and the line's own first tiles.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.arguments import positive, whole
from prn_fast.bench.machine.measurement import Measurement, add_record_options
from prn_fast.bench.report.markdown import table
from prn_fast.data.images import read_image, resize_image
from prn_fast.data.synthetic import MATERIALS, render
from prn_fast.drift import QUANTITIES, SCORE, WINDOW, Distribution, DriftMonitor, Reference, image_figures
from prn_fast.engine import open_engine
from prn_fast.engine.base import Engine, is_defective
from prn_fast.engine.parity import score_kind
from prn_fast.errors import ConfigError, PRNError
from prn_fast.package import Package
from prn_fast.training.conformal import conformal_threshold, default_rate

Tiles = NDArray[np.uint8]  # (N, S, S, C)
Figures = NDArray[np.float64]  # (N, 3): score, brightness, contrast

FADED, TILES, UNCHANGED, RUN, SCORED = 0.3, 10_000, 100_000, 10_000, 3000
CALIBRATING, SURFACES = 100, 1000
# Standard deviation of the camera's noise, grey levels.
NOISE = 1.5
# Neighbouring tiles, of those run while the lamp faded, that have nearly the same light.
SAME_LIGHT = 50
# Steps of light in the record, and quantiles of the measured figures in each.
STEPS, QUANTILES = 20, 51
_BATCH = 8


@dataclass(frozen=True, eq=False)
class Line:
    """What a network makes of a web.

    Attributes:
        calibrating: of good tiles that set threshold and reference.
        unchanged: of tiles at full light.
        fading: of tiles while the lamp fades evenly, in their order.
    """

    calibrating: Figures
    unchanged: Figures
    fading: Figures


# -- the web ---------------------------------------------------------------------------------------------------------


def drawn_surfaces(material: str, side: int, channels: int, count: int, seed: int = 0) -> Tiles:
    """Good surfaces of a material of `prn_fast.data.synthetic`.

    Raises:
        ConfigError: an unknown material.
    """
    if material not in MATERIALS:
        raise ConfigError(f"unknown material {material}; choose one of {', '.join(MATERIALS)}")
    tiles = np.empty((count, side, side, channels), np.uint8)
    for number in range(count):
        # Of no seed that `write_synthetic_surfaces` takes.
        picture = render(material, side, np.random.default_rng((seed, 9, number))).picture
        tiles[number] = np.rint(picture if channels == 3 else picture.mean(axis=2, keepdims=True)).clip(0, 255)
    return tiles


def good_images(folder: Path, side: int, channels: int) -> Tiles:
    """The images in a folder, as the network gets them.

    Raises:
        DataError, ConfigError: none, or one that cannot be read.
    """
    from prn_fast.data.folders import find_images

    return np.stack([resize_image(read_image(path, channels), side) for path in find_images(folder).images])


def web(tiles: Tiles, light: NDArray[np.float64], seed: int) -> Iterator[Tiles]:
    """Batches of a web: tiles drawn at random and seen by the camera in the light (N,) of each."""
    drawn = np.random.default_rng(seed).integers(len(tiles), size=len(light))
    return seen_by_camera(tiles, drawn, light, seed)


def seen_by_camera(tiles: Tiles, numbers: NDArray[np.int64], light: NDArray[np.float64], seed: int) -> Iterator[Tiles]:
    """Batches of the tiles of these numbers (N,): mirrored at random, times the light (N,) of each, with noise."""
    rng = np.random.default_rng((seed, 1))
    # Drawn once, and read from another place for each tile: a camera's noise is what takes longest to draw.
    noise = rng.normal(0, NOISE, 2 * tiles[0].size).astype(np.float32)
    for start in range(0, len(numbers), _BATCH):
        seen = tiles[numbers[start : start + _BATCH]].astype(np.float32)
        for axis in (1, 2):
            turned = rng.random(len(seen)) < 0.5
            seen[turned] = np.flip(seen[turned], axis)
        seen *= light[start : start + _BATCH, None, None, None]
        for one, place in zip(seen, rng.integers(tiles[0].size, size=len(seen)), strict=True):
            one += noise[place : place + one.size].reshape(one.shape)
        yield np.rint(seen).clip(0, 255).astype(np.uint8)


def measure_line(
    engine: Engine, tiles: Tiles, light: NDArray[np.float64], scored: int, calibrating: int, seed: int
) -> Line:
    """Run the network on a web. The tiles that calibrate are others than those that the web is made of, each of them
    seen once by the same camera.

    Args:
        tiles: good ones, in random order.
        light: of each tile of the fading web, 1 at full light.
        scored: tiles at full light.
        calibrating: tiles that set threshold and reference.
    """
    if not 1 <= calibrating < len(tiles):
        raise ConfigError(f"{calibrating} of {len(tiles)} tiles cannot calibrate with some left for the web")

    def measured(batches: Iterator[Tiles]) -> Figures:
        parts = []
        for batch in batches:
            figures = image_figures(engine.infer(batch).raw_scores, batch)
            parts.append(np.stack([figures[name] for name in QUANTITIES], axis=1))
        return np.concatenate(parts)

    first, others = tiles[:calibrating], tiles[calibrating:]
    return Line(
        measured(seen_by_camera(first, np.arange(calibrating), np.ones(calibrating), seed)),
        measured(web(others, np.ones(scored), seed + 1)),
        measured(web(others, light, seed + 2)),
    )


def drawn_web(fading: Figures, tiles: int, seed: int) -> Figures:
    """A web of any number of tiles drawn from fewer measured ones: each is one of those at its light."""
    if tiles == len(fading):
        return fading
    places = np.arange(tiles) * len(fading) // tiles
    moved = places + np.random.default_rng(seed).integers(-SAME_LIGHT // 2, SAME_LIGHT // 2, size=tiles)
    return fading[np.clip(moved, 0, len(fading) - 1)]


# -- what is seen ------------------------------------------------------------------------------------------------------


def first_tiles(monitor: DriftMonitor, figures: Figures, step: int = 25) -> dict[str, int]:
    """The number of tiles after which each state was seen first."""
    first: dict[str, int] = {}
    for start in range(0, len(figures), step):
        state = monitor.add(figures[start : start + step]).state
        first.setdefault(str(state), min(start + step, len(figures)))
    return first


def doubled(alarms: NDArray[np.bool_], rate: float) -> int | None:
    """The first tile from which on false alarms are twice as many as a rate says; None where they never are.

    Their expected rate is taken never to fall while the lamp fades: the isotonic fit to what was counted. A window
    would have twice as many by chance sooner or later.
    """
    from sklearn.isotonic import IsotonicRegression

    fit = IsotonicRegression().fit_transform(np.arange(len(alarms)), alarms.astype(float))
    # The last tiles alone would form a rate of their own, from too few tiles to mean anything.
    found = np.flatnonzero(fit[: len(fit) - WINDOW // 10] >= 2 * rate)
    return int(found[0]) if len(found) else None


def study_line(
    line: Line, faded: float, package_reference: Reference | None, kind: str, tiles: int, unchanged: int, seed: int
) -> dict[str, Any]:
    """What the drift class says of a measured line, against each reference; JSON-ready.

    Args:
        faded: share of the light that is gone at the end.
        kind: of the scores, see `score_kind`.
        tiles, unchanged: of the webs that are watched.
    """
    web = drawn_web(line.fading, tiles, seed)
    scores = line.calibrating[:, QUANTITIES.index(SCORE)]
    rate = default_rate(len(scores))
    threshold = conformal_threshold(scores, rate)
    base = is_defective(line.unchanged[:, 0], threshold)
    alarms = is_defective(web[:, 0], threshold)
    # None of n that gave a false alarm does not mean that none ever will: the rate is that of the next tile.
    twice = doubled(alarms, (base.sum() + 1) / (len(base) + 1))
    own = Reference(
        len(scores), kind, {name: Distribution.of(line.calibrating[:, i]) for i, name in enumerate(QUANTITIES)}
    )
    references = {"calibration with tiles of the line": own, "first tiles of the line": None}
    if package_reference is not None:
        references = {"package": package_reference, **references}
    drawn = np.random.default_rng(seed).integers(len(line.unchanged), size=unchanged)
    watched = []
    for name, reference in references.items():
        monitor = DriftMonitor(reference, kind)
        fading = first_tiles(monitor, web)
        steady = first_tiles(DriftMonitor(reference, kind), line.unchanged[drawn], step=100)
        watched.append(
            {
                "reference": name,
                "images": None if reference is None else reference.images,
                "fading": fading,
                "in_time": "act" in fading and (twice is None or fading["act"] < twice),
                "reason": monitor.drift.reason,
                "unchanged": steady,
            }
        )
    edges = np.linspace(0, tiles, STEPS + 1).astype(int)
    return {
        "threshold": threshold,
        "promised_rate": rate,
        "false_alarm_rate": float(base.mean()),
        "doubled": twice,
        "last_false_alarm_rate": float(alarms[-WINDOW:].mean()),
        "watched": watched,
        "unchanged_quantiles": _quantiles(line.unchanged),
        "steps": [
            {
                "light": round(1 - faded * (start + end) / 2 / tiles, 4),
                "false_alarms": int(alarms[start:end].sum()),
                "tiles": int(end - start),
                "quantiles": _quantiles(web[start:end]),
            }
            for start, end in itertools.pairwise(edges)
        ],
    }


def _quantiles(figures: Figures) -> dict[str, list[float]]:
    probabilities = np.linspace(0, 1, QUANTILES)
    return {
        name: [float(f"{value:.5g}") for value in np.quantile(figures[:, number], probabilities)]
        for number, name in enumerate(QUANTITIES)
    }


# -- record and tables -------------------------------------------------------------------------------------------------


def drift_figures(run: Mapping[str, Any]) -> str:
    """Table of a recorded run."""
    twice = "have not doubled" if run["doubled"] is None else f"have doubled after {run['doubled']:,} tiles"
    rows = []
    for one in run["watched"]:
        seen, steady = one["fading"], one["unchanged"]
        images = "" if one["images"] is None else f", {one['images']} images"
        rows.append(
            [
                f"{one['reference']}{images}",
                *(f"{seen[state]:,}" if state in seen else "–" for state in ("watch", "act")),
                ", ".join(state for state in steady if state != "learning"),
            ]
        )
    heads = ("compared with", "watch after, tiles", "act after, tiles", f"{run['unchanged']:,} unchanged tiles")
    return (
        f"{run['package']['name']}, {run['engine']}, {run['web']}: the lamp fades by {run['faded']:.0%} over "
        f"{run['tiles']:,} tiles ({run['run']:,} of them run, and {run['scored']:,} at full light). False alarms: "
        f"{run['false_alarm_rate']:.1%} at full light, {run['last_false_alarm_rate']:.1%} in the last {WINDOW:,} "
        f"tiles; they {twice}.\n\n"
        f"{table(heads, rows)}"
    )


def make_parser() -> argparse.ArgumentParser:
    """Arguments of the study."""
    parser = argparse.ArgumentParser(
        prog="python -m prn_fast.bench.linescan.drift", description=__doc__.splitlines()[0]
    )
    parser.add_argument("package", type=Path, metavar="PACKAGE", help="trained, NAME.prn")
    tiles = parser.add_mutually_exclusive_group(required=True)
    tiles.add_argument("--material", metavar="NAME", help=f"drawn tiles: {', '.join(MATERIALS)}")
    tiles.add_argument("--good", type=Path, metavar="DIR", help="good images that training has not seen")
    parser.add_argument("--engine", metavar="NAME", help="default: the package's best")
    parser.add_argument("--screen-only", action="store_true", help="run the package's screen alone, which is quicker")
    parser.add_argument(
        "--fade",
        type=positive,
        default=FADED,
        metavar="SHARE",
        help="of the light that is gone at the end (default: %(default)s)",
    )
    parser.add_argument(
        "--tiles",
        type=whole(2 * WINDOW),
        default=TILES,
        metavar="N",
        help="of the web, while the lamp fades (default: %(default)s)",
    )
    parser.add_argument(
        "--run",
        type=whole(SAME_LIGHT),
        default=RUN,
        metavar="N",
        help="tiles of them that the network runs on (default: %(default)s)",
    )
    parser.add_argument(
        "--unchanged",
        type=whole(1),
        default=UNCHANGED,
        metavar="N",
        help="tiles of the web that nothing happens to (default: %(default)s)",
    )
    parser.add_argument(
        "--scored",
        type=whole(1),
        default=SCORED,
        metavar="N",
        help="tiles of that one that the network runs on (default: %(default)s)",
    )
    parser.add_argument(
        "--calibrating",
        type=whole(1),
        default=CALIBRATING,
        metavar="N",
        help="good tiles that set threshold and reference (default: %(default)s)",
    )
    parser.add_argument(
        "--surfaces",
        type=whole(2),
        default=SURFACES,
        metavar="N",
        help="good tiles drawn with --material (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=whole(0), default=0, metavar="N", help="of all that is drawn (default: %(default)s)"
    )
    add_record_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the study; 2 on an error."""
    given = sys.argv[1:] if argv is None else argv
    arguments = make_parser().parse_args(given)
    try:
        measurement = Measurement("prn_fast.bench.linescan.drift", given, arguments.json, arguments.allow_dirty)
        record = run_study(arguments)
        measurement.leave(record)
    except PRNError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(drift_figures(record))
    return 0


def run_study(arguments: argparse.Namespace) -> dict[str, Any]:
    """The record of the study, JSON-ready."""
    if not 0 < arguments.fade < 1:
        raise ConfigError(f"--fade {arguments.fade} is no share of the light; give one above 0 and below 1")
    if arguments.run > arguments.tiles:
        raise ConfigError(
            f"--run {arguments.run} is more than the web's {arguments.tiles} --tiles; give at most as many"
        )
    package = Package.open(arguments.package)
    side, channels = package.config.image_size, package.config.image_channels
    if arguments.material is not None:
        tiles = drawn_surfaces(arguments.material, side, channels, arguments.surfaces, arguments.seed)
        shown = f"a web of {len(tiles) - arguments.calibrating:,} drawn tiles ({arguments.material})"
    else:
        tiles = good_images(arguments.good, side, channels)
        tiles = tiles[np.random.default_rng(arguments.seed).permutation(len(tiles))]
        shown = f"a web of {len(tiles) - arguments.calibrating:,} real images"
    light = 1 - arguments.fade * np.arange(arguments.run) / arguments.run
    options = {"early_exit": False, "screen_only": arguments.screen_only}
    with open_engine(package, arguments.engine, **options) as engine:
        line = measure_line(engine, tiles, light, arguments.scored, arguments.calibrating, arguments.seed)
        name, kind = engine.name, score_kind(engine)
    if arguments.screen_only:
        name += ", screen alone"
    reference = Reference.of_calibration(package.manifest["calibration"])
    return {
        "package": {"name": package.path.name, "digest": package.digest},
        "engine": name,
        "web": shown,
        "faded": arguments.fade,
        "tiles": arguments.tiles,
        "run": arguments.run,
        "scored": arguments.scored,
        "unchanged": arguments.unchanged,
        **study_line(line, arguments.fade, reference, kind, arguments.tiles, arguments.unchanged, arguments.seed),
    }


if __name__ == "__main__":
    raise SystemExit(main())
