"""The report as Markdown tables, for an issue, a README or a log."""

from collections.abc import Sequence

from prn_fast.bench.report import Report
from prn_fast.bench.wording import ABSENT, describe_memory, hertz, interval_text, number, signed


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
    """Closed loops: one row an engine and batch size."""
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
    return table(("engine", "images/s held", "p50 ms", "p99 ms", "bound ms", "queries"), rows)


def camera_table(report: Report) -> str:
    """The highest line rate that was held, how long results took, and what share of a real camera's tiles that is."""
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
    heads = ("engine", "held", "p50 ms", "longest ms", "blocks", "lines lost", "nearest camera's tiles a second")
    return table(heads, rows)


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
