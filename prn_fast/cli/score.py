"""prn-score: score and verdict of every image of an archive, in one process or on a Ray cluster."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from prn_fast.arguments import positive, whole
from prn_fast.cli.common import Parser, add_engine, add_false_alarm_rate, command, counted
from prn_fast.cli.console import PlainConsole, bars
from prn_fast.cli.outputs import try_outputs
from prn_fast.errors import ConfigError
from prn_fast.extras import require_extra
from prn_fast.files import held, reporting
from prn_fast.linescan.defects import MIN_AREA
from prn_fast.paths import shown_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from prn_fast.archive.images import Archive
    from prn_fast.archive.scorer import ScoringSettings
    from prn_fast.package import Package

DESCRIPTION = """Score every image of an archive, of any size, and write one row for each image as Parquet.

A row has the image's path, score, verdict (good, defect or unreadable), whether it left early, the reason why it cannot
be read, and a box for each region of its anomaly map. After an interruption, the same command continues and ends with
the same files.

With --ray, actors share the work, each with its own engine: "local" starts a cluster on this machine for this run; an
address, such as 10.0.0.5:6379, uses a running one. Its machines must see images, package and output under the
same paths."""


def make_parser() -> Parser:
    """Arguments of prn-score."""
    parser = Parser(prog="prn-score", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, metavar="PACKAGE", help="model package, NAME.prn")
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="DIR or FILE.parquet",
        help="folder of images, with all folders in it; or Parquet with the column path, and images in the column "
        "bytes or in files",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for results")
    add_engine(parser)
    add_false_alarm_rate(parser)
    parser.add_argument(
        "--min-area",
        type=whole(1),
        default=MIN_AREA,
        metavar="PIXELS",
        help="leave out smaller regions (default: %(default)s)",
    )
    parser.add_argument(
        "--rows", type=whole(1), default=1000, metavar="N", help="images in one results file (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", type=whole(1, 1024), metavar="N", help="threads of each engine (default: all; with --ray, 1)"
    )
    cluster = parser.add_argument_group("cluster")
    cluster.add_argument("--ray", metavar="ADDRESS", help='address of a Ray cluster, or "local"')
    cluster.add_argument(
        "--actors", type=whole(1, 100_000), metavar="N", help="number of engines (default: one for each processor)"
    )
    cluster.add_argument("--gpus", type=positive, metavar="SHARE", help="GPUs of each actor, such as 1 or 0.5")
    return parser


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = make_parser().parse_args(argv)
    require_extra("archive", "pyarrow")
    if arguments.ray is None and (arguments.actors or arguments.gpus):
        raise ConfigError("--actors and --gpus belong to a cluster; give --ray, too")
    if arguments.ray is not None:
        require_extra("ray", "ray", "pandas")
    from prn_fast.archive.images import open_archive
    from prn_fast.data.folders import summary
    from prn_fast.package import Package

    package = Package.open(arguments.package.absolute())
    output = arguments.output
    # Results are Parquet files, too: the next run over the same folder would take them for images.
    if Path(os.path.realpath(output)).is_relative_to(os.path.realpath(arguments.images)):
        raise ConfigError(f"{output}: lies in the archive {arguments.images}; choose an output outside of it")
    try_outputs(folders=[output])
    archive = open_archive(arguments.images.absolute(), arguments.rows)
    if archive.passed_over:
        print(f"{shown_path(arguments.images)}: {summary(archive.passed_over, archive.root)}", file=sys.stderr)
    settings = _settings(package, archive, arguments)
    with reporting(output):
        output.mkdir(parents=True, exist_ok=True)
    with held(output, "prn-score"):
        _score(archive, settings, arguments)
    return 0


def _settings(package: "Package", archive: "Archive", arguments: argparse.Namespace) -> "ScoringSettings":
    from prn_fast.archive.images import tiles_an_image
    from prn_fast.archive.scorer import ScoringSettings
    from prn_fast.engine import default_engine, parse_name
    from prn_fast.training.calibration import image_threshold, tile_overlap

    name, _, precision = parse_name(arguments.engine or default_engine(package))
    overlap = tile_overlap(package)
    tiles = 1.0 if overlap is None else tiles_an_image(archive, package.config.image_size, overlap)
    threshold = image_threshold(package, arguments.false_alarm_rate, tiles)
    return ScoringSettings(
        package=package.path,
        digest=package.digest,
        engine=f"{name}:{precision}",
        threshold=threshold,
        pixel_threshold=package.calibration("pixel_threshold"),
        min_area=arguments.min_area,
        tile_overlap=overlap,
        # What leaves early is below the package's own threshold: below a lower one it may not be.
        early_exit=threshold >= package.calibration("threshold"),
        threads=arguments.threads,
    )


def _score(archive: "Archive", settings: "ScoringSettings", arguments: argparse.Namespace) -> None:
    from prn_fast.archive.cluster import Cluster, score_on_ray
    from prn_fast.archive.results import Results
    from prn_fast.archive.run import score_shards

    console = PlainConsole()
    results = Results(arguments.output, archive, settings)
    waiting = results.waiting()
    total, rest = len(archive), sum(len(shard.names) for shard in waiting)
    if rest < total:
        console.say(f"already scored: {total - rest:,} of {counted(total, 'image')}; the run continues")
    if arguments.ray is None:
        scored = score_shards(waiting, archive, settings, arguments.output)
    else:
        cluster = Cluster(arguments.ray, arguments.actors, arguments.gpus or 0.0)
        scored = score_on_ray(waiting, archive, settings, arguments.output, cluster)
    start = time.monotonic()
    with _progress(console, settings.engine, total - rest, total) as advance:
        for images in scored:
            advance(images)
    seconds = time.monotonic() - start
    totals = results.totals()
    console.say(
        f"{counted(total, 'image')}: "
        + ", ".join(f"{count:,} {verdict}" for verdict, count in sorted(totals.verdicts.items()))
    )
    left = f", {counted(totals.exited, 'image')} left early" if totals.exited else ""
    console.say(f"threshold {settings.threshold:.3f}, {settings.engine}{left}")
    if rest:
        console.say(f"{counted(rest, 'image')} in {seconds:,.0f} s, {rest / seconds:,.1f} images/s")
    console.say(f"results: {shown_path(arguments.output)}")
    if totals.pages_left_out:
        print(f"note: {totals.pages_left_out:,} further pages or frames of images were not scored", file=sys.stderr)
    for line in totals.unreadable:
        print(f"unreadable: {line}", file=sys.stderr)
    more = totals.verdicts["unreadable"] - len(totals.unreadable)
    if more > 0:
        print(f"unreadable: {more:,} more; the results name them all", file=sys.stderr)


class _Rate(ProgressColumn):
    """Images per second since the run continued."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.1f} images/s")


@contextmanager
def _progress(console: PlainConsole, name: str, done: int, total: int) -> "Iterator[Callable[[int], None]]":
    columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with bars(console, *columns, speed_estimate_period=600) as bar:
        task = bar.add_task(name, completed=done, total=total)
        yield lambda images: bar.advance(task, images)


if __name__ == "__main__":
    sys.exit(main())
