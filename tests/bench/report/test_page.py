"""The page stands alone, is well-formed, and escapes what it shows."""

import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from prn_fast.bench.report.page import Section, data_uri, image_section, render_page
from prn_fast.bench.report.sections import bench_sections
from prn_fast.errors import DataError
from tests.bench.reports import make_report

VOID = {"meta", "br", "img", "link", "input"}


class Outline(HTMLParser):
    """Collects ids, links and text, and fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        values = dict(attributes)
        self.ids += [values["id"]] if values.get("id") else []
        self.links += [value for name in ("href", "src") if (value := values.get(name))]

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def png() -> bytes:
    return cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"faults": ["the maps <do> not depend"]},
        {"interrupted": True, "rounds": 1},
        {"unavailable": {"tensorrt-rtx:fp16": "not installed"}},
        {"noise": 0.3, "tail": 3.0},
    ],
    ids=["sound", "failed", "interrupted", "unavailable", "noisy"],
)
def test_the_bench_page_is_well_formed_and_loads_nothing(changes: dict) -> None:
    page = render_page("prn-bench: model.prn", bench_sections(make_report(**changes)))
    parsed = outline(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert all(link.startswith("#") and link[1:] in parsed.ids for link in parsed.links)
    assert not re.search(r"https?://|@import|url\(|<script", page)


def test_the_page_shows_figures_faults_and_environment() -> None:
    sound = " ".join(outline(render_page("t", bench_sections(make_report()))).text)
    for shown in ("openvino:int8", "4.00", "Checked", "prn-bench model.prn", "fp32", "500"):
        assert shown in sound
    failed = " ".join(outline(render_page("t", bench_sections(make_report(faults=["maps <b>"])))).text)
    assert "maps <b>" in failed
    assert "No speed is reported for it" in failed


def test_a_report_without_any_result_has_no_latency_section() -> None:
    report = make_report()
    report["results"] = []
    titles = [section.title for section in bench_sections(report)]
    assert titles == ["Summary", "Agreement", "Environment"]


@pytest.mark.parametrize(
    "changes", [{"others_share": 0.5}, {"rounds": 3}, {"noise": 1.5}], ids=["neighbour", "few-rounds", "wide-interval"]
)
def test_a_doubtful_ratio_is_no_headline(changes: dict) -> None:
    assert "<b>4.00 times</b> as fast as eager" in bench_sections(make_report())[0].html
    doubtful = bench_sections(make_report(**changes))[0].html
    assert "as fast as eager" not in doubtful
    assert "does not tell how much faster" in doubtful


def test_titles_are_escaped_and_sections_are_linked() -> None:
    page = render_page("a <b> & c", [Section("Heat maps & more", "<p>x</p>"), Section("Next", "<p>y</p>")])
    parsed = outline(page)
    assert "a <b> & c" in parsed.text
    assert "#heat-maps-more" in parsed.links


def test_pictures_are_embedded(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    path.write_bytes(png())
    section = image_section("Sheet", [(path, "from a <file>"), (png(), "from bytes")], text="Two & two")
    parsed = outline(section.html)
    assert parsed.links == [data_uri(png())] * 2
    assert "from a <file>" in parsed.text
    assert data_uri(png()).startswith("data:image/png;base64,")


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither PNG nor JPEG"):
        image_section("x", [(b"<svg onload=alert(1)>", "")])
    with pytest.raises(DataError, match=r"gone\.png: cannot be read"):
        image_section("x", [(tmp_path / "gone.png", "")])
