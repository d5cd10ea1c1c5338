"""prn-bench: how fast, how large and how right the engines of a package are on this machine."""

import argparse
import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from prn_fast.cli.common import EXIT_INTERRUPTED, command
from prn_fast.errors import ConfigError

EXIT_FAILED_CHECK = 1


@command
def main(argv: list[str] | None = None) -> int:
    """Run the bench. Exit codes: 0 measured, 1 an engine failed a check, 2 bad input, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = _parser().parse_args(argv)
    for path in (arguments.json, arguments.html):
        if path is not None and path.is_dir():
            raise ConfigError(f"{path}: is a folder; name a file")

    from prn_fast.bench.package_bench import bench_package
    from prn_fast.bench.page import render_page
    from prn_fast.bench.report import write_json
    from prn_fast.bench.runner import Settings
    from prn_fast.bench.sections import bench_sections
    from prn_fast.bench.terminal import show

    # A file or a pipe has no width of its own.
    console = Console(width=None if sys.stdout.isatty() else 120)
    settings = Settings(arguments.batch, arguments.seconds, arguments.seed)
    with _progress() as progress:
        tasks = {
            phase: progress.add_task(phase, total=1.0, detail="", visible=False)
            for phase in ("check", "measure", "memory")
        }
        report = bench_package(
            arguments.package,
            arguments.engines,
            settings,
            check_images=arguments.check_images,
            command=shlex.join(["prn-bench", *argv]),
            on_progress=lambda phase, detail, share: progress.update(
                tasks[phase], completed=share, detail=detail, visible=True
            ),
        )
    show(report, console)
    if arguments.json is not None:
        write_json(report, arguments.json)
        console.print(f"figures: {arguments.json}", highlight=False, soft_wrap=True)
    if arguments.html is not None:
        title = f"prn-bench: {report['package']['name']}"
        arguments.html.parent.mkdir(parents=True, exist_ok=True)
        arguments.html.write_text(render_page(title, bench_sections(report)), encoding="utf-8")
        console.print(f"report: {arguments.html}", highlight=False, soft_wrap=True)
    if report["interrupted"]:
        return EXIT_INTERRUPTED
    return 0 if report["passed"] else EXIT_FAILED_CHECK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prn-bench",
        description="Check the engines of a model package against float32 eager on its validation images, and measure "
        "their latency, throughput and memory in one interleaved run. An engine that fails a check gets no speed.",
        epilog="exit codes: 0 measured, 1 an engine failed a check, 2 bad input, 130 interrupted (what was measured is "
        "still reported)",
    )
    parser.add_argument("package", type=Path, help="the model package, NAME.prn")
    parser.add_argument(
        "--engines",
        type=_names,
        metavar="A,B",
        help="engines to measure, such as eager,openvino:int8 (default: eager and all that the package holds)",
    )
    parser.add_argument(
        "--batch", type=_batches, default=(1, 8), metavar="N,M", help="images in one call (default: 1,8)"
    )
    parser.add_argument(
        "--seconds",
        type=_positive,
        default=60.0,
        help="bound of all timing together; checks and memory come on top, and every engine is called at least a few "
        "times (default: 60)",
    )
    parser.add_argument(
        "--check-images",
        type=int,
        default=64,
        metavar="N",
        help="validation images to check the engines on (default: 64)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order of images and engines (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and every latency")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report to read, one file")
    return parser


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:8}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
        console=Console(stderr=True),
        refresh_per_second=2,  # drawing takes processor time from what is measured
    )


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("name at least one engine")
    return names


def _batches(text: str) -> tuple[int, ...]:
    try:
        batches = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers like 1,8") from None
    if batches[0] < 1:
        raise argparse.ArgumentTypeError("a batch holds at least one image")
    return tuple(batches)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
