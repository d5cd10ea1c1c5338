"""Tables of GPU figures, made from recorded runs of `bench/gpu_run.sh` and from nothing else."""

import json
from pathlib import Path
from typing import Any

from prn_fast.bench.report.markdown import table
from prn_fast.errors import ConfigError

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


def decimals(value: float | None, digits: int) -> str:
    """A value for a reader; empty where there were too few samples for it."""
    return "" if value is None else f"{value:,.{digits}f}"


def network_table(run: dict[str, Any]) -> str:
    """Latency and rate of every formulation; what was refused is said, with the reason."""
    compiled = [name for name in run["sections"] if name.startswith("compiled-")]
    rows = [row for row in rows_of(run, "engine", "eager", *compiled) if "kernel_shares" not in row]
    cells = []
    for row in rows:
        if "batch" not in row:
            continue
        if "p50_ms" in row:
            figures = [decimals(row[name], 2) for name in ("p50_ms", "p90_ms", "p99_ms")]
            figures += [decimals(row["images_per_second"], 0), str(row["samples"])]
        else:
            figures = [f"refused: {row['refused']}", "", "", "", ""]
        cells.append([row["name"], str(row["batch"]), *figures])
    return table(["network", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s", "samples"], cells) if cells else ""


def operation_table(run: dict[str, Any]) -> str:
    """Time and bandwidth of every operation, from graphs, and how many times as long the published one takes."""

    def place(row: Row) -> tuple[Any, ...]:
        return row["op"], row["shape"], row["dtype"], row["batch"]

    published = {place(row): row["p50_ms"] for row in rows_of(run, "published-kernels") if "p50_ms" in row}
    cells = []
    for row in rows_of(run, "kernels"):
        if "p50_ms" in row:
            figures = [decimals(row["p50_ms"], 4), decimals(row["gigabytes_per_second"], 0)]
            theirs = published.get(place(row))
            figures += [decimals(row["percent_of_copy"], 0), decimals(theirs and theirs / row["p50_ms"], 1)]
        else:
            figures = [f"refused: {row['refused']}", "", "", ""]
        cells.append([row["op"], row["shape"], str(row["batch"]), *figures])
    heads = ["operation", "shape", "batch", "p50 ms", "GB/s", "% of copy", "times published"]
    return table(heads, cells) if cells else ""


def heading(run: dict[str, Any]) -> str:
    """Where, when and with what a run was recorded."""
    found = (rows_of(run, "environment") or [{}])[0]
    versions = ", ".join(f"{name} {found[name]}" for name in ("torch", "triton", "cuda") if name in found)
    unfinished = [f"{name} {entry['state']}" for name, entry in run["sections"].items() if entry["state"] != "done"]
    note = f" Not whole: {', '.join(unfinished)}." if unfinished else ""
    return f"{run['device']}, {versions}, `{run['command']}`, commit {run['commit']}, {run['started'][:10]}.{note}"


def gpu_figures(folder: Path) -> str:
    """Markdown of all recorded runs; a plain sentence where there is none."""
    runs = recorded_runs(folder)
    if not runs:
        return NOTHING
    parts = [part for run in runs for part in (heading(run), network_table(run), operation_table(run)) if part]
    return "\n\n".join(parts)


def launch_figures(results: Path) -> str:
    """What one run of the fused network puts on a GPU, counted without one: results/launches.json."""
    path = results / "launches.json"
    if not path.exists():
        return "Not counted yet."
    report = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        [
            row["name"],
            str(sum(row["kernels"].values())),
            str(sum(count for name, count in row["kernels"].items() if name.endswith("_kernel"))),
            str(sum(count for name, count in row["kernels"].items() if name in row["megabytes_an_image"])),
            f"{sum(row['megabytes_an_image'].values()):.1f}",
        ]
        for row in report["rows"]
    ]
    head = [
        "what follows a convolution",
        "kernels",
        "of them Triton's",
        "of them element-wise",
        "these move, MB per image",
    ]
    told = f"torch {report['torch']}, triton {report['triton']}, commit {report['commit']}"
    return f"{table(head, rows)}\n\nCounted by `{report['command']}`, {told}."
