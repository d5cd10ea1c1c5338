"""Tables of the studies, from their records and from nothing else; bench/figures.py puts them where they belong.

A cell is the mean over seeds with the smallest and the largest, as in 0.953 (0.948 to 0.958). A change is taken seed
by seed against the study's first variant, since runs of one seed see the same split, before its mean is taken. Over
several products, the mean of the products' means is what counts: a large set weighs no more than a small one.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prn_fast.bench.accuracy.maps import maps_table, predictors_table
from prn_fast.bench.accuracy.record import Record, Run, figure, find_run, read_records
from prn_fast.bench.accuracy.studies import STUDIES, Variant
from prn_fast.bench.report.formatting import ABSENT
from prn_fast.bench.report.markdown import table

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
PRODUCT_FIGURES = (TEST[0][1], TEST[3][1], TEST[5][1])
YARDSTICK = "nearest-patch"
# Folder of records beside those of the tables.
LONGER = "longer"
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


def exit_figures(folder: Path) -> str:
    """How many images leave early, what is lost by it and what packages had promised; and what screens find alone.

    Of all trainings with prn-train's defaults, and of those of the study that varies the bound of the loss.
    """
    records = {**read_records(folder, "products"), **read_records(folder, "exit")}
    records = {name: record for name, record in records.items() if record["runs"]}
    if not records:
        return ""
    parts = [exit_table(list(records.values())), screen_table(list(records.values()))]
    return "\n\n".join(filter(None, [*parts, *(provenance(record, name) for name, record in records.items())]))


def _each_run(records: Sequence[Record]) -> Iterator[tuple[list[str], Run]]:
    """All runs of some records with what names them: product, variant and seed."""
    for record in records:
        for variant, runs in _variants(record):
            for run in runs:
                yield [record["data"], variant.name, str(run["seed"])], run


def exit_table(records: Sequence[Record]) -> str:
    """One row for each run with a screen: the package's own figures from validation, then those of the test images."""
    rows = [[*named, *_exit_cells(run["screen"], run["test"].get("early_exit"))] for named, run in _each_run(records)]
    headings = (
        "held-out normals leave", "flagged anomalies", "loss at most", "good test images leave", "detected defects",
        "lost", "false alarms fewer",
    )  # fmt: skip
    return table(("product", "variant", "seed", *headings), rows)


def screen_table(records: Sequence[Record]) -> str:
    """Two rows a run: what the network finds, and what its screen finds alone; "" where none was taken."""
    rows = []
    for named, run in _each_run(records):
        if alone := run["test"].get("screen_alone"):
            rows += [
                [*named, *_found_cells("network", run["test"])],
                ["", "", "", *_found_cells("screen alone", alone)],
            ]
    headings = ("", "image AUROC", "pixel AUROC", "PRO", "detected", "false alarms")
    return table(("product", "variant", "seed", *headings), rows) if rows else ""


def _found_cells(by: str, figures: dict[str, Any]) -> list[str]:
    counts = figures["confusion"]
    return [
        by,
        *(f"{value:.3f}" for value in (figures["image"]["auroc"], figures["pixel"]["auroc"], figures["pixel"]["pro"])),
        f"{counts['detected']} of {counts['detected'] + counts['missed']}",
        f"{counts['false_alarms']} of {counts['false_alarms'] + counts['passed']}",
    ]


def _exit_cells(screen: dict[str, Any], effect: dict[str, Any] | None) -> list[str]:
    known = [
        f"{screen['exit_share']:.0%} of {screen['normals']}" if "exit_share" in screen else ABSENT,
        str(screen.get("flagged", ABSENT)),
        f"{screen['loss_bound']:.1%}" if "loss_bound" in screen else ABSENT,
    ]
    if effect is None:
        return [*known, f"none: {screen.get('why_whole', 'runs whole')}", ABSENT, ABSENT, ABSENT]
    return [
        *known,
        f"{effect['good_exited'] / effect['good']:.0%} of {effect['good']}",
        str(effect["detected"]),
        str(effect["lost"]),
        str(effect["alarms_avoided"]),
    ]


def product_figures(folder: Path) -> str:
    """What PRN and the yardstick find of each product, and on average; then each product's trainings."""
    records, yardsticks = read_records(folder, "products"), read_records(folder, YARDSTICK)
    groups = {"": records, "network alone, ": read_records(folder, "seen"), "nearest patch, ": yardsticks}
    return "\n\n".join(
        filter(
            None, [products_table(groups), *_product_blocks(records, yardsticks, _tables(test_table, training_table))]
        )
    )


def longer_figures(folder: Path) -> str:
    """Longer trainings of products, each below the run of the products' table that has the same variant and seed."""
    records = read_records(folder / LONGER, "products")
    shorter = {record["data"]: record for record in read_records(folder, "products").values()}
    rows = []
    for named, run in _each_run(list(records.values())):
        product, variant, seed = named
        beside = find_run(shorter[product], variant, int(seed)) if product in shorter else None
        for one in (run,) if beside is None else (beside, run):
            training = one["training"]
            length = [str(training["epochs"]), f"{training['steps']:,}", f"{training['minutes']:.0f}"]
            figures = [f"{figure(one, path):.3f}" for _, path in CHANGES]
            rows.append([*named, *length, *figures])
    if not rows:
        return ""
    headings = ("product", "variant", "seed", "epochs", "steps", "minutes", *(heading for heading, _ in CHANGES))
    sources = [provenance(record, f"{LONGER}/{name}") for name, record in records.items()]
    return "\n\n".join([table(headings, rows), *sources])


def yardstick_figures(folder: Path) -> str:
    """What the yardstick finds for each product. Its memory does not depend on the seen defects; the test images do."""
    return _blocks(folder, YARDSTICK, _tables(test_table, training_table))


def headline_figures(folder: Path) -> str:
    """The README's table: what prn-train finds by default of each product, beside the yardstick's image AUROC."""
    records = [record for record in read_records(folder, "products").values() if record["runs"]]
    yardsticks = {record["data"]: record for record in read_records(folder, YARDSTICK).values()}
    name, rows, shown = STUDIES["products"].variants[0].name, [], list[Run]()
    for record in records:
        runs = [run for run in record["runs"] if run["variant"] == name]
        beside = [run for run in yardsticks.get(record["data"], {"runs": []})["runs"] if run["variant"] == name]
        if not runs:
            continue
        counts = [run["test"]["confusion"] for run in runs]
        rows.append(
            [
                record["data"],
                *(f"{np.mean([figure(run, path) for run in runs]):.3f}" for path in PRODUCT_FIGURES),
                _share([(count["detected"], count["detected"] + count["missed"]) for count in counts]),
                _share([(count["false_alarms"], count["false_alarms"] + count["passed"]) for count in counts]),
                f"{np.mean([figure(run, PRODUCT_FIGURES[0]) for run in beside]):.3f}" if beside else ABSENT,
                _spread([run["training"]["minutes"] for run in runs], "{:.0f}"),
                str(len(runs)),
            ]
        )
        shown += runs
    if not rows:
        return ""
    found = ("image AUROC", "pixel AUROC", "PRO", "detected", "false alarms", "image AUROC of nearest patch")
    device, cores = (_distinct(values) for values in _machines(shown))
    commits = _distinct(sorted({run["commit"] for run in shown}))
    return (
        f"{table(('product', *found, 'minutes of training', 'trainings'), rows)}\n\n"
        f"`prn-train --data PRODUCT --output PRODUCT.prn --seen 10`, then `prn-eval`, on {device}, {cores}, commit "
        f"{commits}; [Accuracy](docs/accuracy.md#products) has all commands and figures."
    )


def _share(counts: Sequence[tuple[int, int]]) -> str:
    """The mean share of some counts, each of a total."""
    return f"{np.mean([count / total for count, total in counts]):.1%}"


def _machines(runs: Sequence[Run]) -> tuple[list[str], list[str]]:
    """Devices of trainings, and how many cores each took."""
    threads = [run["environment"]["threads"] for run in runs]
    return [run["training"]["device"] for run in runs], [f"{count} core{'s' * (count > 1)}" for count in threads]


def products_table(groups: Mapping[str, Mapping[str, Record]]) -> str:
    """One row for each variant: image AUROC / pixel AUROC / PRO of each product, and their means over all products.

    Each is the mean over seeds. A variant that misses a product has no mean.

    Args:
        groups: records, by what stands before the names of their variants.
    """
    columns = sorted({record["data"] for group in groups.values() for record in group.values()})
    if not columns:
        return ""
    rows = []
    for prefix, group in groups.items():
        found: dict[str, dict[str, list[float]]] = defaultdict(dict)
        for record in group.values():
            for variant, runs in _variants(record):
                means = [float(np.mean([figure(run, name) for run in runs])) for name in PRODUCT_FIGURES]
                found[variant.name][record["data"]] = means
        for name, of_product in found.items():
            whole = len(of_product) == len(columns)
            means = [float(np.mean(values)) for values in zip(*of_product.values(), strict=True)]
            rows.append(
                [
                    f"{prefix}{name}",
                    *(_slashed(of_product[data]) if data in of_product else ABSENT for data in columns),
                    _slashed(means) if whole else ABSENT,
                ]
            )
    return table(("image AUROC / pixel AUROC / PRO", *columns, "mean"), rows)


def mean_changes_table(records: Sequence[Record]) -> str:
    """One row for each variant after the first: its change against the first, averaged over seeds, then over products.

    The spread is that of the products.
    """
    changes: dict[str, list[list[float]]] = defaultdict(list)
    for record in records:
        first = STUDIES[record["study"]].variants[0]
        for variant, runs in _variants(record):
            pairs = [(run, base) for run in runs if (base := find_run(record, first.name, run["seed"]))]
            if variant != first and pairs:
                changes[variant.name].append(
                    [float(np.mean([figure(a, name) - figure(b, name) for a, b in pairs])) for _, name in CHANGES]
                )
    rows = [
        [name, str(len(found)), *(_spread(values, "{:+.3f}") for values in zip(*found, strict=True))]
        for name, found in changes.items()
    ]
    return table(("mean over products", "products", *(heading for heading, _ in CHANGES)), rows) if rows else ""


def test_table(record: Record, yardstick: Record | None) -> str:
    """One row for each variant: figures on test images that training has not seen; below them those of the yardstick.

    The yardstick's rows are those that see as many anomalies as the study's variants do.
    """
    variants = _variants(record)
    seen = {variant.train_options()["--seen"] for variant, _ in variants}
    beside = [] if yardstick is None else _variants(yardstick)
    named = [
        *((variant.name, runs) for variant, runs in variants),
        *((f"nearest patch, {one.name}", runs) for one, runs in beside if one.train_options()["--seen"] in seen),
    ]
    rows = [
        [name, str(len(runs)), *(_spread([figure(run, path) for run in runs]) for _, path in TEST)]
        for name, runs in named
    ]
    return table(("variant", "seeds", *(heading for heading, _ in TEST)), rows)


def training_table(record: Record) -> str:
    """One row for each variant: training time, validation figures, false alarms, images left out of the test."""
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
                _unseen_parts(runs),
            ]
        )
    headings = [heading for heading, _ in VALIDATION]
    ends = ("false alarms", "left out", "image AUROC, parts not trained on")
    return table(("variant", "minutes", "steps", *headings, *ends), rows)


def _left_out(run: Run) -> int:
    """Seen anomalies and their near duplicates."""
    return run["test"]["seen"]["left_out"] + run["test"]["seen"]["near_duplicates"]


def _unseen_parts(runs: Sequence[Run]) -> str:
    """Image AUROC with those good images alone that show no part of the training images, and how many these are."""
    found = [run["test"]["unseen_parts"] for run in runs]
    if any(unseen_parts["good"] is None for unseen_parts in found):
        return ABSENT
    known = [unseen_parts["image_auroc"] for unseen_parts in found if unseen_parts["image_auroc"] is not None]
    count = _spread([unseen_parts["good"] for unseen_parts in found], "{:.0f}")
    return f"{_spread(known)}, {count} good" if len(known) == len(found) else ABSENT


def changes_table(record: Record) -> str:
    """One row for each variant after the first: its figures less the first one's, at the seeds that both have."""
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
    """One row for each kind of defect, of the study's first variant."""
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
    """One row for each variant: image AUROC of each kind of defect against all good images."""
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
        f"{record['data']}: `{'`, then `'.join(first['commands'].values())}`, and so on for each "
        f"row and seed (all commands stand in `bench/accuracy/results/{name}`), on "
        f"{_distinct(run['training']['device'] for run in runs)}, {threads} of {cores} cores, {versions}, commit "
        f"{_distinct(run['commit'] for run in runs)}, {_distinct(run['date'][:10] for run in runs)}."
    ]
    if resumed := sum(run["resumed"] for run in runs):
        parts.append(f"{resumed} of {len(runs)} trainings were interrupted and continued.")
    if changed := sum(not run["clean"] for run in runs):
        parts.append(f"**{changed} of {len(runs)} runs come from a checkout with changes that are in no commit.**")
    if len({(run["commit"], run["training"]["device"]) for run in runs}) > 1:
        parts.append("**Not all runs are of one commit and device: rows may differ for that reason, too.**")
    return " ".join(parts)


def _tables(*makers: Callable[..., str]) -> Callable[[Record, Record | None], str]:
    return lambda record, yardstick: "\n\n".join(
        filter(None, (make(record, yardstick) if make is test_table else make(record) for make in makers))
    )


def _blocks(folder: Path, study: str, make: Callable[[Record, Record | None], str]) -> str:
    """Tables and provenance of each record of a study, after the means over all of them; nothing without one."""
    records = {name: record for name, record in read_records(folder, study).items() if record["runs"]}
    beside = {} if study == YARDSTICK else read_records(folder, YARDSTICK)
    whole = [products_table({"": records}), mean_changes_table(list(records.values()))]
    if len(records) == 1 or study == YARDSTICK:
        whole = []
    return "\n\n".join(filter(None, [*whole, *_product_blocks(records, beside, make)]))


def _product_blocks(
    records: Mapping[str, Record], yardsticks: Mapping[str, Record], make: Callable[[Record, Record | None], str]
) -> list[str]:
    """Tables and provenance of each record, each beside the yardstick of its product, if there is one."""
    of_product = {record["data"]: record for record in yardsticks.values()}
    return [
        f"{make(record, of_product.get(record['data']))}\n\n{provenance(record, name)}"
        for name, record in records.items()
    ]


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


def _slashed(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.3f}" for value in values)


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
    "accuracy-headline": headline_figures,
    "accuracy-exit": exit_figures,
    "accuracy-products": product_figures,
    "accuracy-longer": longer_figures,
    "accuracy-nearest-patch": yardstick_figures,
    "accuracy-maps": maps_table,
    "accuracy-predictors": predictors_table,
    "accuracy-seen": seen_figures,
    "accuracy-presets": preset_figures,
    "accuracy-resolution": resolution_figures,
}
