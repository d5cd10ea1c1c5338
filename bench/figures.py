"""The figures of the README and the guides, made from recorded results alone.

    python -m prn_fast.bench.figures FILE... [--results bench/results]

What stands between `<!-- figures:NAME -->` and `<!-- /figures:NAME -->` is replaced by what NAME gives, see `FIGURES`.
Below bench/results/DEVICE are reports of prn-bench in packages/, with baselines in baselines/, with early exit in
early-exit/; results of prn-eval in evaluations/, runs with line cameras in linescan/, of a server in serving/, of
training's loader in training/, and studies of calibration in calibration/. bench/results/launches.json counts the fused
network's kernels. Records of accuracy studies are in bench/accuracy/results/.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from prn_fast.bench.accuracy import failures, pareto, tables
from prn_fast.bench.accuracy.calibration_splits import split_figures
from prn_fast.bench.linescan import figures as linescan_figures
from prn_fast.bench.loader_speed import loader_figures
from prn_fast.bench.machine.environment import is_clean
from prn_fast.bench.machine.measurement import measured
from prn_fast.bench.plant import figures as plant_figures
from prn_fast.bench.report import markdown
from prn_fast.bench.report.document import Report
from prn_fast.bench.report.formatting import hertz, number
from prn_fast.bench.report.gpu_tables import gpu_figures, launch_figures
from prn_fast.bench.report.history import BASELINES, PACKAGES, RESULTS, latest_reports, study_records
from prn_fast.errors import ConfigError, DataError, PRNError

EVALUATIONS, EARLY_EXIT = "evaluations", "early-exit"
NOTHING = "Not measured yet."
_MARKED = re.compile(r"(<!-- figures:([\w-]+) -->\n).*?(<!-- /figures:\2 -->)", re.DOTALL)


def engine_figures(results: Path) -> str:
    """Closed loops of each report: latency, throughput and ratio to eager."""
    return _each(results, "results", markdown.speed_table)


def baseline_figures(results: Path) -> str:
    """Closed loops of each report that was made with `--baselines`."""
    return _each(results, "results", markdown.speed_table, BASELINES)


def headline_figures(results: Path) -> str:
    """The README's table: one image at a time beside other ways to run the network, and the line rate that is held."""
    return "\n\n".join(_headline(report, results) for report in latest_reports(results, BASELINES)) or NOTHING


def _headline(report: Report, results: Path) -> str:
    single = [result for result in report["results"] if result["batch"] == 1]
    rows = [
        [
            f"`{result['engine']}`",
            *(number(result["latency_ms"][name]) for name in ("p50", "p99")),
            number(result["images_per_second"]),
            number(result["speedup"]["ratio"] if result["speedup"] else None),
        ]
        for result in sorted(single, key=lambda result: -result["images_per_second"])
    ]
    speeds = markdown.table(("engine", "p50 ms", "p99 ms", "images/s", "x eager"), rows)
    parts = [_title(report), speeds, _held_line_rate(report, results), markdown.provenance(report)]
    return "\n\n".join(part for part in parts if part)


def _held_line_rate(report: Report, results: Path) -> str:
    """A sentence on the highest line rate that an engine of the same package held, in the newest recorded run.

    Runs before version 0.2.0, which state no mixture of images, simulated the camera's buffers.
    """
    name = report["package"]["name"]
    entries = [
        entry
        for other in latest_reports(results)
        if other["package"]["name"] == name
        for entry in other["scenarios"]
        if entry["scenario"] == "line-camera" and entry["held"] and entry["confirmed"]
    ]
    if not entries:
        return ""
    best = max(entries, key=lambda entry: entry["held"]["rate"])
    nearest = max(best["cameras"], key=lambda camera: camera["share"])
    held = f"`{best['engine']}` keeps up with a line camera of {best['width']} pixels at {hertz(best['held']['rate'])}"
    share = f"{nearest['share']:.1%} of what the least demanding camera compared, {nearest['name']}, sends at full rate"
    simulated = "" if "mix" in best else " This run is from before version 0.2.0, when buffers were simulated."
    return f"{held} and loses no line: {share}.{simulated}"


def scenario_figures(results: Path) -> str:
    """Offline and server of each report."""

    def tables(report: Report) -> str:
        return f"{markdown.offline_table(report)}\n\n{markdown.server_table(report)}"

    return _each(results, "scenarios", tables)


def camera_figures(results: Path) -> str:
    """Line-camera verdicts of each report."""
    return _each(results, "scenarios", markdown.camera_table)


def early_exit_figures(results: Path) -> str:
    """Each engine with and without early exit, of the reports that measured both."""
    blocks = [
        f"{_title(report)}\n\n{markdown.table(markdown.EARLY_EXIT_COLUMNS, rows)}\n\n{markdown.provenance(report)}"
        for kind in (PACKAGES, EARLY_EXIT)
        for report in latest_reports(results, kind)
        if (rows := markdown.early_exit_rows(report))
    ]
    return "\n\n".join(blocks) or NOTHING


def agreement_figures(results: Path) -> str:
    """Agreement with float32 eager of each report."""
    return _each(results, "engines", markdown.agreement_table)


def detection_figures(results: Path) -> str:
    """What prn-eval found on test images that training has not seen: all defects, then each kind."""
    tables = []
    for path in sorted(results.glob(f"*/{EVALUATIONS}/*.json")):
        try:
            tables.append(_detection_table(json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{path}: is no result of prn-eval; record it again or remove it") from None
    return "\n\n".join(tables) or NOTHING


def _detection_table(result: dict[str, Any]) -> str:
    image, pixel, counts, training = result["image"], result["pixel"], result["confusion"], result["training"]
    defects, good = counts["detected"] + counts["missed"], counts["passed"] + counts["false_alarms"]
    lines = [
        f"{Path(result['data']).name}: `{training['preset']}`, {training['minutes']} minutes of training on "
        f"{training['device']} ({training['steps']} steps, seed {training['seed']}, torch {training['torch']}, commit "
        f"{training['commit']}), then `{result['command']}` with {result['engine']}, commit {result['commit']}. "
        f"{result['seen']['left_out']} seen anomalies are left out, {_duplicates(result['seen'])}. At the "
        f"package's threshold {counts['false_alarms']} of {good} good images are called defective.",
        "",
        "| defect | images | detected | image AUROC | image AP | pixel AUROC | pixel AP | PRO |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind in result["kinds"]:
        row = (kind["kind"], kind["count"], kind["detected"], f"{kind['image_auroc']:.3f}", "")
        lines.append(_line(*row, f"{kind['pixel_auroc']:.3f}", "", f"{kind['pro']:.3f}"))
    figures = (image["auroc"], image["average_precision"], pixel["auroc"], pixel["average_precision"], pixel["pro"])
    lines.append(_line("**all**", defects, counts["detected"], *(f"{figure:.3f}" for figure in figures)))
    return "\n".join(lines)


def _duplicates(seen: dict[str, int]) -> str:
    """What became of other pictures of the seen parts; former evaluations scored them."""
    if "near_duplicates" not in seen:
        return "**other pictures of the same parts are not**"
    return f"and {seen['near_duplicates']} other pictures of the same parts"


def _line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def study_figures(make: Callable[[Path], str], results: Path) -> str:
    """What `make` gives of the records of accuracy studies."""
    return make(study_records(results)) or NOTHING


def speed_figures(results: Path) -> str:
    """What each network finds against how fast it is."""
    return pareto.speed_figures(study_records(results), latest_reports(results))


def _or_nothing(make: Callable[[Path], str], results: Path) -> str:
    return make(results) or NOTHING


def require_clean_records(results: Path) -> None:
    """Refuse a record, of whatever kind, whose code is in no commit: nobody could measure it again.

    Raises:
        ConfigError: names the record.
    """
    for path in sorted([*results.rglob("*.json"), *study_records(results).rglob("*.json")]):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # whoever makes figures of it says what is wrong with it
        if changed := [name for name in _commits(record) if not is_clean(name)]:
            raise ConfigError(
                f"{path}: was recorded from a checkout that is no commit ({changed[0]}); record it again from a clean "
                "checkout, or remove it"
            )


def _commits(value: object) -> Iterator[str]:
    """Every commit that a record names, at any depth."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name == "commit" and isinstance(part, str):
                yield part
            else:
                yield from _commits(part)
    elif isinstance(value, list):
        for part in value:
            yield from _commits(part)


FIGURES: dict[str, Callable[[Path], str]] = {
    "headline": headline_figures,
    "detection": detection_figures,
    "engines": engine_figures,
    "baselines": baseline_figures,
    "scenarios": scenario_figures,
    "line-camera": camera_figures,
    "early-exit": early_exit_figures,
    "agreement": agreement_figures,
    "gpu": gpu_figures,
    "launches": launch_figures,
    **{name: partial(_or_nothing, make) for name, make in linescan_figures.FIGURES.items()},
    **{name: partial(_or_nothing, make) for name, make in plant_figures.FIGURES.items()},
    **{name: partial(study_figures, make) for name, make in tables.FIGURES.items()},
    "loader": partial(_or_nothing, partial(measured, "training/loader-*.json", loader_figures)),
    "calibration": partial(_or_nothing, split_figures),
    "accuracy-speed": speed_figures,
    "accuracy-failures": lambda results: failures.failure_figures() or NOTHING,
}


def fill(text: str, results: Path) -> str:
    """The text with its marked parts made anew. Errors: ConfigError for a marker that nothing fills or that is open."""
    opened = set(re.findall(r"<!-- figures:([\w-]+) -->", text))
    if unknown := opened - set(FIGURES):
        raise ConfigError(f"no figures are called {', '.join(sorted(unknown))}; choose one of {', '.join(FIGURES)}")
    if unclosed := opened - {name for _, name, _ in _MARKED.findall(text)}:
        raise ConfigError(f"no closing marker <!-- /figures:{sorted(unclosed)[0]} -->")
    return _MARKED.sub(lambda part: f"{part[1]}{FIGURES[part[2]](results).strip()}\n{part[3]}", text)


def main(argv: list[str] | None = None) -> int:
    """Fill files; 2 on an error."""
    parser = argparse.ArgumentParser(prog="python -m prn_fast.bench.figures", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    try:
        require_clean_records(arguments.results)
        for path in arguments.files:
            _fill_file(path, arguments.results)
    except PRNError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _fill_file(path: Path, results: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        filled = fill(text, results)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if filled != text:
        path.write_text(filled, encoding="utf-8")


def _each(results: Path, part: str, make: Callable[[Report], str], kind: str = PACKAGES) -> str:
    """A titled table with its provenance for each report of this kind that has this part."""
    blocks = [
        f"{_title(report)}\n\n{make(report)}\n\n{markdown.provenance(report)}"
        for report in latest_reports(results, kind)
        if report[part]
    ]
    return "\n\n".join(blocks) or NOTHING


def _title(report: Report) -> str:
    config = report["package"]["config"]
    return f"**{config['backbone']}, {config['image_size']}x{config['image_size']}** (`{report['package']['name']}`)"


if __name__ == "__main__":
    sys.exit(main())
