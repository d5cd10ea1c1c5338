"""Tables of the studies, from their records and from nothing else; bench/figures.py puts them where they belong.

A cell is the mean over seeds with the smallest and the largest, as in 0.953 (0.948 to 0.958). A change is taken seed
by seed against the study's first variant, since runs of one seed see the same split, before its mean is taken.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prn_fast.bench.accuracy.record import Record, Run, figure, find_run, read_records
from prn_fast.bench.accuracy.studies import STUDIES, Variant
from prn_fast.bench.markdown import table
from prn_fast.bench.wording import ABSENT

# Heading, and where the figure stands in a run.
Column = tuple[str, tuple[str, ...]]
VALIDATION: tuple[Column, ...] = (
    ("validation image AUROC", ("validation", "image_auroc")),
    ("validation pixel AP", ("validation", "pixel_average_precision")),
)
TEST: tuple[Column, ...] = (
    ("image AUROC", ("test", "image", "auroc")),
    ("image AP", ("test", "image", "average_precision")),
    ("F1-max", ("test", "image", "f1_max")),
    ("pixel AUROC", ("test", "pixel", "auroc")),
    ("pixel AP", ("test", "pixel", "average_precision")),
    ("PRO", ("test", "pixel", "pro")),
)
CHANGES: tuple[Column, ...] = (*VALIDATION, TEST[0], TEST[3], TEST[5])
KIND_FIGURES = ("image_auroc", "pixel_auroc", "pro")


def summary_figures(folder: Path) -> str:
    """How much is found after seeing 10, 5, 1 or no defects, and kind by kind for the first variant."""
    return _blocks(folder, "seen", _tables(test_table, kinds_table))


def seen_figures(folder: Path) -> str:
    """As `summary_figures`, with the training of each row, and what each row finds of each kind."""
    return _blocks(folder, "seen", _tables(test_table, training_table, kinds_table, each_kind_table))


def preset_figures(folder: Path) -> str:
    """What each network finds, and its training."""
    return _blocks(folder, "presets", _tables(test_table, training_table))


def change_figures(study: str, folder: Path) -> str:
    """Of a study: what each variant changes against the first one, and all figures."""
    return _blocks(folder, study, _tables(changes_table, test_table, training_table))


def resolution_figures(folder: Path) -> str:
    """As `change_figures`, and what each size finds of each kind: small defects may need a larger image."""
    return _blocks(folder, "resolution", _tables(changes_table, test_table, training_table, each_kind_table))


def test_table(record: Record) -> str:
    """One row a variant: figures on test images that training has not seen."""
    rows = [
        [variant.name, str(len(runs)), *(_spread([figure(run, name) for run in runs]) for _, name in TEST)]
        for variant, runs in _variants(record)
    ]
    return table(("variant", "seeds", *(heading for heading, _ in TEST)), rows)


def training_table(record: Record) -> str:
    """One row a variant: how long it was trained, what it validates at, false alarms, images left out of the test."""
    rows = []
    for variant, runs in _variants(record):
        counts = [run["test"]["confusion"] for run in runs]
        alarms = [100 * count["false_alarms"] / (count["false_alarms"] + count["passed"]) for count in counts]
        rows.append(
            [
                variant.name,
                _spread([run["training"]["minutes"] for run in runs], "{:.0f}"),
                _spread([run["training"]["steps"] for run in runs], "{:,.0f}"),
                *(_spread([figure(run, name) for run in runs]) for _, name in VALIDATION),
                _spread(alarms, "{:.1f} %"),
                _spread([_left_out(run) for run in runs], "{:.0f}"),
                _strangers(runs),
            ]
        )
    headings = [heading for heading, _ in VALIDATION]
    ends = ("false alarms", "left out", "image AUROC, parts not trained on")
    return table(("variant", "minutes", "steps", *headings, *ends), rows)


def _left_out(run: Run) -> int:
    """Seen anomalies and their near duplicates."""
    return run["test"]["seen"]["left_out"] + run["test"]["seen"]["near_duplicates"]


def _strangers(runs: Sequence[Run]) -> str:
    """Image AUROC with those good images alone that show no part of the training images, and how many these are."""
    found = [run["test"]["strangers"] for run in runs]
    known = [strangers["image_auroc"] for strangers in found if strangers["image_auroc"] is not None]
    count = _spread([strangers["good"] for strangers in found], "{:.0f}")
    return f"{_spread(known)}, {count} good" if len(known) == len(found) else ABSENT


def changes_table(record: Record) -> str:
    """One row a variant after the first: its figures less the first one's, at the seeds that both have."""
    first = STUDIES[record["study"]].variants[0]
    rows = []
    for variant, runs in _variants(record):
        pairs = [(run, base) for run in runs if (base := find_run(record, first.name, run["seed"]))]
        if variant == first or not pairs:
            continue
        cells = []
        for column in CHANGES:
            name = column[1]
            differences = [figure(run, name) - figure(base, name) for run, base in pairs]
            incomparable = variant.own_validation and column in VALIDATION
            cells.append(ABSENT if incomparable else _spread(differences, "{:+.3f}"))
        rows.append([variant.name, variant.change, str(len(pairs)), *cells])
    if not rows:
        return f"Nothing to hold against {first.name!r} yet."
    return table((f"against {first.name!r}", "what changes", "seeds", *(heading for heading, _ in CHANGES)), rows)


def kinds_table(record: Record) -> str:
    """One row a kind of defect, of the study's first variant."""
    first = STUDIES[record["study"]].variants[0]
    runs = [run for run in record["runs"] if run["variant"] == first.name]
    if not runs:
        return f"No run of {first.name!r} yet."
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        for kind in run["test"]["kinds"]:
            kinds[kind["kind"]].append(kind)
    rows = [
        [
            name,
            _spread([row["count"] for row in found], "{:.0f}"),
            _spread([100 * row["detected"] / row["count"] for row in found], "{:.0f} %"),
            *(_spread([row[figure_name] for row in found]) for figure_name in KIND_FIGURES),
        ]
        for name, found in sorted(kinds.items())
    ]
    return table((f"defect ({first.name})", "images", "detected", "image AUROC", "pixel AUROC", "PRO"), rows)


def each_kind_table(record: Record) -> str:
    """One row a variant: image AUROC of each kind of defect against all good images."""
    names = sorted({kind["kind"] for run in record["runs"] for kind in run["test"]["kinds"]})
    rows = []
    for variant, runs in _variants(record):
        found = [{kind["kind"]: kind["image_auroc"] for kind in run["test"]["kinds"]} for run in runs]
        # Of a rare kind, a seed may leave none to be scored.
        known = {name: [kinds[name] for kinds in found if name in kinds] for name in names}
        rows.append([variant.name, *(_spread(known[name]) if known[name] else ABSENT for name in names)])
    return table(("image AUROC", *names), rows)


def provenance(record: Record, name: str) -> str:
    """What every figure must come with: commands, devices, versions, commits, days, and what is not as it should be."""
    runs = sorted(record["runs"], key=lambda run: run["seed"])
    first = _variants(record)[0][1][0]
    libraries = first["environment"]["libraries"]
    versions = ", ".join(f"{library} {libraries[library]}" for library in ("torch", "openvino") if library in libraries)
    cores = _distinct(str(run["environment"]["machine"]["usable_cores"]) for run in runs)
    threads = _distinct(str(run["environment"]["threads"]) for run in runs)
    parts = [
        f"{record['data']}: `{first['commands']['train']}`, then `{first['commands']['evaluate']}`, and so on for each "
        f"row and seed (all commands stand in `bench/accuracy/results/{name}`), on "
        f"{_distinct(run['training']['device'] for run in runs)}, {threads} of {cores} cores, {versions}, commit "
        f"{_distinct(run['commit'] for run in runs)}, {_distinct(run['date'][:10] for run in runs)}."
    ]
    if resumed := sum(run["resumed"] for run in runs):
        parts.append(f"{resumed} of {len(runs)} trainings were interrupted and went on.")
    if changed := sum(not run["clean"] for run in runs):
        parts.append(f"**{changed} of {len(runs)} runs come from a checkout with changes that are in no commit.**")
    if len({(run["commit"], run["training"]["device"]) for run in runs}) > 1:
        parts.append("**Not all runs are of one commit and device: rows may differ for that reason, too.**")
    return " ".join(parts)


def _tables(*makers: Callable[[Record], str]) -> Callable[[Record], str]:
    return lambda record: "\n\n".join(make(record) for make in makers)


def _blocks(folder: Path, study: str, make: Callable[[Record], str]) -> str:
    """Tables and provenance of each record of a study; nothing where there is none."""
    return "\n\n".join(
        f"{make(record)}\n\n{provenance(record, name)}"
        for name, record in read_records(folder, study).items()
        if record["runs"]
    )


def _variants(record: Record) -> list[tuple[Variant, list[Run]]]:
    """Variants that have runs, in the study's order; those that the study no longer has come last."""
    declared = {variant.name: variant for variant in STUDIES[record["study"]].variants}
    recorded = {run["variant"] for run in record["runs"]}
    gone = {name: Variant(name, "no longer in the study") for name in sorted(recorded - set(declared))}
    return [
        (variant, sorted((run for run in record["runs"] if run["variant"] == name), key=lambda run: run["seed"]))
        for name, variant in (declared | gone).items()
        if name in recorded
    ]


def _spread(values: Sequence[float], form: str = "{:.3f}") -> str:
    """Mean, with the smallest and the largest where they differ as written."""
    low, mean, high = (form.format(value) for value in (min(values), float(np.mean(values)), max(values)))
    return mean if low == high else f"{mean} ({low} to {high})"


def _distinct(values: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(values))


# By the name that stands in a file's markers.
FIGURES: dict[str, Callable[[Path], str]] = {
    **{f"accuracy-{study}": partial(change_figures, study) for study in STUDIES},
    "accuracy": summary_figures,
    "accuracy-seen": seen_figures,
    "accuracy-presets": preset_figures,
    "accuracy-resolution": resolution_figures,
}
