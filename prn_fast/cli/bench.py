"""prn-bench: how fast, how large and how right the engines of a package are on this machine."""

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from prn_fast.arguments import positive, whole
from prn_fast.bench.settings import CHECK_IMAGES, OPEN_LOOPS, SCENARIOS, ClosedLoopSettings, ScenarioSettings
from prn_fast.cli.common import EXIT_INTERRUPTED, Parser, command
from prn_fast.cli.console import PlainConsole
from prn_fast.cli.list_engines import LIST_OPTION, list_engines
from prn_fast.cli.outputs import try_outputs
from prn_fast.engine.base import MAX_BATCH
from prn_fast.engine.names import EARLY, SCREEN, with_way
from prn_fast.errors import ConfigError, DataError
from prn_fast.extras import require_extra
from prn_fast.paths import shown_path

EXIT_FAILED_CHECK = 1
PHASES = ("check", "measure", "scenarios", "profile", "memory")


@command
def main(argv: list[str] | None = None) -> int:
    """Run the bench, or `compare` or `history` on its reports, or list a package's engines.

    Exit codes: 0 measured; 1 an engine failed a check, a scenario could not be run or `compare` found a regression;
    2 bad input, or reports that `compare` cannot judge; 130 interrupted; 141 the reader of stdout has left.
    """
    argv = sys.argv[1:] if argv is None else argv
    other: dict[str, Callable[[list[str]], int]] = {"compare": compare, "history": history, LIST_OPTION: list_engines}
    if argv and argv[0] in other:
        return other[argv[0]](argv[1:])
    return bench(argv)


def bench(argv: list[str]) -> int:
    """Measure a package."""
    arguments = _parser().parse_args(argv)
    require_extra("bench", "jinja2", "psutil", "sklearn")
    try_outputs([arguments.json, arguments.html, arguments.markdown])

    from prn_fast.bench.engines.baselines import BASELINES
    from prn_fast.bench.package_bench import bench_package
    from prn_fast.bench.report.document import scenario_of, write_json
    from prn_fast.bench.report.markdown import as_markdown
    from prn_fast.bench.report.page import render_page
    from prn_fast.bench.report.sections import bench_sections
    from prn_fast.bench.report.terminal import show

    console = PlainConsole()
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
    settings = ClosedLoopSettings(batches, arguments.seconds, arguments.seed, arguments.defect_share)
    with _progress() as progress:
        tasks = {phase: progress.add_task(phase, total=1.0, detail="", visible=False) for phase in PHASES}
        report = bench_package(
            arguments.package,
            arguments.engines,
            settings,
            baselines=baselines,
            scenarios=ScenarioSettings(
                scenarios,
                batch=max((ScenarioSettings.batch, *batches)),
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
    # Files first: what was measured is kept, even if nobody reads what is printed.
    if arguments.json is not None:
        write_json(report, arguments.json)
    if arguments.markdown is not None:
        _write(arguments.markdown, as_markdown(report))
    if arguments.html is not None:
        _write(arguments.html, render_page(f"prn-bench: {report['package']['name']}", bench_sections(report)))
    show(report, console)
    for what, file in (("figures", arguments.json), ("tables", arguments.markdown), ("report", arguments.html)):
        if file is not None:
            console.say(f"{what}: {shown_path(file)}")
    if report["interrupted"]:
        return EXIT_INTERRUPTED
    return 0 if report["passed"] else EXIT_FAILED_CHECK


def compare(argv: list[str]) -> int:
    """Compare two reports: what got slower or faster beyond noise."""
    parser = Parser(
        prog="prn-bench compare",
        description="Say what got slower or faster between two reports, beyond their noise.",
        epilog="exit codes: 0 no regression, 1 something got slower by more than the bound or fails its checks now, "
        "2 bad input, or something cannot be judged: a figure of the first report is missing in the second, or one was "
        "measured in too few rounds for an interval. The rates that server and line-camera find by a search have no "
        "interval: they are shown, and only their absence counts",
    )
    parser.add_argument("before", type=Path, help="report, as prn-bench --json writes it")
    parser.add_argument("after", type=Path, help="report to compare with it")
    parser.add_argument(
        "--bound",
        type=positive,
        default=5.0,
        metavar="PERCENT",
        help="a slowdown larger than this, with 95 %% confidence, is a regression (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)

    require_extra("bench", "psutil")
    from prn_fast.bench.report.compare import compare_reports, show_comparison
    from prn_fast.bench.report.document import read_json

    comparison = compare_reports(read_json(arguments.before), read_json(arguments.after), arguments.bound / 100)
    show_comparison(comparison, PlainConsole())
    if comparison.regressions:
        return EXIT_FAILED_CHECK
    if comparison.unjudged:
        count, first = len(comparison.unjudged), comparison.unjudged[0]
        raise DataError(
            f"{arguments.after}: {count} figures cannot be judged against {arguments.before}, first: {first}"
        )
    return 0


def history(argv: list[str]) -> int:
    """Plot a folder of reports over time."""
    parser = Parser(
        prog="prn-bench history",
        description="Plot the reports of a folder, and of the folders in it, over time.",
        epilog="exit codes: 0 done, 2 bad input",
    )
    parser.add_argument("folder", type=Path, help="folder with reports, as prn-bench --json writes them")
    parser.add_argument("--html", type=Path, metavar="FILE", help="the page (default: FOLDER/history.html)")
    arguments = parser.parse_args(argv)
    page = arguments.html or arguments.folder / "history.html"
    require_extra("bench", "jinja2", "psutil")

    from prn_fast.bench.report.history import history_sections, read_history
    from prn_fast.bench.report.page import render_page

    reports, skipped = read_history(arguments.folder)
    try_outputs([page])
    console = PlainConsole()
    for reason in skipped:
        console.say(f"skipped: {reason}")
    _write(page, render_page(f"prn-bench history: {arguments.folder.resolve().name}", history_sections(reports)))
    console.say(f"{len(reports)} reports: {shown_path(page)}")
    return 0


def _parser() -> Parser:
    batches = ",".join(map(str, ClosedLoopSettings.batches))
    parser = Parser(
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
        help="engines to measure, such as eager,openvino:int8 (default: eager, optimized and what the package holds); "
        f"NAME runs all images whole, {with_way('NAME', EARLY)} lets plainly normal ones leave after the screen, "
        f"{with_way('NAME', SCREEN)} is the screen alone",
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
        "server finds the highest rate of random arrivals within a p99 bound; line-camera finds the highest line rate "
        "that loses no line; or all (default: single-stream,multi-stream)",
    )
    parser.add_argument(
        "--batch", type=_batches, default=batches, metavar="N,M", help="images in one call (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds",
        type=positive,
        default=ClosedLoopSettings.seconds,
        help="time for each engine in each scenario, and for each size of --batch; checks, profiles and memory take "
        "more (default: %(default)s)",
    )
    parser.add_argument(
        "--p99-ms",
        type=positive,
        default=ScenarioSettings.p99_ms,
        metavar="MS",
        help="bound of p99 in the server scenario (default: %(default)s)",
    )
    parser.add_argument(
        "--camera-width",
        type=whole(1),
        default=ScenarioSettings.camera_width,
        metavar="PIXELS",
        help="pixels of the camera in the line-camera scenario (default: %(default)s)",
    )
    parser.add_argument(
        "--overlap",
        type=whole(0),
        default=ScenarioSettings.overlap,
        metavar="PIXELS",
        help="overlap of neighbouring tiles in it (default: %(default)s)",
    )
    parser.add_argument(
        "--check-images",
        type=whole(2),
        default=CHECK_IMAGES,
        metavar="N",
        help="validation images to check the engines on (default: %(default)s)",
    )
    parser.add_argument(
        "--defect-share",
        type=_share,
        default=ClosedLoopSettings.defect_share,
        metavar="SHARE",
        help="share of the timed images, and of the line camera's tiles, with a defect, from the validation split "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=whole(0),
        default=ClosedLoopSettings.seed,
        help="seed of the order of images and engines (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and every latency")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report to read, one file")
    return parser


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _progress() -> Progress:
    console = PlainConsole(stderr=True)
    return Progress(
        TextColumn("{task.description:9}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        console=console,
        disable=not console.is_terminal,
        refresh_per_second=2,  # drawing takes processor time from what is measured
    )


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share between 0 and 1, such as 0.01")
    return value


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("name at least one engine")
    return names


def _scenarios(text: str) -> tuple[str, ...]:
    names = SCENARIOS if text == "all" else tuple(_names(text))
    if unknown := [name for name in names if name not in SCENARIOS]:
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; choose from {', '.join(SCENARIOS)} or all")
    return names


def _batches(text: str) -> tuple[int, ...]:
    try:
        batches = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers like 1,8") from None
    if batches[0] < 1 or batches[-1] > MAX_BATCH:
        raise argparse.ArgumentTypeError(f"a batch holds at least one image, and at most {MAX_BATCH}")
    return tuple(batches)


if __name__ == "__main__":
    sys.exit(main())
