"""The report as Markdown tables, for an issue, a README or a log."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from prn_fast.bench.report.document import Report
from prn_fast.bench.report.formatting import ABSENT, describe_memory, hertz, interval_text, number, signed
from prn_fast.bench.scenarios.cameras import Tiling
from prn_fast.engine.names import split_way


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    ruler = ["---", *("---:" for _ in columns[1:])]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (columns, ruler, *rows)
    )


def as_markdown(report: Report) -> str:
    """Speed, scenarios, agreement and environment."""
    parts = [f"# prn-bench: {report['package']['name']}"]
    if report["results"]:
        parts += ["Latency of one call, ms:", speed_table(report)]
    for name, make in (("offline", offline_table), ("server", server_table), ("line-camera", camera_table)):
        if any(entry["scenario"] == name for entry in report["scenarios"]):
            parts += [f"Scenario {name}:", make(report)]
    if verdicts := [f"- `{entry['engine']}` {entry['verdict']}" for entry in _of(report, "line-camera")]:
        parts.append("\n".join(verdicts))
    if exits := early_exit_rows(report):
        parts += ["With and without early exit:", table(EARLY_EXIT_COLUMNS, exits)]
    parts += ["Agreement with float32 eager:", agreement_table(report)]
    warnings = [
        f"- {entry['engine']}, {entry['scenario']}: {'; '.join(entry['warnings'])}"
        for entry in (*report["results"], *report["scenarios"])
        if entry["warnings"]
    ]
    if warnings:
        parts += ["Warnings:", "\n".join(warnings)]
    parts.append(provenance(report))
    return "\n\n".join(parts) + "\n"


def speed_table(report: Report) -> str:
    """Closed loops: one row for each engine and batch size."""
    rows = []
    for result in report["results"]:
        latency, speedup = result["latency_ms"], result["speedup"] or {"ratio": None, "interval": None}
        interval = f" ({interval_text(speedup['interval'])})" if speedup["interval"] else ""
        rows.append(
            [
                f"`{result['engine']}`",
                str(result["batch"]),
                *(number(latency[name]) for name in ("p50", "p90", "p99", "p999", "max")),
                str(result["samples"]),
                number(result["images_per_second"]),
                number(speedup["ratio"]) + interval,
                describe_memory(result["memory"]),
            ]
        )
    return table(
        ("engine", "batch", "p50", "p90", "p99", "p99.9", "max", "calls", "images/s", "x eager", "peak MB"), rows
    )


def offline_table(report: Report) -> str:
    """Throughput with all images there at once."""
    rows = [
        [
            f"`{entry['engine']}`",
            str(entry["batch"]),
            number(entry["images_per_second"]),
            interval_text(entry["interval"]),
            str(len(entry["rates"])),
        ]
        for entry in _of(report, "offline")
    ]
    return table(("engine", "batch", "images/s", "95 % interval", "runs"), rows)


def server_table(report: Report) -> str:
    """Highest rate of random arrivals that holds the bound."""
    rows = [
        [
            f"`{entry['engine']}`",
            number(entry["held"]["rate"]) if entry["held"] else entry["reason"],
            number(entry["held"]["latency_ms"]["p50"]) if entry["held"] else ABSENT,
            number(entry["held"]["latency_ms"]["p99"]) if entry["held"] else ABSENT,
            f"{entry['p99_ms']:g}",
            str(entry["held"]["queries"]) if entry["held"] else ABSENT,
        ]
        for entry in _of(report, "server")
    ]
    return table(("engine", "images/s sustained", "p50 ms", "p99 ms", "bound ms", "queries"), rows)


def camera_table(report: Report) -> str:
    """The highest sustained line rate, how long results took, and what share of a real camera's tiles that is."""
    rows = []
    for entry in _of(report, "line-camera"):
        run = entry["held"]
        nearest = max(entry["cameras"], key=lambda camera: camera["share"])
        if run is None:
            rows.append([f"`{entry['engine']}`", entry["verdict"], *[ABSENT] * 5])
            continue
        latency = run["latency_ms"]
        rows.append(
            [
                f"`{entry['engine']}`",
                f"{entry['width']} px at {hertz(run['rate'])}{'' if entry['confirmed'] else ', in one run'}",
                number(latency["p50"]),
                number(latency["max"]),
                str(run["inspected"]),
                str(run["lines_lost"]),
                f"{nearest['share']:.1%} of {nearest['name']}",
            ]
        )
    heads = ("engine", "sustained", "p50 ms", "longest ms", "strips", "lines lost", "nearest camera's tiles/s")
    return table(heads, rows)


def early_exit_rows(report: Report) -> list[list[str]]:
    """Each engine that lets images leave early, below the same engine with all images whole; none where none does.

    Speeds are the median of offline, and the tiles a second that the line camera sustained, with the ratio to whole.
    What left stands beside each: a line camera's tiles are not the images that offline takes, where tiles overlap.
    """
    early = {engine["name"]: engine["early_exit"] for engine in report["engines"] if engine.get("early_exit")}
    rows = []
    for whole in dict.fromkeys(split_way(name)[0] for name in early):
        for name in (whole, *(one for one in early if split_way(one)[0] == whole)):
            exits = early.get(name)
            rows.append(
                [
                    f"`{name}`",
                    f"{exits['good_left']} of {exits['good']}" if exits else ABSENT,
                    f"{exits['lost']} of {exits['flagged']}" if exits else ABSENT,
                    *chain.from_iterable(
                        (
                            _mixed(report, scenario, name, "defects"),
                            _mixed(report, scenario, name, "left"),
                            _with_ratio(report, scenario, name, whole),
                        )
                        for scenario in ("offline", "line-camera")
                    ),
                ]
            )
    return rows


EARLY_EXIT_COLUMNS = (
    "engine", "good images that leave", "detected defects lost",
    "offline: with defects", "left", "images/s", "line camera: with defects", "left", "tiles/s",
)  # fmt: skip


def _mixed(report: Report, scenario: str, name: str, kind: str) -> str:
    """The share of the images that a scenario fed to an engine which had defects, or left early."""
    mixes = [entry["mix"] for entry in _of(report, scenario) if entry["engine"] == name and "mix" in entry]
    images = sum(mix["images"] for mix in mixes)
    return f"{sum(mix[kind] for mix in mixes) / images:.1%}" if images else ABSENT


def _with_ratio(report: Report, scenario: str, name: str, whole: str) -> str:
    """The rate of an engine in a scenario, and how many times that of `whole` it is."""
    rates = {entry["engine"]: _rate(entry) for entry in _of(report, scenario)}
    rate, base = rates.get(name), rates.get(whole)
    if rate is None:
        return ABSENT
    return number(rate) if base is None or name == whole else f"{number(rate)} ({rate / base:.2f} x)"


def _rate(entry: dict[str, Any]) -> float | None:
    """Images, or tiles, a second that a scenario found; None where no rate was sustained."""
    if entry["scenario"] == "offline":
        return entry["images_per_second"]
    tiling = Tiling(entry["width"], entry["side"], entry["overlap"])
    return tiling.tiles_per_second(entry["held"]["rate"]) if entry["held"] else None


def agreement_table(report: Report) -> str:
    """Errors against float32 eager, and faults."""
    rows = []
    for engine in report["engines"]:
        parity = engine["parity"] or {}
        auroc = parity.get("image_auroc")
        rows.append(
            [
                f"`{engine['name']}`",
                engine["status"] if not engine["faults"] else f"{engine['status']}: {'; '.join(engine['faults'])}",
                number(parity.get("score_max_error"), 2),
                number(parity.get("map_mean_error"), 2),
                ABSENT if auroc is None else f"{auroc:.4f}",
                signed(parity.get("image_auroc_change")),
            ]
        )
    return table(("engine", "checks", "score error max", "map error mean", "image AUROC", "change"), rows)


def provenance(report: Report) -> str:
    """Command, device, versions and commit in one paragraph: what every figure must come with."""
    environment = report["environment"]
    machine, libraries = environment["machine"], environment["libraries"]
    device = ", ".join(gpu["name"] for gpu in environment["gpus"]) or machine["cpu"]
    versions = ", ".join(
        f"{name} {libraries[name]}" for name in ("torch", "openvino", "onnxruntime") if name in libraries
    )
    loads = [entry["others_share"] for entry in (*report["results"], *report["scenarios"])]
    load = f"; other processes used at most {max(loads):.0%} of the machine" if loads else ""
    return (
        f"`{report['command']}` on {device}, {machine['usable_cores']} cores, {versions}, "
        f"commit {environment['commit']}, {report['created'][:10]}{load}."
    )


def _of(report: Report, scenario: str) -> list[dict]:
    return [entry for entry in report["scenarios"] if entry["scenario"] == scenario]
