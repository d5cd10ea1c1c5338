"""Drift on a line: what sinks, snapshot and command say while the lamp fades."""

import itertools
import json

import numpy as np

from prn_fast.cli.inspect import main
from prn_fast.drift import DriftMonitor
from prn_fast.linescan.dashboard import Dashboard
from prn_fast.linescan.inspection import Inspection
from prn_fast.linescan.inspector import InspectionSettings, Inspector
from prn_fast.linescan.sinks import JSONLinesSink
from prn_fast.linescan.sources.base import Block
from prn_fast.linescan.sources.synthetic import SyntheticSource
from prn_fast.linescan.terminal import as_renderable
from prn_fast.package import Package
from tests import needs
from tests.linescan.browser import Browser
from tests.linescan.webs import SIDE, THRESHOLD, DarknessEngine, ListSource, blocks
from tests.small_package import write_package

WIDTH = 1024
OVERLAP = 16


class FadingSource(SyntheticSource):
    """A web without defects whose lamp fades evenly, by a share from its first to its last line."""

    def __init__(self, faded, length, **options):
        super().__init__(width=WIDTH, defects=0, length=length, **options)
        self._faded = faded

    def events(self):
        rng = np.random.default_rng(0)
        for block in super().events():
            numbers = block.first_line + np.arange(len(block.rows))
            light = 1 - self._faded * numbers / self._length
            # A camera has noise: no tile is ever the same twice.
            pixels = block.rows * light[:, None] + rng.normal(0, 2, block.rows.shape) + 0.5
            yield Block(np.clip(pixels, 0, 255).astype(np.uint8), block.first_line, block.arrival_ns)


def lines_of(tiles, side=SIDE):
    """Lines that hold about so many tiles."""
    columns = len(range(0, WIDTH - OVERLAP, side - OVERLAP))
    return tiles // columns * (side - OVERLAP) + OVERLAP


def inspected(source, engine, window, reference=None, sinks=()):
    """The states in their order, and the snapshot."""
    monitor = DriftMonitor(reference, "fp32", window)
    settings = InspectionSettings(overlap=OVERLAP, threshold=THRESHOLD)
    inspector = Inspector(engine, source.width, source.pixel_format, settings, monitor)
    found = []

    def remember(_):
        if not found or found[-1] != str(monitor.drift.state):
            found.append(str(monitor.drift.state))

    snapshot = Inspection(source, inspector, sinks, observers=[remember]).run()
    return found, snapshot


def test_sinks_and_snapshot_tell_when_the_lamp_fades(tmp_path):
    found = tmp_path / "found.jsonl"
    source = FadingSource(0.3, lines_of(2000), strip_lines=512)
    states, snapshot = inspected(source, DarknessEngine(), 200, sinks=[JSONLinesSink(found)])
    assert states[0] == "learning"
    assert states[-2:] == ["watch", "act"]
    records = [json.loads(line) for line in found.read_text().splitlines()]
    told = [one for one in records if one["type"] == "drift"]
    # A record each time that the state of a figure changes.
    assert [state for state, _ in itertools.groupby(one["state"] for one in told)] == states
    assert told[-1]["quantities"]["brightness"]["state"] == "act"
    assert told[-1]["quantities"]["brightness"]["reference"] == "first 200 tiles"
    assert "brightness" in told[-1]["reason"]
    assert snapshot.drift.state == "act"
    assert records[-1]["type"] == "end"
    assert records[-1]["drift"] == snapshot.to_dict()["drift"] == snapshot.drift.to_dict()
    shown = "\n".join(str(part) for part in as_renderable(snapshot, "web").renderables)
    assert "drift: act (calibrate again, or repair the line): " in shown


def test_an_unchanged_line_stays_ok():
    source = FadingSource(0.0, lines_of(3000), strip_lines=512)
    states, snapshot = inspected(source, DarknessEngine(), 800)
    assert states == ["learning", "ok"]
    assert snapshot.drift.tiles > 2800


def test_strips_with_missing_lines_say_nothing_of_the_line():
    web = np.full((SIDE * 20, WIDTH), 120, np.uint8)
    whole = blocks(web, [SIDE * 10])
    counts = []
    for events in (whole, [whole[0], Block(whole[1].rows, whole[1].first_line + SIDE * 4, 0)]):
        _, snapshot = inspected(ListSource(WIDTH, events), DarknessEngine(), 10_000)
        counts.append(snapshot.drift.tiles)
    assert 0 < counts[1] <= counts[0]
    assert snapshot.missing or snapshot.lines > SIDE * 20


def test_nobody_watches_unless_asked(tmp_path):
    source = ListSource(WIDTH, blocks(np.full((SIDE * 3, WIDTH), 120, np.uint8), [SIDE]))
    inspector = Inspector(DarknessEngine(), WIDTH, "Mono8", InspectionSettings(overlap=OVERLAP, threshold=THRESHOLD))
    found = tmp_path / "found.jsonl"
    snapshot = Inspection(source, inspector, [JSONLinesSink(found)]).run()
    assert snapshot.drift is None
    assert "drift" not in [json.loads(line)["type"] for line in found.read_text().splitlines()]


@needs.chromium
def test_the_dashboard_shows_the_figures_and_the_state(tmp_path):
    dashboard = Dashboard("demo.prn", WIDTH, THRESHOLD)
    browser = None
    try:
        source = FadingSource(0.3, lines_of(1000), strip_lines=512)
        monitor = DriftMonitor(None, "fp32", 104)
        settings = InspectionSettings(overlap=OVERLAP, threshold=THRESHOLD)
        inspection = Inspection(source, Inspector(DarknessEngine(), WIDTH, "Mono8", settings, monitor))
        dashboard.watch(inspection)
        assert inspection.run().drift.state == "act"
        browser = Browser(dashboard.url, tmp_path / "browser")
        browser.wait_for("window.prn && document.getElementById('drift-state').textContent === 'act'")
        rows = browser.evaluate("[...document.querySelectorAll('#drift-figures tr')].map(row => row.innerText)")
        assert [row.split()[0] for row in rows] == ["score", "brightness", "contrast"]
        assert all(len(row.split()) == 6 for row in rows), "median, reference, PSI, KS, CUSUM"
        assert browser.evaluate("document.querySelector('#drift-figures tr:nth-child(2)').className") == "act"
        assert browser.evaluate("document.getElementById('drift').hidden") is False
    finally:
        if browser is not None:
            browser.close()
        dashboard.close()


WEB = "synthetic:?width=512&strip_lines=512&lines=100&length=540&defects=0"


def test_the_command_compares_with_the_packages_calibration(package, tmp_path, capsys):
    found = tmp_path / "found.jsonl"
    arguments = [str(package.path), "--source", WEB, "--overlap", "16", "--jsonl", str(found)]
    assert main([*arguments, "--drift-window", "104"]) == 0
    output = capsys.readouterr()
    drift = json.loads(found.read_text().splitlines()[-1])["drift"]
    assert drift["quantities"]["score"]["reference"] == "calibration, 12 images"
    assert f"drift: {drift['state']}" in output.out
    assert "calibrated on 12 images only" in output.err
    assert main([*arguments, "--lines", "100", "--drift-window", "0"]) == 0
    assert "drift" not in capsys.readouterr().out
    assert main([*arguments, "--drift-window", "5"]) == 2
    assert "a drift window of 5 tiles is too small" in capsys.readouterr().err


def test_a_package_of_an_earlier_version_takes_the_lines_first_tiles(tmp_path, capsys):
    made = write_package(tmp_path / "now.prn")
    calibration = {name: value for name, value in made.manifest["calibration"].items() if name != "reference"}
    before = Package.create(
        tmp_path / "before.prn",
        made.model(),
        calibration_images=made.calibration_images(),
        validation=made.validation(),
        calibration=calibration,
        training=made.manifest["training"],
    )
    lines = ["--lines", "200", "--overlap", "16", "--drift-window", "104"]
    assert main([str(before.path), "--source", WEB, *lines]) == 0
    output = capsys.readouterr()
    assert "the first 104 tiles become the reference" in output.err
    assert "drift: learning (first tiles: " in output.out
