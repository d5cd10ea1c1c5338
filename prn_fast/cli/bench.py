"""prn-bench: how fast, how large and how right the engines of a package are on this machine."""

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from prn_fast.cli.common import EXIT_INTERRUPTED, command
from prn_fast.cli.list_engines import LIST_OPTION, list_engines
from prn_fast.errors import ConfigError

EXIT_FAILED_CHECK = 1
PHASES = ("check", "measure", "scenarios", "profile", "memory")


@command
def main(argv: list[str] | None = None) -> int:
    """Run the bench, or `compare` or `history` on its reports, or list a package's engines.

    Exit codes: 0 measured; 1 an engine failed a check, a scenario could not be run or `compare` found a regression;
    2 bad input; 130 interrupted.
    """
    argv = sys.argv[1:] if argv is None else argv
    other: dict[str, Callable[[list[str]], int]] = {"compare": compare, "history": history, LIST_OPTION: list_engines}
    if argv and argv[0] in other:
        return other[argv[0]](argv[1:])
    return bench(argv)


def bench(argv: list[str]) -> int:
    """Measure a package."""
    arguments = _parser().parse_args(argv)
    _refuse_folders(arguments.json, arguments.html, arguments.markdown)

    from prn_fast.bench.baselines import BASELINES
    from prn_fast.bench.markdown import as_markdown
    from prn_fast.bench.package_bench import bench_package
    from prn_fast.bench.page import render_page
    from prn_fast.bench.report import scenario_of, write_json
    from prn_fast.bench.runner import Settings
    from prn_fast.bench.scenarios import OPEN_LOOPS, ScenarioSettings
    from prn_fast.bench.sections import bench_sections
    from prn_fast.bench.terminal import show

    console = _console()
    baselines = tuple(BASELINES) if arguments.baselines == ["all"] else tuple(arguments.baselines)
    if unknown := [name for name in baselines if name not in BASELINES]:
        raise ConfigError(f"--baselines: unknown {', '.join(unknown)}; choose from {', '.join(BASELINES)} or all")
    batches: tuple[int, ...] = arguments.batch
    scenarios: tuple[str, ...] = ()
    if arguments.scenario is not None:
        batches = tuple(batch for batch in batches if scenario_of(batch) in arguments.scenario)
        scenarios = tuple(name for name in OPEN_LOOPS if name in arguments.scenario)
        if not batches and not scenarios:
            raise ConfigError(f"--scenario {','.join(arguments.scenario)} fits none of --batch's sizes")
    settings = Settings(batches, arguments.seconds, arguments.seed)
    with _progress() as progress:
        tasks = {phase: progress.add_task(phase, total=1.0, detail="", visible=False) for phase in PHASES}
        report = bench_package(
            arguments.package,
            arguments.engines,
            settings,
            baselines=baselines,
            scenarios=ScenarioSettings(
                scenarios,
                batch=max((8, *batches)),
                p99_ms=arguments.p99_ms,
                camera_width=arguments.camera_width,
                overlap=arguments.overlap,
            ),
            check_images=arguments.check_images,
            command=shlex.join(["prn-bench", *argv]),
            on_progress=lambda phase, detail, share: progress.update(
                tasks[phase], completed=share, detail=detail, visible=True
            ),
        )
    show(report, console)
    title = f"prn-bench: {report['package']['name']}"
    if arguments.json is not None:
        write_json(report, arguments.json)
        _say(console, f"figures: {arguments.json}")
    if arguments.markdown is not None:
        _write(arguments.markdown, as_markdown(report))
        _say(console, f"tables: {arguments.markdown}")
    if arguments.html is not None:
        _write(arguments.html, render_page(title, bench_sections(report)))
        _say(console, f"report: {arguments.html}")
    if report["interrupted"]:
        return EXIT_INTERRUPTED
    return 0 if report["passed"] else EXIT_FAILED_CHECK


def compare(argv: list[str]) -> int:
    """Compare two reports: what got slower or faster beyond noise."""
    parser = argparse.ArgumentParser(
        prog="prn-bench compare",
        description="Say what got slower or faster from one report to another, beyond the noise of both.",
        epilog="exit codes: 0 no regression, 1 something got slower by more than the bound or fails its checks now, "
        "2 bad input",
    )
    parser.add_argument("before", type=Path, help="report, as prn-bench --json writes it")
    parser.add_argument("after", type=Path, help="report to compare with it")
    parser.add_argument(
        "--bound",
        type=_positive,
        default=5.0,
        metavar="PERCENT",
        help="a slowdown that is larger for sure, at 95 %% confidence, is a regression (default: 5)",
    )
    arguments = parser.parse_args(argv)

    from prn_fast.bench.compare import compare_reports, show_comparison
    from prn_fast.bench.report import read_json

    comparison = compare_reports(read_json(arguments.before), read_json(arguments.after), arguments.bound / 100)
    show_comparison(comparison, _console())
    return EXIT_FAILED_CHECK if comparison.regressions else 0


def history(argv: list[str]) -> int:
    """Plot a folder of reports over time."""
    parser = argparse.ArgumentParser(
        prog="prn-bench history",
        description="Plot the reports of a folder, and of the folders in it, over time.",
        epilog="exit codes: 0 done, 2 bad input",
    )
    parser.add_argument("folder", type=Path, help="folder with reports, as prn-bench --json writes them")
    parser.add_argument("--html", type=Path, metavar="FILE", help="the page (default: FOLDER/history.html)")
    arguments = parser.parse_args(argv)
    page = arguments.html or arguments.folder / "history.html"
    _refuse_folders(page)

    from prn_fast.bench.history import history_sections, read_history
    from prn_fast.bench.page import render_page

    reports, skipped = read_history(arguments.folder)
    console = _console()
    for reason in skipped:
        _say(console, f"skipped: {reason}")
    _write(page, render_page(f"prn-bench history: {arguments.folder.resolve().name}", history_sections(reports)))
    _say(console, f"{len(reports)} reports: {page}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prn-bench",
        description="Check the engines of a model package against float32 eager on its validation images, and measure "
        "their latency, throughput and memory in one interleaved run. An engine that fails a check gets no speed.",
        epilog="also: prn-bench compare BEFORE.json AFTER.json, prn-bench history FOLDER, prn-bench "
        "--list-engines PACKAGE (each with --help). "
        "exit codes: 0 measured, 1 an engine failed a check or a scenario could not be run, 2 bad input, "
        "130 interrupted (what was measured is still reported)",
    )
    parser.add_argument("package", type=Path, help="the model package, NAME.prn")
    parser.add_argument(
        "--engines",
        type=_names,
        metavar="A,B",
        help="engines to measure, such as eager,openvino:int8 (default: eager, lean and all that the package holds)",
    )
    parser.add_argument(
        "--baselines",
        type=_names,
        default=[],
        metavar="A,B",
        help="also measure what a user has without this project: eager:bf16, compile:fp32, "
        "compile-max:fp32, onnxruntime:fp32, openvino-plain:fp32, or all (default: none)",
    )
    parser.add_argument(
        "--scenario",
        type=_scenarios,
        metavar="A,B",
        help="single-stream (batch 1) and multi-stream (larger batches) are closed loops; offline is throughput; "
        "server searches the rate of random arrivals that holds a p99 bound; line-camera searches the line rate that "
        "is held with no line lost; or all (default: single-stream,multi-stream)",
    )
    parser.add_argument(
        "--batch", type=_batches, default=(1, 8), metavar="N,M", help="images in one call (default: 1,8)"
    )
    parser.add_argument(
        "--seconds",
        type=_positive,
        default=20.0,
        help="for each engine in each scenario, and for each size of --batch; every engine is called at least a few "
        "times, and checks, profiles and memory come on top (default: 20)",
    )
    parser.add_argument(
        "--p99-ms", type=_positive, default=100.0, metavar="MS", help="bound of the server scenario (default: 100)"
    )
    parser.add_argument(
        "--camera-width", type=int, default=4096, metavar="PIXELS", help="of the line camera (default: 4096)"
    )
    parser.add_argument("--overlap", type=int, default=32, metavar="PIXELS", help="of neighbouring tiles (default: 32)")
    parser.add_argument(
        "--check-images",
        type=int,
        default=64,
        metavar="N",
        help="validation images to check the engines on (default: 64)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order of images and engines (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and every latency")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report to read, one file")
    return parser


def _console() -> Console:
    # A file or a pipe has no width of its own.
    return Console(width=None if sys.stdout.isatty() else 120)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _refuse_folders(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and path.is_dir():
            raise ConfigError(f"{path}: is a folder; name a file")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:9}"),
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


def _scenarios(text: str) -> tuple[str, ...]:
    from prn_fast.bench.scenarios import SCENARIOS

    names = SCENARIOS if text == "all" else tuple(_names(text))
    if unknown := [name for name in names if name not in SCENARIOS]:
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; choose from {', '.join(SCENARIOS)} or all")
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
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
