"""The README's table of GPU figures, made from recorded runs of gpu_run.py and from nothing else.

    python -m prn_fast.bench.tables [--results bench/results] [--write README.md]

Without --write the table is printed. With it, it replaces what stands between the two markers in that file.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prn_fast.errors import ConfigError, PRNError

RESULTS = Path(__file__).resolve().parent / "results"
BEGIN, END = "<!-- gpu figures: python -m prn_fast.bench.tables --write README.md -->", "<!-- end of gpu figures -->"
NOTHING = "Not measured on a GPU yet."

Row = dict[str, Any]


def recorded_runs(folder: Path) -> list[dict[str, Any]]:
    """Runs on a GPU below a folder, in the order of their paths; small runs only try the procedure and are left out.

    Raises:
        ConfigError: a file that is no recorded run.
    """
    runs = []
    for path in sorted(folder.glob("*/*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not content["small"] and content["device"] not in (None, "cpu"):
                runs.append(content)
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{path}: is no run recorded by bench/gpu_run.sh; remove it or record it again") from None
    return runs


def rows_of(run: dict[str, Any], *sections: str) -> list[Row]:
    """The rows of some sections, in order; none of a section that was not run."""
    return [row for name in sections for row in run["sections"].get(name, {}).get("rows", [])]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def number(value: float | None, digits: int) -> str:
    """A value for a reader; empty where there were too few samples for it."""
    return "" if value is None else f"{value:,.{digits}f}"


def network_table(run: dict[str, Any]) -> list[str]:
    """Latency and rate of every formulation; what was refused is said, with the reason."""
    compiled = [name for name in run["sections"] if name.startswith("compiled-")]
    rows = [row for row in rows_of(run, "engine", *compiled) if "kernel_shares" not in row]
    cells = []
    for row in rows:
        if "p50_ms" in row:
            figures = [number(row[name], 2) for name in ("p50_ms", "p90_ms", "p99_ms")]
            figures += [number(row["images_per_second"], 0), str(row["samples"])]
        else:
            figures = [f"refused: {row['refused']}", "", "", "", ""]
        cells.append([row["name"], str(row["batch"]), *figures])
    return table(["network", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s", "samples"], cells) if cells else []


def operation_table(run: dict[str, Any]) -> list[str]:
    """Time and bandwidth of every operation."""
    cells = []
    for row in rows_of(run, "kernels"):
        if "p50_ms" in row:
            figures = [number(row["p50_ms"], 4), number(row["gigabytes_per_second"], 0)]
            figures += [number(row["percent_of_copy"], 0), number(row["times_faster"], 1)]
        else:
            figures = [f"refused: {row['refused']}", "", "", ""]
        cells.append([row["op"], row["shape"], str(row["batch"]), *figures])
    heads = ["operation", "shape", "batch", "p50 ms", "GB/s", "% of copy", "times published, eager"]
    return table(heads, cells) if cells else []


def heading(run: dict[str, Any]) -> str:
    """Where, when and with what a run was recorded."""
    found = (rows_of(run, "environment") or [{}])[0]
    versions = ", ".join(f"{name} {found[name]}" for name in ("torch", "triton", "cuda") if name in found)
    unfinished = [f"{name} {entry['state']}" for name, entry in run["sections"].items() if entry["state"] != "done"]
    note = f" Not whole: {', '.join(unfinished)}." if unfinished else ""
    return f"{run['device']}, {versions}, `{run['command']}`, commit {run['commit']}, {run['started'][:10]}.{note}"


def gpu_figures(folder: Path = RESULTS) -> str:
    """Markdown of all recorded runs; a plain sentence where there is none."""
    runs = recorded_runs(folder)
    if not runs:
        return NOTHING
    parts = []
    for run in runs:
        blocks = [[heading(run)], network_table(run), operation_table(run)]
        parts += ["\n".join(lines) for lines in blocks if lines]
    return "\n\n".join(parts)


def write_between_markers(path: Path, figures: str) -> None:
    """Replace what stands between the markers of a file.

    Raises:
        ConfigError: the file has no such markers.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"{path}: has no lines {BEGIN!r} and {END!r} to write between")
    path.write_text(f"{before}{BEGIN}\n{figures}\n{END}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures, or write them into a file; 2 on an error."""
    parser = argparse.ArgumentParser(prog="python -m prn_fast.bench.tables", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--write", type=Path, metavar="FILE", help="a Markdown file with the two markers")
    options = parser.parse_args(arguments)
    try:
        figures = gpu_figures(options.results)
        if options.write is None:
            print(figures)
        else:
            write_between_markers(options.write, figures)
    except PRNError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
