"""Run studies and their yardstick, and make pictures of results; see `python -m prn_fast.bench.accuracy --help`."""

import argparse
import signal
import sys
from functools import partial
from pathlib import Path

from prn_fast.arguments import positive, whole
from prn_fast.bench.accuracy.studies import STUDIES
from prn_fast.bench.machine.measurement import add_allow_dirty
from prn_fast.errors import PRNError

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143


def make_parser() -> argparse.ArgumentParser:
    """Arguments: list, run, screens, nearest-patch, maps, plot, failures."""
    parser = argparse.ArgumentParser(prog="python -m prn_fast.bench.accuracy", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    commands.add_parser("list", help="studies and their variants")

    run = commands.add_parser("run", help="train and evaluate what is not recorded yet")
    run.add_argument("study", metavar="STUDY", help=", ".join(STUDIES))
    run.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="images of one product each, as for prn-train",
    )
    run.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="for the record and all that is made")
    run.add_argument("--seeds", type=_seeds, default="0,1,2", metavar="A,B", help="default: %(default)s")
    run.add_argument("--minutes", type=positive, help="bound of each training (default: all epochs of the recipe)")
    run.add_argument("--only", type=_names, metavar="A,B", help="variants (default: all)")
    add_allow_dirty(run)
    run.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run on a Ray cluster whose machines have this checkout and see DIR and FOLDER under the same paths; "
        '"local" starts one on this machine',
    )
    run.add_argument(
        "--threads",
        type=whole(1, 1024),
        default=1,
        metavar="N",
        help="processors of each run on Ray (default: %(default)s)",
    )
    run.epilog = "What follows after -- goes to every prn-train."

    # Their arguments are their own, see `main`.
    commands.add_parser("nearest-patch", help="measure a memory of normal patches, the yardstick", add_help=False)
    commands.add_parser("maps", help="what learned maps and image scores find on trained packages", add_help=False)

    screens = commands.add_parser(
        "screens", help="add the figures of screens alone to a record, from the packages kept beside it"
    )
    screens.add_argument("record", type=Path, metavar="FILE", help="DATA-STUDY.json, in the folder of the study")

    plot = commands.add_parser("plot", help="accuracy against speed, as SVG")
    plot.add_argument("file", type=Path, nargs="?", help="default: docs/accuracy-speed.svg")

    failures = commands.add_parser("failures", help="the worst of an evaluation, as a JPEG")
    failures.add_argument("package", type=Path, metavar="PACKAGE", help="model package, NAME.prn")
    failures.add_argument("evaluation", type=Path, metavar="JSON", help="evaluation.json of prn-eval of this package")
    failures.add_argument("--data", type=Path, required=True, metavar="DIR", help="images that were evaluated")
    failures.add_argument("--output", type=Path, metavar="FILE", help="default: docs/accuracy-failures.jpg")
    return parser


def main(argv: list[str] | None = None) -> int:
    """1 if runs failed, 2 on an error, 130 and 143 when interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["nearest-patch"]:
        from prn_fast.bench.accuracy import nearest_patch

        return nearest_patch.main(argv[1:])
    if argv[:1] == ["maps"]:
        from prn_fast.bench.accuracy import maps

        return maps.main(argv[1:])
    own, options = _split(argv)
    parser = make_parser()
    arguments = parser.parse_args(own)
    if options and arguments.command != "run":
        parser.error("-- belongs to run")
    arguments.options = options
    try:
        return COMMANDS[arguments.command](arguments)
    except PRNError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; run the same command to continue", file=sys.stderr)
        return EXIT_INTERRUPTED


def _list(arguments: argparse.Namespace) -> int:
    for name, study in STUDIES.items():
        print(f"{name}: {study.question}")
        for variant in study.variants:
            print(f"  {variant.name}: {variant.change}")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from prn_fast.bench.accuracy.run import StudySettings, run_on_ray, run_study

    products = [
        StudySettings(
            study=arguments.study,
            data=data,
            folder=arguments.output,
            seeds=arguments.seeds,
            minutes=arguments.minutes,
            only=arguments.only,
            options=tuple(arguments.options),
            allow_dirty=arguments.allow_dirty,
        )
        for data in arguments.data
    ]
    # Ends the training with it: an orphan would train on beside the run that goes on.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    try:
        if arguments.ray is None:
            failed = [run_study(each, partial(_say_of, each.data.resolve().name)) for each in products]
        else:
            failed = run_on_ray(products, partial(print, flush=True), arguments.ray, arguments.threads)
    finally:
        signal.signal(signal.SIGTERM, before)
    return EXIT_FAILED if any(failed) else 0


def _screens(arguments: argparse.Namespace) -> int:
    from prn_fast.bench.accuracy.run import add_screens

    return EXIT_FAILED if add_screens(arguments.record, partial(print, flush=True)) else 0


def _say_of(product: str, line: str) -> None:
    print(f"{product}: {line}", flush=True)


def _plot(arguments: argparse.Namespace) -> int:
    from prn_fast.bench.accuracy.pareto import write_plot
    from prn_fast.bench.report.history import RESULTS, latest_reports, study_records

    print(write_plot(study_records(RESULTS), latest_reports(RESULTS), arguments.file))
    return 0


def _failures(arguments: argparse.Namespace) -> int:
    from prn_fast.bench.accuracy.failures import write_failures

    print(write_failures(arguments.package, arguments.evaluation, arguments.data, arguments.output))
    return 0


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Arguments before and after `--`."""
    end = argv.index("--") if "--" in argv else len(argv)
    return argv[:end], argv[end + 1 :]


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(whole(0, 2**32 - 1)(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


COMMANDS = {"list": _list, "run": _run, "screens": _screens, "plot": _plot, "failures": _failures}

if __name__ == "__main__":
    sys.exit(main())
