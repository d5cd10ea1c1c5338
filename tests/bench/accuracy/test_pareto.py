"""Accuracy against speed: both figures or none, and a plot that stands alone."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from prn_fast.bench.accuracy.pareto import points, speed_figures, write_plot
from prn_fast.bench.accuracy.record import Record, write_record
from prn_fast.bench.report.plots import Series, accuracy_against_speed
from prn_fast.errors import ConfigError
from tests.bench.reports import make_report


@pytest.fixture
def folder(record: Record, tmp_path: Path) -> Path:
    """Accuracy of lite0 alone, 0.90 to 0.94."""
    record["study"] = "presets"
    record["runs"] = [run | {"variant": "lite0"} for run in record["runs"] if run["variant"] == "10 seen"]
    write_record(record, tmp_path / "tiles-presets.json")
    return tmp_path


def report(preset: str, image_size: int) -> dict:
    made = make_report()
    made["package"]["training"]["preset"] = preset
    made["package"]["config"] |= {"image_size": image_size}
    return made


def test_both_figures_of_every_engine_at_its_best_batch(folder: Path) -> None:
    found = {(point.preset, point.engine): point for point in points(folder, [report("lite0", 64)])}
    point = found["lite0", "openvino:int8"]
    assert point.accuracy == pytest.approx((0.90, 0.92, 0.94))
    # 8 images in 30 ms beat 1 in 5 ms.
    assert point.batch == 8
    assert point.rate == pytest.approx(8000 / 30, rel=0.02)
    assert (found["r18", None].accuracy, found["r18", None].rate) == (None, None)


def test_speed_at_another_image_size_does_not_count(folder: Path) -> None:
    assert all(point.rate is None for point in points(folder, [report("lite0", 256)]))


def test_what_is_missing_is_said(folder: Path, tmp_path: Path) -> None:
    text = speed_figures(folder, [report("r18", 256)], tmp_path / "none.svg")
    assert "| `lite0` | not measured |  | not measured | 0.920 (tiles) |" in text
    assert re.search(r"\| `r18` \| `eager` \| .* \| [\d.]+ \(batch \d\) \| not measured \|", text)
    assert "![" not in text
    with pytest.raises(ConfigError, match=r"lite0: speed not measured; r18: accuracy not measured"):
        write_plot(folder, [report("r18", 256)], tmp_path / "plot.svg")


def test_the_plot_is_a_file_of_its_own(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "plot.svg"
    said = write_plot(folder, [report("lite0", 64), report("r18", 256)], path)
    assert said.splitlines() == [f"{path}: 2 points", "r18: accuracy not measured"]
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert (root.get("width"), root.get("height")) == ("600", "320")
    texts = {element.text for element in root.iter() if element.tag.endswith("text")}
    assert {"lite0 eager", "lite0 openvino:int8", "images/s", "image AUROC"} <= texts
    assert "![" in speed_figures(folder, [report("lite0", 64)], path)


def test_higher_is_better_and_right_is_faster() -> None:
    rows = [
        (Series("slow", 1), 2.0, (0.97, 0.98, 0.99)),
        (Series("fast", 2), 90.0, (0.90, 0.95, 0.96)),
        (Series("beaten", 3), 50.0, (0.90, 0.91, 0.92)),
    ]
    svg = str(accuracy_against_speed(rows, "images/s", "image AUROC"))
    circles = [tuple(map(float, place)) for place in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    (slow_x, slow_y), (fast_x, fast_y), (beaten_x, beaten_y) = circles
    assert slow_x < beaten_x < fast_x
    assert slow_y < fast_y < beaten_y
    front = re.search(r'class="roof"[^>]*points="([^"]+)"', svg)
    assert front
    assert front[1] == f"{fast_x:.1f},{fast_y:.1f} {slow_x:.1f},{slow_y:.1f}"
