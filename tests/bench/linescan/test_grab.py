"""Basler's emulated camera, 8192 x 256 at 200 blocks a second, into the ring."""

import json

import pytest

from prn_fast.bench.linescan.grab import main, measure_grab
from prn_fast.linescan.sources import open_source

EMULATOR = "pylon:?width=8192&lines=256&line_rate=51200"


@pytest.fixture(autouse=True)
def emulator(monkeypatch):
    monkeypatch.setenv("PYLON_CAMEMU", "1")


def test_no_line_is_lost_and_each_is_copied_once():
    with open_source(EMULATOR) as source:
        figures = measure_grab(source, 3.0)
    assert figures["missing"] == figures["dropped"] == 0
    assert figures["inspected"] == figures["lines"] == figures["blocks"] * 256
    assert figures["blocks"] > 10
    assert figures["copies"] == 1 + 32 / 224
    assert figures["cpu_seconds"] > 0


def test_failed_buffers_are_in_the_ledger(monkeypatch):
    with open_source(EMULATOR) as source:
        source.camera.ForceFailedBufferCount.SetValue(4)
        events = source.events()

        def failing_after_some():
            for number, event in enumerate(events):
                if number == 5:
                    source.camera.ForceFailedBuffer.Execute()
                yield event

        monkeypatch.setattr(source, "events", failing_after_some)
        figures = measure_grab(source, 2.0)
    assert figures["missing"] == 4 * 256
    assert figures["lines"] == figures["inspected"] + figures["missing"] + figures["dropped"]


def test_the_command_writes_its_figures_and_where_they_are_from(tmp_path, capsys):
    file = tmp_path / "grab.json"
    assert main([EMULATOR, "--seconds", "0.2", "--allow-dirty", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert report["environment"]["machine"]["logical_cores"] >= 1
    assert report["dropped"] == 0
    assert main(["usb:"]) == 2
    assert "unknown kind 'usb'" in capsys.readouterr().err
