"""Whether training waits for its data: images a second of the loader, beside those of the training step.

    python -m prn_fast.bench.loader_speed --data DIR

The loader is timed alone, as it reads, mirrors and generates anomalies; the step alone, on batches that lie in memory:
forward, backward and optimiser. Where the loader is slower, `prn-train --workers N` gives it processes of its own;
where it is faster, without workers it takes the share of the time that is printed.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prn_fast.arguments import whole
from prn_fast.bench.machine.measurement import Measurement, add_record_options
from prn_fast.errors import PRNError
from prn_fast.model.config import PRESETS
from prn_fast.training.settings import SIZES, TrainingSettings

if TYPE_CHECKING:
    from torch import Tensor

WARM_UP = 2


@dataclass(frozen=True)
class LoaderSpeed:
    """What was measured.

    Attributes:
        loader, step: images a second, each alone.
        loader_share: of the time of both in a row that goes into loading: what it costs without workers.
        batch, workers, batches: of the measurement.
    """

    loader: float
    step: float
    loader_share: float
    batch: int
    workers: int
    batches: int


def measure(data: Path, preset: str, image_size: int, batches: int, workers: int) -> tuple[LoaderSpeed, str]:
    """Time the loader and the step of a preset on a folder of images; also the device's name."""
    from rich.console import Console

    from prn_fast.training.hardware import device_name
    from prn_fast.training.train import prepare_run

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingSettings(
            data, Path(folder) / "unused.prn", preset=preset, image_size=image_size, workers=workers
        )
        run, _ = prepare_run(settings, Console(quiet=True))
    run.module.train()
    kept: list[tuple[Tensor, Tensor]] = []
    taken, loading = 0, 0.0
    epoch = 0
    while taken < WARM_UP + batches:
        run.dataset.set_epoch(epoch)
        run.sampling.start_epoch(epoch)
        start = time.perf_counter()
        for images, masks in run.loader:
            if taken >= WARM_UP:
                loading += time.perf_counter() - start
            kept = [*kept[-3:], (images, masks)]
            taken += 1
            if taken == WARM_UP + batches:
                break
            start = time.perf_counter()
        epoch += 1
    count = len(kept[0][0])
    for _ in range(WARM_UP):
        run.train_step(*kept[0], rate=run.recipe.learning_rate)
    # A step ends with its loss on the host: nothing is left to run.
    start = time.perf_counter()
    for index in range(batches):
        run.train_step(*kept[index % len(kept)], rate=run.recipe.learning_rate)
    stepping = time.perf_counter() - start
    speed = LoaderSpeed(
        loader=round(batches * count / loading, 1),
        step=round(batches * count / stepping, 1),
        loader_share=round(loading / (loading + stepping), 4),
        batch=count,
        workers=workers,
        batches=batches,
    )
    return speed, device_name(run.fabric.device)


def loader_figures(run: Mapping[str, Any]) -> str:
    """A kept measurement in words."""
    return (
        f"`{run['preset']}`, {run['image_size']} px: the loader makes {run['loader']:.0f} images/s, half of them with "
        f"an anomaly; a step takes in {run['step']:.1f} images/s ({run['batches']} batches of {run['batch']}). Without "
        f"processes of its own the loader takes {100 * run['loader_share']:.1f} % of the time."
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code, or exits with 2 and one line about what was wrong."""
    parser = argparse.ArgumentParser(prog="python -m prn_fast.bench.loader_speed", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="images of one product, see prn-train")
    parser.add_argument(
        "--preset", default=TrainingSettings.preset, choices=tuple(PRESETS), help="network (default: %(default)s)"
    )
    parser.add_argument("--image-size", type=whole(1), default=SIZES[0], help="side (default: %(default)s)")
    parser.add_argument("--batches", type=whole(1), default=10, help="timed ones (default: %(default)s)")
    parser.add_argument(
        "--workers", type=whole(0, 1024), default=0, help="processes of the loader (default: %(default)s)"
    )
    add_record_options(parser)
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser.parse_args(argv)
    try:
        measurement = Measurement("prn_fast.bench.loader_speed", argv, arguments.json, arguments.allow_dirty)
        speed, device = measure(
            arguments.data, arguments.preset, arguments.image_size, arguments.batches, arguments.workers
        )
        told = {"preset": arguments.preset, "image_size": arguments.image_size, "device": device}
        measurement.leave({**asdict(speed), **told})
    except PRNError as error:
        parser.exit(2, f"error: {error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
