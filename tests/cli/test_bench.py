"""prn-bench on a real small package."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from prn_fast.bench.report.document import SCHEMA_PATH, write_json
from prn_fast.cli.bench import main
from prn_fast.engine import BACKENDS
from prn_fast.engine.openvino import OpenVINOEngine
from prn_fast.package import Package
from tests.bench.reports import make_report


@pytest.fixture
def outputs(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "out" / "report.json", tmp_path / "out" / "report.html"


def run(package: Path, outputs: tuple[Path, Path], *more: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON report (checked by its schema) and page of a short run."""
    json_path, html_path = outputs
    files = ["--json", str(json_path), "--html", str(html_path)]
    code = main([str(package), "--seconds", "0.3", "--check-images", "12", *files, *more])
    report = json.loads(json_path.read_text())
    jsonschema.validate(report, json.loads(SCHEMA_PATH.read_text()))
    return code, report, html_path.read_text()


@pytest.mark.long
def test_all_engines_of_a_package(
    built_package_path: Path, outputs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, report, page = run(built_package_path, outputs, "--batch", "1,3")
    names = ["eager", *Package.open(built_package_path).engines, "optimized"]
    assert "openvino:fp32" in names
    assert [engine["faults"] for engine in report["engines"] if engine["status"] == "failed"] == []
    assert code == 0
    measured = [engine["name"] for engine in report["engines"] if engine["status"] != "unavailable"]
    assert measured == names
    # Backends that cannot run here are listed with the reason.
    others = {engine["name"]: engine["faults"] for engine in report["engines"] if engine["status"] == "unavailable"}
    assert set(others) == set(BACKENDS) - {name.partition(":")[0] for name in names}
    assert all(reason for reason in others.values())
    assert {(result["engine"], result["batch"]) for result in report["results"]} == {
        (name, batch) for name in names for batch in (1, 3)
    }
    assert all(result["memory"]["peak_rss_bytes"] > 5e7 for result in report["results"])
    assert report["package"]["anomalies"] == 6
    assert report["command"].startswith(f"prn-bench {built_package_path}")
    printed = capsys.readouterr().out
    for name in names:
        assert name in printed
        assert name in page


@pytest.mark.long
def test_a_planted_fault_gives_exit_code_1(
    built_package_path: Path, outputs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = OpenVINOEngine.run

    def zeros(self: OpenVINOEngine, images: Any) -> Any:
        return tuple(0 * values for values in honest(self, images))

    monkeypatch.setattr(OpenVINOEngine, "run", zeros)
    code, report, page = run(built_package_path, outputs, "--batch", "1", "--engines", "eager,openvino:fp32")
    assert code == 1
    assert {result["engine"] for result in report["results"]} == {"eager"}
    assert "openvino:fp32 failed" in page


@pytest.mark.long
def test_an_interruption_still_writes_the_report(
    built_package_path: Path, outputs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = OpenVINOEngine.run, []

    def interrupted(self: OpenVINOEngine, images: Any) -> Any:
        calls.append(len(images))
        if calls.count(3) > 1:
            raise KeyboardInterrupt
        return honest(self, images)

    monkeypatch.setattr(OpenVINOEngine, "run", interrupted)
    code, report, page = run(built_package_path, outputs, "--batch", "1,3", "--engines", "eager,openvino:fp32")
    assert code == 130
    assert report["interrupted"]
    assert {(result["engine"], result["batch"]) for result in report["results"]} == {
        ("eager", 1), ("openvino:fp32", 1),
    }  # fmt: skip
    assert "Interrupted" in page


@pytest.mark.long
def test_all_scenarios(built_package_path: Path, outputs: tuple[Path, Path], tmp_path: Path) -> None:
    tables = tmp_path / "tables.md"
    code, report, page = run(
        built_package_path, outputs, "--engines", "eager,openvino:fp32", "--scenario", "all", "--seconds", "1",
        "--camera-width", "128", "--overlap", "8", "--p99-ms", "5000", "--markdown", str(tables),
    )  # fmt: skip
    assert code == 0
    found = {(entry["engine"], entry["scenario"]) for entry in report["scenarios"]}
    assert found == {
        (name, scenario) for name in ("eager", "openvino:fp32") for scenario in ("offline", "server", "line-camera")
    }
    assert {(result["engine"], result["batch"]) for result in report["results"]} == {
        (name, batch) for name in ("eager", "openvino:fp32") for batch in (1, 8)
    }
    # On one core the published formulation is not profiled, see bench/engines/profile.py.
    profiled = ["openvino:fp32"] if torch.get_num_threads() == 1 else ["eager", "openvino:fp32"]
    assert [one["engine"] for one in report["profiles"]] == profiled
    for entry in report["scenarios"]:
        if entry["scenario"] == "line-camera":
            assert entry["verdict"] in page
            assert entry["verdict"] in tables.read_text()


@pytest.mark.long
def test_one_scenario_alone(built_package_path: Path, outputs: tuple[Path, Path]) -> None:
    code, report, page = run(built_package_path, outputs, "--engines", "openvino:fp32", "--scenario", "offline")
    assert code == 0
    assert report["results"] == []
    assert [(entry["engine"], entry["scenario"]) for entry in report["scenarios"]] == [("openvino:fp32", "offline")]
    assert "Offline" in page


def test_compare_says_what_got_slower_and_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = tmp_path / "a.json", tmp_path / "b.json"
    write_json(make_report(), before)
    write_json(make_report(slower=1.3, seed=1), after)
    assert main(["compare", str(before), str(after)]) == 1
    assert "regression" in capsys.readouterr().out
    assert main(["compare", str(before), str(after), "--bound", "50"]) == 0
    assert main(["compare", str(after), str(before)]) == 0
    assert main(["compare", str(before), str(tmp_path / "none.json")]) == 2


def test_history_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(make_report(), tmp_path / "a.json")
    write_json(make_report(slower=1.3), tmp_path / "b.json")
    assert main(["history", str(tmp_path)]) == 0
    assert "2 reports" in capsys.readouterr().out
    assert "<svg" in (tmp_path / "history.html").read_text()
    assert main(["history", str(tmp_path / "none")]) == 2


def test_what_was_measured_is_written_though_nobody_reads_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(*arguments: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("prn_fast.bench.package_bench.bench_package", lambda *_, **__: make_report())
    monkeypatch.setattr("prn_fast.bench.report.terminal.show", leave)
    files = [tmp_path / "a.json", tmp_path / "a.md", tmp_path / "a.html"]
    options = zip(("--json", "--markdown", "--html"), map(str, files), strict=True)
    assert main(["model.prn", *(part for option in options for part in option)]) == 2
    assert all(file.stat().st_size for file in files)


def test_outputs_are_tried_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(*arguments: object, **options: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr("prn_fast.bench.package_bench.bench_package", measured)
    for option in ("--json", "--markdown", "--html"):
        assert main(["model.prn", option, "/proc/none/report"]) == 2
        assert "/proc/none/report: cannot be written" in capsys.readouterr().err


def test_a_regression_counts_before_what_cannot_be_judged(tmp_path: Path) -> None:
    before, after, gone = make_report(), make_report(slower=1.3, seed=1), make_report()
    after["results"] = [result for result in after["results"] if result["batch"] == 1]
    gone["results"] = [result for result in gone["results"] if result["batch"] == 1]
    paths = [tmp_path / f"{name}.json" for name in ("before", "after", "gone")]
    for report, path in zip((before, after, gone), paths, strict=True):
        write_json(report, path)
    assert main(["compare", str(paths[0]), str(paths[1])]) == 1
    assert main(["compare", str(paths[0]), str(paths[2])]) == 2
    assert main(["compare", str(paths[2]), str(paths[0])]) == 0
