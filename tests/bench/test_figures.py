"""README figures come from recorded reports."""

import json
from pathlib import Path

import pytest

from prn_fast.bench.figures import FIGURES, NOTHING, fill, main
from prn_fast.bench.report.document import write_json
from prn_fast.bench.report.history import latest_reports
from prn_fast.errors import ConfigError
from tests.bench.reports import make_report

README = "before\n<!-- figures:line-camera -->\nformer text\n<!-- /figures:line-camera -->\nafter\n"


EVALUATION = {
    "command": "prn-eval tiles.prn --data tiles",
    "commit": "abc",
    "data": "tiles",
    "engine": "openvino:int8",
    "seen": {"listed": 10, "left_out": 10},
    "training": {
        "preset": "lite0",
        "seed": 0,
        "minutes": 20.0,
        "steps": 700,
        "device": "some CPU",
        "torch": "2",
        "commit": "d",
    },
    "image": {"auroc": 0.9375, "average_precision": 0.5},
    "pixel": {"auroc": 0.8125, "average_precision": 0.25, "pro": 0.75},
    "confusion": {"detected": 30, "missed": 10, "passed": 18, "false_alarms": 2},
    "kinds": [
        {"kind": "crack", "count": 40, "detected": 30, "image_auroc": 0.9375, "pixel_auroc": 0.8125, "pro": 0.75}
    ],
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    for day, slower in (("2026-02-02", 1.5), ("2026-01-01", 1.0)):
        report = make_report(slower=slower, scenarios=True) | {"created": f"{day}T00:00:00+00:00"}
        write_json(report, folder / "some-cpu" / "packages" / f"{day}.json")
    broken_off = make_report(interrupted=True) | {"created": "2026-03-03T00:00:00+00:00"}
    write_json(broken_off, folder / "some-cpu" / "packages" / "interrupted.json")
    evaluations = folder / "some-cpu" / "evaluations"
    evaluations.mkdir()
    (evaluations / "tiles.json").write_text(json.dumps(EVALUATION))
    return folder


def test_the_newest_whole_report_is_taken(results: Path) -> None:
    assert [report["created"][:10] for report in latest_reports(results)] == ["2026-02-02"]


def test_marked_parts_are_replaced_and_nothing_else(results: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README)
    assert main([str(readme), "--results", str(results)]) == 0
    text = readme.read_text()
    assert text.startswith("before\n<!-- figures:line-camera -->\n**resnet18, 256x256**")
    assert text.endswith("<!-- /figures:line-camera -->\nafter\n")
    assert "former text" not in text
    assert "| 4096 px at 12 kHz | 20.0 | 60.0 | 350 | 0 |" in text
    assert "`prn-bench model.prn` on" in text
    assert fill(text, results) == text


@pytest.mark.parametrize("name", ["detection", "engines", "scenarios", "line-camera", "agreement"])
def test_every_kind_of_figure_names_where_it_was_measured(name: str, results: Path) -> None:
    text = FIGURES[name](results)
    assert "openvino:int8" in text
    assert "commit" in text


def test_launches_are_counted_and_told_with_their_command(results: Path) -> None:
    assert FIGURES["launches"](results) == "Not counted yet."
    row = {
        "name": "Triton, after it",
        "kernels": {"conv2d": 3, "mixing_kernel": 2, "cat": 4},
        "megabytes_an_image": {"cat": 1.25},
    }
    told = {"command": "python -m prn_fast.kernels --pass", "torch": "2", "triton": "3", "commit": "abc", "rows": [row]}
    (results / "launches.json").write_text(json.dumps(told))
    text = FIGURES["launches"](results)
    assert "| Triton, after it | 9 | 2 | 4 | 1.2 |" in text
    assert text.endswith("Counted by `python -m prn_fast.kernels --pass`, torch 2, triton 3, commit abc.")


def test_reports_with_baselines_stand_apart(results: Path) -> None:
    assert FIGURES["baselines"](results) == NOTHING
    write_json(make_report(slower=2.0), results / "some-cpu" / "baselines" / "model.json")
    assert "commit" in FIGURES["baselines"](results)
    assert FIGURES["baselines"](results) != FIGURES["engines"](results)


def test_the_headline_orders_single_images_by_speed_and_says_which_line_rate_is_held(results: Path) -> None:
    assert FIGURES["headline"](results) == NOTHING
    write_json(make_report(slower=2.0), results / "some-cpu" / "baselines" / "model.json")
    text = FIGURES["headline"](results)
    assert text.index("| `openvino:int8` |") < text.index("| `eager` |")
    assert text.count("| `eager` |") == 1
    assert "`openvino:int8` keeps up with a line camera of 4096 pixels at 12 kHz and loses no line: " in text
    assert "commit" in text


def test_the_headline_says_where_the_camera_was_simulated(results: Path) -> None:
    """As in runs before version 0.2.0, which state no mixture of images."""
    write_json(make_report(slower=2.0), results / "some-cpu" / "baselines" / "model.json")
    assert "before version 0.2.0" not in FIGURES["headline"](results)
    for path in (results / "some-cpu" / "packages").iterdir():
        report = json.loads(path.read_text())
        for entry in report["scenarios"]:
            entry.pop("mix", None)
        path.write_text(json.dumps(report))
    assert "before version 0.2.0, when buffers were simulated." in FIGURES["headline"](results)


def test_detection_is_told_kind_by_kind(results: Path) -> None:
    text = FIGURES["detection"](results)
    assert "| crack | 40 | 30 | 0.938 |  | 0.812 |  | 0.750 |" in text
    assert "| **all** | 40 | 30 | 0.938 | 0.500 | 0.812 | 0.250 | 0.750 |" in text
    assert "2 of 20 good images" in text
    assert "10 seen anomalies are left out, **other pictures of the same parts are not**." in text
    again = EVALUATION | {"seen": {"listed": 10, "left_out": 10, "near_duplicates": 7}}
    (results / "some-cpu" / "evaluations" / "tiles.json").write_text(json.dumps(again))
    assert "10 seen anomalies are left out, and 7 other pictures of the same parts." in FIGURES["detection"](results)
    (results / "some-cpu" / "evaluations" / "broken.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"broken\.json"):
        FIGURES["detection"](results)


def test_make_fills_every_page_that_has_figures() -> None:
    root = Path(__file__).parents[2]
    pages = [
        path for path in (root / "README.md", *(root / "docs").glob("*.md")) if "<!-- figures:" in path.read_text()
    ]
    listed = (root / "Makefile").read_text().partition("PAGES_WITH_FIGURES")[2].partition("\nfigures:")[0]
    assert [path.name for path in pages if path.name not in listed] == []


def test_without_results_nothing_is_claimed(tmp_path: Path) -> None:
    assert NOTHING in fill(README, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- figures:warp -->\n<!-- /figures:warp -->", "no figures are called warp"),
        ("<!-- figures:engines -->\nnever closed", "no closing marker"),
    ],
)
def test_a_marker_that_cannot_be_filled(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        fill(text, tmp_path)


@pytest.mark.parametrize("commit", ["0123456789ab-dirty", "unknown"])
@pytest.mark.parametrize("place", ["results/some-cpu/packages", "results/some-cpu/gpu/run", "accuracy/results"])
def test_a_record_of_code_that_is_in_no_commit_is_refused(
    commit: str, place: str, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / place / "changed.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps({"runs": [{"training": {"commit": "0123456789ab"}}, {"commit": commit}]}))
    readme = tmp_path / "README.md"
    readme.write_text(README)
    assert main([str(readme), "--results", str(results)]) == 2
    assert f"{record}: was recorded from a checkout that is no commit ({commit})" in capsys.readouterr().err
    assert readme.read_text() == README


def test_a_report_that_cannot_be_read_is_an_error(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (results / "some-cpu" / "packages" / "broken.json").write_text("{")
    readme = tmp_path / "README.md"
    readme.write_text(README)
    assert main([str(readme), "--results", str(results)]) == 2
    assert "cannot be read as a bench report" in capsys.readouterr().err
    assert readme.read_text() == README
