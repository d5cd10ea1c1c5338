"""prn-build-engine: put an engine into a model package."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prn_fast.cli.common import command
from prn_fast.engine import BACKENDS

if TYPE_CHECKING:
    from rich.console import Console

    from prn_fast.build import Reference
    from prn_fast.package import Package

DESCRIPTION = """Build an engine from a trained package, verify it, and keep it in the package.

Verification runs the package's validation images through the new engine and through float32 eager, and compares
scores, maps and metrics. An engine beyond tolerance is not kept. One that cannot run on this machine (TensorRT-RTX
builds without a GPU) is verified by the graph that it is built from, and the package says so."""


def make_parser() -> argparse.ArgumentParser:
    """Arguments of prn-build-engine."""
    parser = argparse.ArgumentParser(
        prog="prn-build-engine", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", type=Path, metavar="PACKAGE", help="NAME.prn, as prn-train wrote it")
    parser.add_argument("--backend", default="openvino", help="library that will run it (default: openvino)")
    precisions = ", ".join(f"{name}: {'|'.join(backend.precisions)}" for name, backend in BACKENDS.items())
    parser.add_argument("--precision", help=f"arithmetic ({precisions}; default: what is usual)")
    parser.add_argument(
        "--batch",
        metavar="MIN:OPT:MAX",
        help="images in one run of a TensorRT engine: fewest, usual, most, or one number (default: 1:8:32)",
    )
    parser.add_argument(
        "--compute-capability",
        metavar="A,B",
        help="GPUs that a TensorRT-RTX engine is for, such as 8.6,8.9,12.0 (default: all from 8.0 that it builds for)",
    )
    return parser


def _capabilities(text: str | None) -> tuple[str, ...] | None:
    """("8.6", "8.9") of "8.6,8.9"."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip()) or None


def _build(
    package: "Package",
    arguments: argparse.Namespace,
    precision: str,
    console: "Console",
    reference: "Reference",
) -> dict[str, Any]:
    """Build one engine, with a bar for each phase of it that takes long; returns its entry in the manifest."""
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    from prn_fast.build import build_engine
    from prn_fast.build.candidate import BuildOptions
    from prn_fast.build.profiles import BatchProfile

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, transient=True, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def on_share(phase: str, share: float) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=1.0)
            bars.update(tasks[phase], completed=share)

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
    from rich.console import Console
    from rich.table import Table

    from prn_fast.engine import parse_name
    from prn_fast.package import Package

    _, backend, _ = parse_name(arguments.backend)
    precisions = [arguments.precision] if arguments.precision else list(backend.usual)
    for precision in precisions:
        parse_name(f"{arguments.backend}:{precision}")
    package = Package.open(arguments.package)
    console = Console()
    from prn_fast.build import Reference

    reference = Reference(package, lambda line: console.print(line, style="dim"))
    for precision in precisions:
        entry = _build(package, arguments, precision, console, reference)
        verification = entry["verification"]
        table = Table(title=f"{arguments.backend}:{precision} in {package.path}")
        for column in ("on the validation split", "eager fp32", precision, "change"):
            table.add_column(column, justify="left" if column.startswith("on") else "right")
        for name, before in verification["reference_metrics"].items():
            after = verification["engine_metrics"][name]
            table.add_row(name.replace("_", " "), f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
        for name in ("max_score", "mean_score", "max_map", "mean_map"):
            table.add_row(f"difference, {name.replace('_', ' ')}", "", f"{verification['parity'][name]:.2g}", "")
        console.print(table)
        console.print(f"{arguments.backend}:{precision}: {entry['verified']}")
    console.print(f"next: prn-bench {package.path}")
    return 0
