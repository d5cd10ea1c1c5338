"""The pages in a real browser: nothing overflows, both colour schemes are drawn, nothing is loaded."""

import json
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from prn_fast.bench.report.history import history_sections
from prn_fast.bench.report.page import render_page
from prn_fast.bench.report.sections import bench_sections
from tests import needs
from tests.bench.reports import make_report

pytestmark = needs.chromium
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
    "--disable-sync", "--disable-component-update", "--hide-scrollbars",
)  # fmt: skip
# Writes into the title what a reader would notice: content wider than the window, text outside of its plot.
LOOK = """<script>
const page = document.documentElement, wide = [];
for (const svg of document.querySelectorAll("svg.plot")) {
  const frame = svg.getBoundingClientRect();
  for (const text of svg.querySelectorAll("text")) {
    const box = text.getBoundingClientRect();
    const outside = box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
    if (outside) wide.push(text.textContent);
  }
}
const plots = document.querySelectorAll("svg.plot").length;
document.title = JSON.stringify({overflow: page.scrollWidth - page.clientWidth, outside: wide, plots});
</script>"""


def browse(page: Path, profile: Path, *flags: str) -> str:
    """Standard output of Chromium on a page."""
    command = [str(needs.BROWSER), *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    report = make_report(scenarios=True, unavailable={"fused": "needs a GPU"}, tail=2.0)
    return {
        "report": render_page("prn-bench: model.prn", bench_sections(report)),
        "history": render_page("history", history_sections([make_report(), make_report(slower=1.2)])),
    }


@pytest.mark.parametrize(("name", "plots"), [("report", 9), ("history", 2)])
@pytest.mark.parametrize("width", [1250, 500])
def test_nothing_overflows(name: str, plots: int, width: int, pages: dict[str, str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(pages[name].replace("</body>", LOOK + "</body>"))
    dom = browse(page, tmp_path / "profile", f"--window-size={width},900", "--dump-dom")
    seen = json.loads(dom[dom.index("<title>") + len("<title>") : dom.index("</title>")])
    assert seen == {"overflow": 0, "outside": [], "plots": plots}


def test_light_and_dark(pages: dict[str, str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(pages["report"])
    brightness = {}
    for scheme, flags in (("light", ()), ("dark", ("--force-dark-mode", "--blink-settings=preferredColorScheme=0"))):
        picture = tmp_path / f"{scheme}.png"
        browse(page, tmp_path / scheme, "--window-size=1000,900", f"--screenshot={picture}", *flags)
        image = cv2.imread(str(picture))
        assert image.shape[:2] == (900, 1000)
        # Something is drawn: text, and the engines' colours.
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 100
        brightness[scheme] = float(np.median(image))
    assert brightness["light"] > 200
    assert brightness["dark"] < 60
