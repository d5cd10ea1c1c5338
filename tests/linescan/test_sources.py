"""Sources that need no camera, and the emulated cameras that come with camera libraries."""

import importlib.util
import itertools
import time
from pathlib import Path

import numpy as np
import pytest

from prn_fast.data.images import write_image
from prn_fast.errors import ConfigError, DataError, LinescanError
from prn_fast.linescan.sources import Block, Gap, open_source
from prn_fast.linescan.sources.camera import take_counter
from prn_fast.linescan.sources.synthetic import SyntheticSource, weave


def take(source, count):
    """The first events, as (first line, lines, reason), checked to follow each other; rows are copied."""
    taken, rows = [], []
    for event in source.events():
        if taken:
            assert event.first_line == taken[-1][0] + taken[-1][1]
        lines = event.end_line - event.first_line
        taken.append((event.first_line, lines, event.reason if isinstance(event, Gap) else None))
        if isinstance(event, Block):
            rows.append(np.array(event.rows))
        if len(taken) == count:
            break
    return taken, rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("usb:1", "unknown kind 'usb'; choose one of aravis, pylon, gentl, dir, synthetic"),
        ("synthetic:?wide=3", "unknown option 'wide'; choose from width, "),
        ("synthetic:?width=wide", "width is 'wide'; give a value of type int"),
        ("synthetic:paper", "unknown material 'paper'"),
        ("synthetic:?width=100", "cannot be woven"),
        ("dir:", "name the folder"),
    ],
)
def test_a_source_that_cannot_be_is_explained(text, message):
    with pytest.raises(ConfigError, match=message):
        open_source(text)


@pytest.mark.parametrize(
    ("text", "library", "extra"),
    [("pylon:", "pypylon", "pylon"), ("gentl:x.cti", "harvesters", "gentl"), ("aravis:", "gi", "aravis")],
)
def test_a_missing_library_names_the_extra(text, library, extra, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, library, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(LinescanError, match=rf"pip install 'prn-fast\[{extra}\]'"):
        open_source(text)


def test_woven_defects_are_where_they_are_said_to_be():
    clean, none = weave(1024, 1024, defects=0, seed=3)
    strip, planted = weave(1024, 1024, defects=5, seed=3)
    assert strip.shape == (1024, 1024, 1)
    assert none == []
    assert len(planted) == 5
    changed = np.abs(strip.astype(int) - clean)[:, :, 0] > 8
    for one in planted:
        box = np.s_[one.first_line : one.first_line + one.lines, one.left : one.left + one.width]
        assert changed[box].any()
    # What surrounds a defect (a shadow, a soft edge) reaches a few pixels beyond its mask.
    for one in planted:
        rows = slice(max(0, one.first_line - 12), one.first_line + one.lines + 12)
        changed[rows, max(0, one.left - 12) : one.left + one.width + 12] = False
    assert changed.mean() < 1e-3


def test_a_web_repeats_its_strip_and_ends_at_its_length():
    source = SyntheticSource(width=512, lines=200, strip_lines=512, length=1100)
    taken, rows = take(source, None)
    assert [lines for _, lines, _ in taken] == [200] * 5 + [100]
    web = np.concatenate(rows)
    assert np.array_equal(web[:512], web[512:1024])
    assert source.live is False


def test_a_web_with_a_rate_keeps_to_its_schedule():
    source = SyntheticSource(width=512, lines=64, strip_lines=512, line_rate=6400.0)
    begin = time.monotonic_ns()
    arrivals = [event.arrival_ns for event, _ in zip(source.events(), range(8), strict=False)]
    assert np.ptp(np.diff(arrivals)) <= 1
    assert arrivals[0] - begin >= 10_000_000
    assert source.live


def test_stop_ends_a_waiting_source():
    source = SyntheticSource(width=512, lines=64, strip_lines=512, line_rate=0.001)
    source.stop()
    assert list(source.events()) == []


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_is_one_web(tmp_path, channels):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (lines, 96, channels), dtype=np.uint8) for lines in (70, 64, 5)]
    for number, image in enumerate(images):
        write_image(tmp_path / f"{number}.png", image)
    source = open_source(f"dir:{tmp_path}?lines=32&repeat=2")
    assert source.pixel_format == ("Mono8" if channels == 1 else "RGB8")
    _, rows = take(source, None)
    web = np.concatenate(rows).reshape(-1, 96, channels)
    assert np.array_equal(web, np.concatenate(images * 2))


def test_a_folder_of_two_widths_is_refused(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((8, 96), np.uint8))
    write_image(tmp_path / "b.png", np.zeros((8, 97), np.uint8))
    with pytest.raises(DataError, match=r"b\.png: is 97 pixels wide, the first image of the folder 96"):
        take(open_source(f"dir:{tmp_path}"), None)


def test_the_counter_is_taken_out_of_the_lines():
    rows = np.random.default_rng(0).integers(0, 255, (5, 40), dtype=np.uint8)
    pixels = rows.copy()
    numbers = np.arange(5, dtype="<u8") + 2**40
    rows[:, :8] = numbers.view(np.uint8).reshape(5, 8)
    assert take_counter(rows) == 2**40
    assert np.array_equal(rows[:, 8:], pixels[:, 8:])
    assert np.array_equal(rows[:, :8], pixels[:, 8:16])
    rows[:, :8] = np.array([1, 2, 3, 5, 6], "<u8").view(np.uint8).reshape(5, 8)
    assert take_counter(rows) is None


@pytest.fixture
def emulator(monkeypatch):
    pytest.importorskip("pypylon", reason="pypylon is not installed: pip install 'prn-fast[pylon]'")
    monkeypatch.setenv("PYLON_CAMEMU", "1")
    with open_source("pylon:?width=8192&lines=256&line_rate=51200") as source:
        yield source


def test_basler_emulator_delivers_blocks_and_counts_failed_buffers(emulator):
    assert (emulator.width, emulator.pixel_format) == (8192, "Mono8")
    events = emulator.events()
    assert all(isinstance(next(events), Block) for _ in range(3))
    emulator.camera.ForceFailedBufferCount.SetValue(3)
    emulator.camera.ForceFailedBuffer.Execute()
    seen = [next(events) for _ in range(30)]
    gaps = [one for one in seen if isinstance(one, Gap)]
    assert [(one.lines, one.reason) for one in gaps] == [(256, "failed")] * 3
    assert all(later.first_line == earlier.end_line for earlier, later in itertools.pairwise(seen))


def test_basler_emulator_is_removed_and_comes_back(emulator):
    events = emulator.events()
    last = [next(events) for _ in range(3)][-1]
    emulator.camera.FirePnPCallback.Execute()
    gap, block = next(events), next(events)
    assert isinstance(gap, Gap)
    assert (gap.first_line, gap.reason, gap.estimated) == (last.end_line, "camera_lost", True)
    assert isinstance(block, Block)
    assert block.first_line == gap.end_line
    assert emulator.times_lost == 1


def test_basler_camera_that_is_not_there(monkeypatch):
    pytest.importorskip("pypylon", reason="pypylon is not installed: pip install 'prn-fast[pylon]'")
    monkeypatch.setenv("PYLON_CAMEMU", "1")
    with pytest.raises(LinescanError, match="pylon:12345: "):
        open_source("pylon:12345")


@pytest.fixture(scope="module")
def producer():
    pytest.importorskip("harvesters", reason="harvesters is not installed: pip install 'prn-fast[gentl]'")
    return Path(importlib.util.find_spec("genicam").origin).parent / "viky.cti"


def test_gentl_producer_delivers_blocks(producer):
    with open_source(f"gentl:{producer}?width=512&lines=128") as source:
        taken, rows = take(source, 4)
    assert taken == [(0, 128, None), (128, 128, None), (256, 128, None), (384, 128, None)]
    assert rows[0].shape == (128, 512)
    assert np.ptp(rows[0]) > 0


def test_gentl_producer_or_camera_that_is_not_there(producer, tmp_path):
    with pytest.raises(LinescanError, match="no such GenTL producer"):
        open_source(f"gentl:{tmp_path}/none.cti")
    with pytest.raises(LinescanError, match="the camera cannot be opened"):
        open_source(f"gentl:{producer}?device=none")
