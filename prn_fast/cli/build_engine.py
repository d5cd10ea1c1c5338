"""prn-build-engine: put an engine into a model package."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prn_fast.cli.common import Parser, command
from prn_fast.cli.outputs import try_outputs
from prn_fast.engine import BACKENDS
from prn_fast.errors import ConfigError
from prn_fast.paths import shown_path

if TYPE_CHECKING:
    from prn_fast.build import Reference
    from prn_fast.cli.console import PlainConsole
    from prn_fast.package import Package

DESCRIPTION = """Build an engine from a trained package, verify it, and keep it in the package.

Verification runs the package's validation images through the new engine and through float32 eager, and compares
scores, maps and metrics. An engine beyond tolerance is not kept. If it cannot run on this machine (TensorRT-RTX
builds without a GPU), the graph that it is built from is verified, and the package says so."""


def make_parser() -> Parser:
    """Arguments of prn-build-engine."""
    parser = Parser(
        prog="prn-build-engine", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", type=Path, metavar="PACKAGE", help="model package, NAME.prn")
    built = {name: backend for name, backend in BACKENDS.items() if backend.built}
    parser.add_argument(
        "--backend",
        default="openvino",
        help=f"library that will run the engine: {', '.join(built)} (default: %(default)s)",
    )
    precisions = ", ".join(f"{name}: {'|'.join(backend.precisions)}" for name, backend in built.items())
    parser.add_argument("--precision", help=f"arithmetic ({precisions}; default: all that are usual)")
    parser.add_argument(
        "--batch",
        metavar="MIN:OPT:MAX",
        help="images in one run of a TensorRT engine: fewest, usual, most, or one number (default: 1:8:32)",
    )
    parser.add_argument(
        "--compute-capability",
        metavar="A,B",
        help="GPUs for a TensorRT-RTX engine, such as 8.6,8.9,12.0 (default: all from 8.0 that the library knows)",
    )
    return parser


def _capabilities(text: str | None) -> tuple[str, ...] | None:
    """("8.6", "8.9") of "8.6,8.9"."""
    if text is None:
        return None
    capabilities = tuple(part.strip() for part in text.split(",") if part.strip())
    if not capabilities:
        raise ConfigError(f"--compute-capability {text!r} names none; write them such as 8.6,8.9")
    return capabilities


def _build(
    package: "Package",
    arguments: argparse.Namespace,
    precision: str,
    console: "PlainConsole",
    reference: "Reference",
) -> dict[str, Any]:
    """Build one engine, with a bar for each phase of it that takes long; returns its entry in the manifest."""
    from rich.progress import BarColumn, TaskID, TimeElapsedColumn

    from prn_fast.build import build_engine
    from prn_fast.build.candidate import BuildOptions
    from prn_fast.build.profiles import BatchProfile
    from prn_fast.cli.console import bars

    with bars(console, BarColumn(), TimeElapsedColumn()) as shown:
        tasks: dict[str, TaskID] = {}

        def on_share(phase: str, share: float) -> None:
            if phase not in tasks:
                tasks[phase] = shown.add_task(phase, total=1.0)
            shown.update(tasks[phase], completed=share)

        options = BuildOptions(
            batch=BatchProfile.parse(arguments.batch) if arguments.batch else None,
            capabilities=_capabilities(arguments.compute_capability),
            on_share=on_share,
        )
        return build_engine(
            package,
            arguments.backend,
            precision,
            progress=lambda line: console.print(line, style="dim"),
            options=options,
            reference=reference,
        )


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = make_parser().parse_args(argv)
    from rich.table import Table

    from prn_fast.cli.console import PlainConsole
    from prn_fast.engine import parse_name
    from prn_fast.package import Package

    _, backend, _ = parse_name(arguments.backend)
    if not backend.built:
        built = ", ".join(name for name, other in BACKENDS.items() if other.built)
        raise ConfigError(f"--backend {arguments.backend} needs no build: every package runs it; choose from {built}")
    precisions = [arguments.precision] if arguments.precision else list(backend.usual)
    for precision in precisions:
        parse_name(f"{arguments.backend}:{precision}")
    package = Package.open(arguments.package)
    try_outputs(folders=[package.path])
    console = PlainConsole()
    from prn_fast.build import Reference

    reference = Reference(package, lambda line: console.print(line, style="dim"))
    for precision in precisions:
        entry = _build(package, arguments, precision, console, reference)
        verification = entry["verification"]
        table = Table(title=f"{arguments.backend}:{precision} in {shown_path(package.path)}")
        for column in ("on the validation split", "eager fp32", precision, "change"):
            table.add_column(column, justify="left" if column.startswith("on") else "right")
        for name, before in verification["reference_metrics"].items():
            after = verification["engine_metrics"][name]
            table.add_row(name.replace("_", " "), f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
        for name in ("max_score", "mean_score", "max_map", "mean_map"):
            table.add_row(f"difference, {name.replace('_', ' ')}", "", f"{verification['parity'][name]:.2g}", "")
        console.print(table)
        verdicts = verification["verdicts"]
        console.say(
            f"{arguments.backend}:{precision}: {entry['verified']}; {verdicts['differ']} of {verdicts['images']} "
            f"verdicts are not float32's, none farther than {verdicts['band']:.2g} (raw score) from the threshold"
        )
    console.say(f"next: prn-bench {shown_path(package.path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
