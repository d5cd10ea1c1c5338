"""prn-bench --list-engines: what a package holds, and what each engine needs to run."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIST_OPTION = "--list-engines"


def list_engines(argv: list[str]) -> int:
    """Print a package's engines; measures nothing and needs no engine's library."""
    parser = argparse.ArgumentParser(
        prog=f"prn-bench {LIST_OPTION}", description="List the engines of a model package and what they need to run."
    )
    parser.add_argument("package", type=Path, help="the model package, NAME.prn")
    arguments = parser.parse_args(argv)
    from rich.console import Console
    from rich.table import Table

    from prn_fast.engine import BACKENDS
    from prn_fast.package import Package

    package = Package.open(arguments.package)
    table = Table(title=f"engines of {package.path}")
    for column in ("engine", "MB", "batch", "verified by", "image AUROC", "needs"):
        table.add_column(column, justify="right" if column in ("MB", "image AUROC") else "left", overflow="fold")
    for name, entry in sorted(package.engines.items()):
        size = sum(package.manifest["files"][file]["bytes"] for file in entry["files"])
        change = entry["verification"]["metric_change"]["image_auroc"]
        verified = entry.get("verified", "engine run")
        table.add_row(name, f"{size / 1e6:.1f}", entry.get("batch", "any"), verified, f"{change:+.4f}", needs(entry))
    for name in (name for name, backend in BACKENDS.items() if not backend.built):
        table.add_row(name, "", "any", "", "", "nothing built: runs the package's weights with torch")
    # Wide enough for what is read by a program; a terminal has a width of its own.
    console = Console()
    if not console.is_terminal:
        console = Console(width=180)
    console.print(table)
    return 0


def needs(entry: Mapping[str, Any]) -> str:
    """What an engine needs to run, by its entry in the manifest."""
    versions = entry.get("versions", {})
    version = versions.get(entry["backend"])
    library = f"{entry['backend']} {version}" if version else entry["backend"]
    if entry.get("capabilities"):
        return f"{library}; an NVIDIA GPU of compute capability {', '.join(entry['capabilities'])}"
    return f"{library}; a CPU"
