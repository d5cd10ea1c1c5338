"""What a server adds to an engine: the same images through both, in turns; verdicts must be the same.

    prn-serve run DIR
    python -m prn_fast.bench.plant.remote PACKAGE grpc://127.0.0.1:8001/NAME --images 1000 --batch 32 --json remote.json

All ways take part of the images in turns, so that other work on the machine slows all of them alike.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.arguments import whole
from prn_fast.bench.machine.measurement import Measurement, add_record_options
from prn_fast.bench.stats import median, percentiles, ratio_interval
from prn_fast.engine import Engine, open_engine
from prn_fast.errors import ConfigError, PRNError
from prn_fast.package import Package


def main(argv: list[str] | None = None) -> int:
    """Measure, print and keep; 2 on an error, which a verdict that differs is too."""
    values = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m prn_fast.bench.plant.remote",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("package", type=Path, metavar="PACKAGE", help="that is served")
    parser.add_argument("address", metavar="ADDRESS", help="grpc://HOST:PORT/NAME on this machine")
    parser.add_argument("--images", type=whole(1), default=1000, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--batch", type=whole(1), default=32, metavar="N", help="images in a request (default: %(default)s)"
    )
    parser.add_argument("--seed", type=whole(0), default=0, metavar="N", help="of the images (default: %(default)s)")
    add_record_options(parser)
    arguments = parser.parse_args(values)
    try:
        measurement = Measurement("prn_fast.bench.plant.remote", values, arguments.json, arguments.allow_dirty)
        figures = measure_remote(
            Package.open(arguments.package), arguments.address, arguments.images, arguments.batch, arguments.seed
        )
        measurement.leave(figures)
    except PRNError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if any(one["verdicts_differ"] for one in figures["ways"].values()):
        print(f"error: {arguments.address}: gives other verdicts than the local engine", file=sys.stderr)
        return 2
    return 0


def measure_remote(package: Package, address: str, count: int, batch: int, seed: int = 0) -> dict[str, Any]:
    """Images a second, latencies and verdicts of the local engine, of the server through shared memory, and as sent.

    Args:
        package: that is served at `address`, on this machine.
        count: images; `batch` of them in a request, one request at a time.
    Raises:
        ConfigError: numbers out of range; or images that all have one verdict.
        EngineError: the server cannot be used.
    """
    if count < 1 or batch < 1:
        raise ConfigError(f"{count} images in requests of {batch}: both must be at least 1")
    images = _images(package, count, seed)
    parts = [images[start : start + batch] for start in range(0, len(images), batch)]
    # One request at a time, as the local engine has one inference at a time: what is compared is the way.
    options = f"{'&' if '?' in address else '?'}timeout=120&patience=0&in_flight=1&shared_memory="
    with open_engine(package, f"{address}{options}on") as shared:
        served_engine = shared.description.engine  # type: ignore[attr-defined]
        with (
            open_engine(package, served_engine, batch=batch) as local,
            open_engine(package, f"{address}{options}off") as sent,
        ):
            ways: dict[str, Engine] = {"local": local, "shared memory": shared, "sent": sent}
            for engine in ways.values():
                engine.infer(parts[0])
            calls: dict[str, list[list[float]]] = {name: [] for name in ways}
            verdicts: dict[str, list[bool]] = {name: [] for name in ways}
            for number, part in enumerate(parts):
                # Who comes first changes, so that none always follows the same.
                order = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]
                for name in order:
                    start = time.perf_counter()
                    found = ways[name].infer(part)
                    calls[name].append([time.perf_counter() - start])
                    verdicts[name] += found.defective.tolist()
    defective = int(np.sum(verdicts["local"]))
    if not 0 < defective < len(images):
        raise ConfigError(
            f"{package.path}: all {len(images)} images have one verdict, and no other could differ from it"
        )
    figures = {
        name: {
            "images_per_second": len(images) / sum(call for (call,) in rounds),
            "latency_ms": percentiles([1e3 * call for (call,) in rounds]),
            "ratio": median(calls["local"]) / median(rounds),
            "ratio_interval": None if name == "local" else ratio_interval(calls["local"], rounds),
            "verdicts_differ": int(np.sum(np.array(verdicts[name]) != np.array(verdicts["local"]))),
        }
        for name, rounds in calls.items()
    }
    return {
        "package": package.path.stem,
        "engine": served_engine,
        "images": len(images),
        "batch": batch,
        "rounds": len(parts),
        "defective": defective,
        "ways": figures,
    }


def _images(package: Package, count: int, seed: int) -> NDArray[np.uint8]:
    """Images of the package's validation split, mirrored at random and with a little noise: none is like another."""
    known = package.validation().images
    rng = np.random.default_rng(seed)
    chosen = known[rng.integers(len(known), size=count)]
    for number in range(count):
        flipped = chosen[number][:: rng.choice((-1, 1)), :: rng.choice((-1, 1))].astype(np.int16)
        chosen[number] = np.clip(flipped + rng.integers(-1, 2, flipped.shape), 0, 255)
    return chosen


if __name__ == "__main__":
    sys.exit(main())
