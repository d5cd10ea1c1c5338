"""Tables: means, spreads and changes of what is recorded."""

import copy
from pathlib import Path

import pytest

from prn_fast.bench import figures
from prn_fast.bench.accuracy import tables
from prn_fast.bench.accuracy.record import Record, put_run, write_record
from prn_fast.bench.accuracy.studies import STUDIES, Study, Variant


@pytest.fixture
def results(record: Record, tmp_path: Path) -> Path:
    """As bench/results, with the record beside it."""
    folder = tmp_path / "bench" / "accuracy" / "results"
    folder.mkdir(parents=True)
    write_record(record, folder / "tiles-seen.json")
    return tmp_path / "bench" / "results"


def cells(text: str, start: str) -> list[str]:
    """Cells of the only row that starts so."""
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_mean_smallest_and_largest_over_seeds(record: Record) -> None:
    text = tables.test_table(record, None)
    assert cells(text, "10 seen")[1:3] == ["3", "0.920 (0.900 to 0.940)"]
    assert cells(text, "0 seen")[1:3] == ["2", "0.820 (0.800 to 0.840)"]
    # What is the same in all runs has no spread.
    assert "(" not in cells(text, "0 seen")[3]


def test_changes_are_taken_seed_by_seed(record: Record) -> None:
    row = cells(tables.changes_table(record), "0 seen")
    assert row[:3] == ["0 seen", "training sees 0 anomalies", "2"]
    # 0.80 - 0.90 and 0.84 - 0.92; the third seed of "10 seen" has no partner.
    assert row[5] == "-0.090 (-0.100 to -0.080)"


def test_validation_on_other_anomalies_is_not_compared(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = (Variant("10 seen", "as it is"), Variant("0 seen", "generates otherwise", own_validation=True))
    monkeypatch.setitem(STUDIES, "seen", Study("which?", variants))
    row = cells(tables.changes_table(record), "0 seen")
    assert row[3:5] == ["–", "–"]
    assert row[5] != "–"


def test_what_was_left_out_and_which_parts_are_unseen(record: Record) -> None:
    for run, left_out, auroc in zip(record["runs"][:3], (10, 10, 10), (0.7, 0.8, 0.9), strict=True):
        run["test"]["seen"] = {"listed": 10, "left_out": left_out, "near_duplicates": 5 * run["seed"]}
        run["test"]["unseen_parts"] = {"good": 7, "image_auroc": auroc}
    assert cells(tables.training_table(record), "10 seen")[-2:] == ["15 (10 to 20)", "0.800 (0.700 to 0.900), 7 good"]
    for good in (0, None):
        record["runs"][0]["test"]["unseen_parts"] = {"good": good, "image_auroc": None}
        assert cells(tables.training_table(record), "10 seen")[-1] == "–"


def test_kinds_are_of_the_first_variant(record: Record) -> None:
    kind = record["runs"][0]["test"]["kinds"][0]
    for run, auroc, detected in zip(record["runs"][:3], (0.5, 0.6, 0.7), (0, 1, 1), strict=True):
        run["test"]["kinds"] = [kind | {"kind": "crack", "image_auroc": auroc, "count": 2, "detected": detected}]
    row = cells(tables.kinds_table(record), "crack")
    assert row[1:4] == ["2", "33 % (0 % to 50 %)", "0.600 (0.500 to 0.700)"]


def test_each_variant_finds_so_much_of_each_kind(record: Record) -> None:
    kind = record["runs"][0]["test"]["kinds"][0]
    for run, auroc in zip(record["runs"], (0.5, 0.6, 0.7, 0.8, 0.9), strict=True):
        run["test"]["kinds"] = [kind | {"kind": "crack", "image_auroc": auroc}]
    first = next(run for run in record["runs"] if run["variant"] == "10 seen")
    first["test"]["kinds"].insert(0, kind | {"kind": "fray", "image_auroc": 0.3})
    text = tables.each_kind_table(record)
    assert cells(text, "image AUROC") == ["image AUROC", "crack", "fray"]
    assert cells(text, "10 seen")[1:] == ["0.600 (0.500 to 0.700)", "0.300"]
    assert cells(text, "0 seen")[1:] == ["0.850 (0.800 to 0.900)", "–"]


def test_where_figures_come_from_stands_beside_them(results: Path, record: Record) -> None:
    text = figures.FIGURES["accuracy"](results)
    run = record["runs"][0]
    assert f"`{run['commands']['train']}`, then `{run['commands']['evaluate']}`" in text
    assert "bench/accuracy/results/tiles-seen.json" in text
    assert f"commit {run['commit']}" in text
    assert run["training"]["device"] in text
    assert "**5 of 5 runs come from a checkout with changes that are in no commit.**" in text


def test_mixed_and_resumed_runs_are_said(record: Record) -> None:
    put_run(record, copy.deepcopy(record["runs"][0]) | {"seed": 9, "commit": "other", "resumed": True, "clean": True})
    text = tables.provenance(record, "tiles-seen.json")
    assert "**Not all runs are of one commit and device" in text
    assert "1 of 6 trainings were interrupted and continued." in text
    assert "**5 of 6 runs" in text


@pytest.mark.parametrize("name", tables.FIGURES)
def test_nothing_is_claimed_without_records(name: str, tmp_path: Path) -> None:
    assert figures.FIGURES[name](tmp_path / "results") == figures.NOTHING


def test_every_study_has_its_tables() -> None:
    assert {f"accuracy-{study}" for study in STUDIES} <= set(figures.FIGURES)


def test_a_variant_that_the_study_no_longer_has_is_shown_last(record: Record) -> None:
    put_run(record, copy.deepcopy(record["runs"][0]) | {"variant": "7 seen"})
    rows = tables.test_table(record, None).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| 10 seen", "| 0 seen", "| 7 seen"]


def test_early_exit_is_told_seed_by_seed_and_why_none_leaves(record: Record, tmp_path: Path) -> None:
    figures_of_screen = {"cut": 0.2, "wanted_loss": 0.01, "exit_share": 0.9, "normals": 50, "flagged": 310}
    effect = {
        "cut": 0.2, "good": 40, "good_exited": 30, "defects": 20, "detected": 15, "exited_defects": 3, "lost": 1,
        "alarms_avoided": 2, "changed": 3,
    }  # fmt: skip
    first, second = (copy.deepcopy(record["runs"][0]) | {"variant": "lost 0.01", "seed": seed} for seed in (0, 1))
    first["screen"] = {**figures_of_screen, "lost": 0, "loss_bound": 0.0096}
    first["test"]["early_exit"] = effect
    second["screen"] = {"cut": None, "wanted_loss": 0.01, "why_whole": "only 5% would leave"}
    made = {**record, "study": "exit", "runs": [first, second]}
    folder = tmp_path / "results"
    folder.mkdir()
    write_record(made, folder / "tiles-exit.json")
    rows = [line.split(" | ") for line in tables.exit_figures(folder).splitlines() if line.startswith("| tiles")]
    assert rows[0][1:7] == ["lost 0.01", "0", "90% of 50", "310", "1.0%", "75% of 40"]
    assert [cell.strip(" |") for cell in rows[0][7:]] == ["15", "1", "2"]
    assert rows[1][6] == "none: only 5% would leave"
    # Trainings with defaults stand beside those of the study.
    write_record(
        {**made, "study": "products", "runs": [first | {"variant": "10 seen"}]}, folder / "tiles-products.json"
    )
    assert tables.exit_figures(folder).count("| 90% of 50 |") == 2


def test_the_screen_alone_has_rows_of_its_own(record: Record, tmp_path: Path) -> None:
    first, second = (copy.deepcopy(record["runs"][0]) | {"variant": "lost 0.01", "seed": seed} for seed in (0, 1))
    for run in (first, second):
        run["screen"] = {"cut": 0.2, "wanted_loss": 0.01}
    first["test"]["screen_alone"] = {
        "command": "prn-eval a.prn --screen-only", "commit": "0123456789ab", "engine": "optimized/screen",
        "threshold": 0.4, "image": {"auroc": 0.876}, "pixel": {"auroc": 0.7, "pro": 0.6}, "kinds": [{}],
        "confusion": {"detected": 12, "missed": 3, "passed": 38, "false_alarms": 2},
    }  # fmt: skip
    folder = tmp_path / "results"
    folder.mkdir()
    write_record({**record, "study": "exit", "runs": [first, second]}, folder / "tiles-exit.json")
    text = tables.exit_figures(folder)
    assert "| screen alone | 0.876 | 0.700 | 0.600 | 12 of 15 | 2 of 40 |" in text
    assert text.count("| network |") == 1


def test_the_products_table_holds_defaults_against_the_network_alone_and_the_yardstick(
    record: Record, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    for study, change in (("products", 0.05), ("seen", 0.0), (tables.YARDSTICK, -0.1)):
        changed = copy.deepcopy(record) | {"study": study}
        for run in changed["runs"]:
            run["test"]["image"]["auroc"] += change
            if run["variant"] != "10 seen":
                run["training"]["device"] = "another processor"
        write_record(changed, folder / f"tiles-{study}.json")
    whole, *blocks = tables.product_figures(folder).split("\n\n")
    found = {name: cells(whole, name)[1].split(" / ")[0] for name in ("10 seen", "network alone, 10 seen")}
    assert found == {"10 seen": "0.970", "network alone, 10 seen": "0.920"}
    assert cells(whole, "nearest patch, 10 seen")[1].startswith("0.820 / ")
    text = tables.headline_figures(folder)
    headline = cells(text, "tiles")
    # Only the devices of what is shown are named.
    assert "another processor" not in text
    counts = record["runs"][0]["test"]["confusion"]
    assert (headline[1], headline[6], headline[8]) == ("0.970", "0.820", "3")
    assert headline[4] == f"{counts['detected'] / (counts['detected'] + counts['missed']):.1%}"
    # Of the trainings themselves, those with defaults alone are shown, beside the yardstick.
    assert len(blocks) == 3
    assert cells(blocks[0], "10 seen")[2] == "0.970 (0.950 to 0.990)"
    assert cells(blocks[0], "nearest patch, 10 seen")[2] == "0.820 (0.800 to 0.840)"


def test_longer_trainings_stand_below_those_of_the_products_table(record: Record, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    (folder / tables.LONGER).mkdir(parents=True)
    shorter, longer = copy.deepcopy(record) | {"study": "products"}, copy.deepcopy(record) | {"study": "products"}
    longer["runs"] = [run | {"training": run["training"] | {"epochs": 80}} for run in longer["runs"][1:2]]
    longer["runs"][0]["test"]["image"]["auroc"] = 0.99
    write_record(longer, folder / tables.LONGER / "tiles-products.json")
    assert len(tables.longer_figures(folder).splitlines()) == 5
    write_record(shorter, folder / "tiles-products.json")
    rows = [line.split(" | ") for line in tables.longer_figures(folder).splitlines()[2:4]]
    assert [(row[1], row[2], row[3], row[8]) for row in rows] == [
        ("10 seen", "1", "1", "0.920"),
        ("10 seen", "1", "80", "0.990"),
    ]
    assert "bench/accuracy/results/longer/tiles-products.json" in tables.longer_figures(folder)


def test_means_over_products_weigh_each_product_alike(record: Record) -> None:
    other = copy.deepcopy(record) | {"data": "cloth"}
    for run in other["runs"]:
        run["test"]["image"]["auroc"] -= 0.2 if run["variant"] == "0 seen" else 0.1
    other["runs"] = [run for run in other["runs"] if run["seed"] == 0]
    text = tables.products_table({"": {"a": record, "b": other}})
    ten = cells(text, "10 seen")
    assert [cell.split(" / ")[0] for cell in ten[1:]] == ["0.800", "0.920", "0.860"]
    changes = cells(tables.mean_changes_table([record, other]), "0 seen")
    # -0.09 over two seeds of the one, -0.20 at the one seed of the other.
    assert (changes[1], changes[4]) == ("2", "-0.145 (-0.200 to -0.090)")
    # What misses a product has no mean.
    other["runs"] = [run for run in other["runs"] if run["variant"] == "0 seen"]
    assert cells(tables.products_table({"": {"a": record, "b": other}}), "10 seen")[-1] == "–"
