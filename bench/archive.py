"""An archive of synthetic images through prn-score: one process with one thread, and actors on a local Ray cluster.

    python -m prn_fast.bench.archive tiles.prn FOLDER --images 20000 --json archive.json

Some images are broken. The run on Ray is killed when a third of its files is there, and the same command goes on. An
error says so if an image has no row or two, if a broken one is not named, or if the two runs wrote different bytes.
"""

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from prn_fast.arguments import whole
from prn_fast.bench.engines.seeded import textured_images
from prn_fast.bench.machine.measurement import Measurement, add_record_options
from prn_fast.data.images import write_image
from prn_fast.engine import default_engine
from prn_fast.errors import ConfigError, DataError, PRNError
from prn_fast.package import Package

_TEXTURES = 200
_POLL_SECONDS = 0.05
# Rates are told from the first file of a run to its last.
_LEAST_FILES = 6


def write_archive(folder: Path, package: Package, images: int, broken: int) -> list[str]:
    """Write images of the package's size in folders of a thousand, some of them broken; returns the names of these.

    Each is a shifted and brightened copy of one of some textures. Images that are there are kept.
    """
    side, channels = package.config.image_size, package.config.image_channels
    textures = textured_images(_TEXTURES, channels, 7, side)
    rng = np.random.default_rng(7)
    names = []
    wrong = set(np.linspace(0, images - 1, broken).astype(int).tolist())
    for number in range(images):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.png"
        shift, light = rng.integers(0, side, 2), int(rng.integers(-20, 21))
        if number in wrong:
            names.append(path.relative_to(folder).as_posix())
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.roll(textures[number % _TEXTURES], shift, (0, 1)).astype(np.int16) + light
        write_image(path, np.clip(image, 0, 255).astype(np.uint8))
        if number in wrong:
            path.write_bytes(path.read_bytes()[:100])
    return names


def measure_archive(package: Package, folder: Path, images: int, broken: int, actors: int, rows: int) -> dict[str, Any]:
    """Score an archive both ways.

    Args:
        folder: for images and results; results of an earlier measurement must not be there.
        rows: images in a file of results.
    Returns:
        JSON-ready: "package", "engine", "images", "broken", "actors", "killed_after" (images
        that had rows when the run was killed), for "one_thread" and "ray" each the images a second from the first
        file to the last, which leaves starting up out, and "ratio" of the two.
    Raises:
        DataError: an image has no row or two, a broken one is not named, or the two runs differ.
        ConfigError: too few files to kill a run in the middle and to tell rates, or results that are there already.
    """
    alone, together = folder / "one-thread", folder / "ray"
    if images // rows < _LEAST_FILES:
        raise ConfigError(f"{images} images in files of {rows} are {images // rows} files; {_LEAST_FILES} are needed")
    if there := [path for path in (alone, together) if path.exists()]:
        raise ConfigError(f"{there[0]}: holds results of an earlier measurement; remove it")
    wrong = write_archive(folder / "images", package, images, broken)
    base = [sys.executable, "-m", "prn_fast.cli.score", str(package.path), "--images", str(folder / "images")]
    base += ["--rows", str(rows), "--threads", "1", "--output"]
    _run([*base, str(alone)])
    ray = [*base, str(together), "--ray", "local", "--actors", str(actors)]
    killed_after = _run_and_kill(ray, together, images // rows // 3)
    _run(ray)
    _compare(alone, together, wrong, images)
    rates = _rate(alone, 0, rows), _rate(together, killed_after, rows)
    return {
        "package": package.path.stem,
        "engine": default_engine(package),
        "images": images,
        "broken": len(wrong),
        "actors": actors,
        "killed_after": killed_after * rows,
        "one_thread": {"images_per_second": rates[0]},
        "ray": {"images_per_second": rates[1]},
        "ratio": rates[1] / rates[0],
    }


def _run(command: list[str]) -> None:
    # Nobody waits for a process that the command leaves behind, as a pipe's reader would.
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        raise DataError(f"{command[-1]}: prn-score failed")


def _run_and_kill(command: list[str], output: Path, files: int) -> int:
    """Kill a run as soon as it has written this many files; returns how many there were."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while len(_parts(output)) < files and process.poll() is None:
        time.sleep(_POLL_SECONDS)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return len(_parts(output))


def _parts(output: Path) -> list[Path]:
    return sorted(output.glob("part-*.parquet"))


def _rate(output: Path, files_before: int, rows: int) -> float:
    """Images a second from the first file to the last, of those written after the first `files_before`."""
    times = sorted(part.stat().st_mtime for part in _parts(output))[files_before:]
    return (len(times) - 1) * rows / (times[-1] - times[0])


def _compare(alone: Path, together: Path, wrong: list[str], images: int) -> None:
    import pyarrow.parquet

    if [part.name for part in _parts(alone)] != [part.name for part in _parts(together)]:
        raise DataError(f"{together}: has other files than {alone}")
    for one, other in zip(_parts(alone), _parts(together), strict=True):
        if one.read_bytes() != other.read_bytes():
            raise DataError(f"{other}: differs from {one}")
    rows = pyarrow.parquet.read_table(together, columns=["path", "verdict"]).to_pylist()
    if len(rows) != images or len({row["path"] for row in rows}) != images:
        raise DataError(f"{together}: has {len(rows)} rows for {images} images")
    named = [row["path"] for row in rows if row["verdict"] == "unreadable"]
    if sorted(named) != sorted(wrong):
        raise DataError(f"{together}: names {len(named)} broken images of {len(wrong)}")


def main(argv: list[str] | None = None) -> int:
    """Run the measurement; writes or prints JSON."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m prn_fast.bench.archive", description=__doc__)
    parser.add_argument("package", type=Path, metavar="PACKAGE", help="model package, NAME.prn")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="for images and results")
    parser.add_argument("--images", type=whole(1), default=20_000, help="default: %(default)s")
    parser.add_argument("--broken", type=whole(1), default=17, help="of them (default: %(default)s)")
    parser.add_argument("--actors", type=whole(1, 1000), default=2, help="on the cluster (default: %(default)s)")
    parser.add_argument("--rows", type=whole(1), default=250, help="images in a file of results (default: %(default)s)")
    add_record_options(parser)
    arguments = parser.parse_args(argv)
    try:
        measurement = Measurement("prn_fast.bench.archive", argv, arguments.json, arguments.allow_dirty)
        package = Package.open(arguments.package)
        measurement.leave(
            measure_archive(
                package, arguments.folder, arguments.images, arguments.broken, arguments.actors, arguments.rows
            )
        )
    except PRNError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
