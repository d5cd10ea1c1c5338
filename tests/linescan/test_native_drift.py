"""Drift in a C++ program: the same words at the same tiles as in Python."""

import sys

import numpy as np
import pytest

from prn_fast.linescan.core import LineRing
from prn_fast.linescan.inspector import InspectionSettings, open_inspector
from tests import needs
from tests.linescan.hosts import compiled_host, run
from tests.small_package import SIDE, textured_images

WIDTH, OVERLAP, WINDOW = 512, 16, 104
ROWS = 36


def fading_web() -> np.ndarray:
    """Rows of tiles like the package's good images, whose light fades by half after the first third."""
    tiles = textured_images(ROWS * WIDTH // SIDE, 1, 5)[..., 0].astype(np.float32)
    web = tiles.reshape(ROWS, WIDTH // SIDE, SIDE, SIDE).swapaxes(1, 2).reshape(ROWS * SIDE, WIDTH)
    light = np.interp(np.arange(len(web)), [0, len(web) / 3, len(web) / 2], [1.0, 1.0, 0.5])
    return np.rint(web * light[:, None]).astype(np.uint8)


def told_by_python(package, web):
    """(state, reason, tiles, window) whenever the state of a quantity has changed, and the notes."""
    settings = InspectionSettings(overlap=OVERLAP, drift_window=WINDOW)
    inspector = open_inspector(package, WIDTH, engine="optimized", settings=settings)
    ring = LineRing(WIDTH, tile=SIDE, overlap=OVERLAP, depth=512)
    ring.push(web)
    ring.finish()
    monitor, told, known = inspector.drift, [], ()
    while True:
        if monitor.drift.states != known:
            known = monitor.drift.states
            told.append(monitor.drift)
        if (strip := ring.pop()) is None:
            inspector.engine.close()
            return [(str(one.state), one.reason, one.tiles, one.window) for one in told], monitor.notes
        inspector.inspect(strip)


@needs.cpp_compiler
@needs.embeddable_python
@pytest.mark.long
def test_a_cpp_program_is_told_what_python_is_told(package, tmp_path):
    web = fading_web()
    expected, notes = told_by_python(package, web)
    assert expected[0][0] == "learning"
    assert expected[-1][0] == "act"
    lines = tmp_path / "lines"
    lines.write_bytes(web.tobytes())
    host = compiled_host("drift.cpp", "g++", ("inspector",), tmp_path / "host")
    values = [str(package.path), str(lines), str(WIDTH), str(OVERLAP), str(WINDOW), sys.executable]
    done = run([str(host), *values], cwd=tmp_path)
    rows = [tuple(line.split("\t")) for line in done.stdout.splitlines()]
    *told, last = [(state, reason, int(tiles), int(window)) for state, reason, tiles, window in rows]
    assert told == expected
    assert last == expected[-1]
    assert "a drift window of 99 tiles is too small" in done.stderr
    assert all(note in done.stderr for note in notes)
