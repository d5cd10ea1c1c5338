"""Comparison of two reports."""

from typing import Any

import pytest

from prn_fast.bench.report.compare import Comparison, compare_reports
from tests.bench.reports import make_report


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {change.what: change.verdict for change in comparison.changes}


def test_a_report_against_another_run_of_the_same_has_no_finding_beyond_a_per_mille() -> None:
    comparison = compare_reports(make_report(noise=0.05), make_report(noise=0.05, seed=1), bound=0.05)
    assert comparison.regressions == []
    assert all(change.slowdown == pytest.approx(1.0, abs=0.01) for change in comparison.changes)


@pytest.mark.parametrize(
    ("slower", "verdict"), [(1.3, "regression"), (1.03, "slower"), (0.8, "faster")], ids=["30%", "3%", "faster"]
)
def test_a_change_beyond_noise_is_named(slower: float, verdict: str) -> None:
    comparison = compare_reports(make_report(), make_report(slower=slower, seed=1), bound=0.05)
    found = verdicts(comparison)
    assert found["openvino:int8, batch 1"] == found["openvino:int8, batch 8"] == verdict
    assert found["eager, batch 1"] in ("same", "faster", "slower")
    assert bool(comparison.regressions) == (verdict == "regression")


def test_noise_hides_a_small_change() -> None:
    comparison = compare_reports(make_report(noise=0.5, rounds=8), make_report(noise=0.5, rounds=8, seed=1), bound=0.05)
    assert comparison.regressions == []


def test_too_few_rounds_conclude_nothing() -> None:
    comparison = compare_reports(make_report(rounds=3), make_report(rounds=3, slower=2.0), bound=0.05)
    assert set(verdicts(comparison).values()) == {"unknown"}
    assert all(change.interval is None for change in comparison.changes)


def test_throughput_is_compared_the_other_way_round() -> None:
    before, after = make_report(scenarios=True), make_report(scenarios=True)
    for entry in after["scenarios"]:
        if entry["scenario"] == "offline":
            entry["rates"] = [rate / 2 for rate in entry["rates"]]
    found = verdicts(compare_reports(before, after, bound=0.05))
    assert found["openvino:int8, offline, batch 8"] == "regression"
    assert found["openvino:int8, line-camera, 4096 px, overlap 32"] == "unknown"


def test_an_engine_that_fails_now_is_a_regression() -> None:
    comparison = compare_reports(make_report(), make_report(faults=["the maps do not depend on the image"]), bound=0.05)
    assert comparison.regressions == ["openvino:int8: the maps do not depend on the image"]
    assert "only in the first report: openvino:int8, batch 1" in comparison.notes


def test_other_machines_and_packages_are_noted() -> None:
    before, after = make_report(), make_report()
    after["package"]["sha256"] = "1" * 64
    after["environment"] = _with_cpu(after["environment"], "another processor")
    notes = "; ".join(compare_reports(before, after, bound=0.05).notes)
    assert "not the same package" in notes
    assert "another processor" in notes


def _with_cpu(environment: dict[str, Any], name: str) -> dict[str, Any]:
    return environment | {"machine": environment["machine"] | {"cpu": name}}


def test_a_missing_figure_cannot_be_judged() -> None:
    before, after = make_report(scenarios=True), make_report(scenarios=True)
    for entry in (*before["scenarios"], *after["scenarios"]):
        if entry["scenario"] == "offline":
            entry["rates"] = [50.0] * 5
    after["results"] = [result for result in after["results"] if result["batch"] == 1]
    for entry in after["scenarios"]:
        if entry["scenario"] == "server":
            entry["held"] = None
    comparison = compare_reports(before, after, bound=0.05)
    assert comparison.regressions == []
    assert comparison.unjudged == [
        "only in the first report: eager, batch 8",
        "only in the first report: openvino:int8, batch 8",
        "only in the first report: openvino:int8, server, p99 100 ms",
    ]
    assert compare_reports(after, before, bound=0.05).unjudged == []


def test_reports_without_a_figure_cannot_be_judged() -> None:
    nothing = make_report() | {"results": []}
    assert compare_reports(nothing, nothing, bound=0.05).unjudged == ["the first report holds no figure"]
    assert len(compare_reports(make_report(), nothing, bound=0.05).unjudged) == 4


def test_too_few_rounds_cannot_be_judged_and_searches_need_none() -> None:
    few = make_report(rounds=3)
    assert len(compare_reports(few, few, bound=0.05).unjudged) == 4
    whole = make_report(scenarios=True)
    for entry in whole["scenarios"]:
        if entry["scenario"] == "offline":
            entry["rates"] = [50.0] * 5
    assert compare_reports(whole, whole, bound=0.05).unjudged == []


def test_what_an_engine_that_fails_now_lacks_is_no_second_finding() -> None:
    comparison = compare_reports(make_report(), make_report(faults=["wrong"]), bound=0.05)
    assert comparison.unjudged == []
    assert comparison.regressions
