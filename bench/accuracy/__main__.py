"""Run studies, and make pictures of their results; see `python -m prn_fast.bench.accuracy --help`."""

import argparse
import signal
import sys
from pathlib import Path

from prn_fast.bench.accuracy.studies import STUDIES
from prn_fast.errors import PRNError

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143


def make_parser() -> argparse.ArgumentParser:
    """Arguments: list, run, plot, failures."""
    parser = argparse.ArgumentParser(prog="python -m prn_fast.bench.accuracy", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    commands.add_parser("list", help="studies and their variants")

    run = commands.add_parser("run", help="train and evaluate what is not recorded yet")
    run.add_argument("study", metavar="STUDY", help=", ".join(STUDIES))
    run.add_argument("--data", type=Path, required=True, metavar="DIR", help="images of one product, as for prn-train")
    run.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="for the record and all that is made")
    run.add_argument("--seeds", type=_integers, default=(0, 1, 2), metavar="A,B", help="default: 0,1,2")
    run.add_argument("--minutes", type=float, help="bound of each training (default: all epochs of the recipe)")
    run.add_argument("--only", type=_names, metavar="A,B", help="variants (default: all)")
    run.add_argument("--allow-dirty", action="store_true", help="record from a changed checkout, and mark the record")
    run.epilog = "What follows after -- goes to every prn-train."

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
    own, options = _split(sys.argv[1:] if argv is None else argv)
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
        print("interrupted; the same command goes on", file=sys.stderr)
        return EXIT_INTERRUPTED


def _list(arguments: argparse.Namespace) -> int:
    for name, study in STUDIES.items():
        print(f"{name}: {study.question}")
        for variant in study.variants:
            print(f"  {variant.name}: {variant.change}")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from prn_fast.bench.accuracy.run import Settings, run_study

    settings = Settings(
        study=arguments.study,
        data=arguments.data,
        folder=arguments.output,
        seeds=arguments.seeds,
        minutes=arguments.minutes,
        only=arguments.only,
        options=tuple(arguments.options),
        allow_dirty=arguments.allow_dirty,
    )
    # Ends the training with it: an orphan would train on beside the run that goes on.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    try:
        failures = run_study(settings, say=lambda line: print(line, flush=True))
    finally:
        signal.signal(signal.SIGTERM, before)
    return EXIT_FAILED if failures else 0


def _plot(arguments: argparse.Namespace) -> int:
    from prn_fast.bench import figures
    from prn_fast.bench.accuracy.pareto import write_plot

    results = figures.RESULTS
    print(write_plot(figures.study_records(results), figures.latest_reports(results), arguments.file))
    return 0


def _failures(arguments: argparse.Namespace) -> int:
    from prn_fast.bench.accuracy.failures import write_failures

    print(write_failures(arguments.package, arguments.evaluation, arguments.data, arguments.output))
    return 0


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Arguments before and after `--`."""
    end = argv.index("--") if "--" in argv else len(argv)
    return argv[:end], argv[end + 1 :]


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


COMMANDS = {"list": _list, "run": _run, "plot": _plot, "failures": _failures}

if __name__ == "__main__":
    sys.exit(main())
