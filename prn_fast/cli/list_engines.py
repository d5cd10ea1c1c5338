"""prn-bench --list-engines: what a package holds, and what each engine needs to run."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prn_fast.cli.common import Parser, command
from prn_fast.paths import shown_path

if TYPE_CHECKING:
    from prn_fast.package import Package

LIST_OPTION = "--list-engines"
# Need no build, and take the screen from the package.
SCREENING = ("eager", "optimized", "fused")


def list_engines(argv: list[str] | None) -> int:
    """Print a package's engines; measures nothing and needs no engine's library."""
    parser = Parser(
        prog=f"prn-bench {LIST_OPTION}", description="List the engines of a model package and what they need to run."
    )
    parser.add_argument("package", type=Path, help="the model package, NAME.prn")
    arguments = parser.parse_args(argv)
    from rich.table import Table

    from prn_fast.cli.console import PlainConsole
    from prn_fast.engine import BACKENDS
    from prn_fast.package import Package

    package = Package.open(arguments.package)
    table = Table(title=f"engines of {shown_path(package.path)}")
    for column in ("engine", "MB", "batch", "verified by", "image AUROC", "needs"):
        table.add_column(column, justify="right" if column in ("MB", "image AUROC") else "left", overflow="fold")
    for name, entry in sorted(package.engines.items()):
        size = sum(package.manifest["files"][file]["bytes"] for file in entry["files"])
        change = entry["verification"]["metric_change"]["image_auroc"]
        verified = entry.get("verified", "engine run")
        table.add_row(name, f"{size / 1e6:.1f}", entry.get("batch", "any"), verified, f"{change:+.4f}", needs(entry))
    for name, backend in BACKENDS.items():
        if not backend.built:
            table.add_row(name, "", "any", "", "", f"no build; {backend.needs}")
    console = PlainConsole(pipe_width=180)
    console.print(table)
    console.say(early_exit_line(package))
    return 0


def early_exit_line(package: "Package") -> str:
    """Which images leave after the screen, and in which engines; or why none does."""
    known = package.early_exit
    if known is None:
        return f"early exit: off ({package.why_whole})"
    built = [name for name, entry in package.engines.items() if "screen" in entry]
    return (
        f"early exit: {known.exit_share:.0%} of the normal validation images leave, {known.lost} of {known.flagged} "
        f"flagged anomalies; with {', '.join([*built, *SCREENING])}"
    )


def needs(entry: Mapping[str, Any]) -> str:
    """What an engine needs to run, by its entry in the manifest."""
    versions = entry.get("versions", {})
    version = versions.get(entry["backend"])
    library = f"{entry['backend']} {version}" if version else entry["backend"]
    if entry.get("capabilities"):
        return f"{library}; an NVIDIA GPU of compute capability {', '.join(entry['capabilities'])}"
    return f"{library}; a CPU"


if __name__ == "__main__":
    sys.exit(command(list_engines)())
