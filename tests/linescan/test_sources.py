"""Sources that need no camera, and the emulated cameras that come with camera libraries."""

import collections
import importlib.util
import inspect
import itertools
import os
import threading
import time
import typing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from prn_fast.data.images import write_image
from prn_fast.errors import ConfigError, DataError, LinescanError, PRNError
from prn_fast.linescan.core import LineRing, row_bytes
from prn_fast.linescan.sources import SOURCES, Block, Gap, aravis, gentl, open_source
from prn_fast.linescan.sources.camera import CameraLost, CameraSource, take_counter
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


# What no number can be: not one, not finite, below every range, beyond every range, more digits than Python reads.
NO_NUMBERS = ["", "x", "nan", "inf", "-inf", "-1", "-0.5", "1e999", "9" * 40, "9" * 5000, "1,5", "0x10", "%00"]
NO_WORDS = {
    "pixel_format": ["", "mono8", "Mono17", "M" * 5000, "%00", "Mono8%0A"],
    "counter": ["", "lines", "nan", "-1"],
    "device": ["d" * 5000, "%00", "a%0Ab", "%ED%A0%80"],
}


def bad_options():
    """Options that cannot be: each of each source with each value above, and what else is wrong with a few."""
    for kind, path in SOURCES.items():
        module, name = path.rsplit(".", 1)
        source = getattr(importlib.import_module(module), name)
        hints = typing.get_type_hints(source.__init__)
        for option in inspect.signature(source).parameters.values():
            if option.kind is option.KEYWORD_ONLY:
                values = NO_WORDS[option.name] if hints[option.name] is str else NO_NUMBERS
                values = [*values, "1.5"] if hints[option.name] is int else values
                twice = f"{option.default}&{option.name}={option.default}"
                yield from ((kind, f"{option.name}={value}") for value in [*values, twice, "%ff"])
                yield kind, f"{option.name.upper()}={option.default}"
        yield from ((kind, query) for query in ("widht=8", "=8", "u" * 5000, "%ff=1", "lines=0", "lines=65537"))
    for kind in ("aravis", "pylon", "gentl"):
        for query in (
            "buffers=0", "buffers=1", "buffers=1025", "width=1048577", "line_rate=0.0001", "line_rate=10000001",
            "pixel_format=Mono12p&width=101", "pixel_format=Mono10p&width=102", "pixel_format=Mono10Packed&width=101",
            "counter=line&pixel_format=Mono12", "counter=line&width=15",
        ):  # fmt: skip
            yield kind, query
    for query in (
        "channels=2", "channels=0", "channels=4", "strip_lines=511", "strip_lines=513", "width=511", "width=1048577",
        "width=524288&lines=65536&strip_lines=1024", "strip_lines=2097152&width=1024", "defects=1000001",
    ):  # fmt: skip
        yield "synthetic", query
    yield from (("aravis", "packet_size=1"), ("aravis", "packet_size=16385"), ("gentl", "wrap=1"), ("gentl", "wrap=-1"))


def bad_places():
    """Cameras and materials that nobody has, and kinds of sources that are none."""
    for place in ("a" * 5000, "a\nb", "\udcff", "a\0b", "%s%n"):
        yield from (f"{kind}:{place}" for kind in ("aravis", "pylon", "gentl", "synthetic"))
    yield from ("gentl:..", "", ":", "nan", "u" * 5000, "usb:1", "Aravis:", "a\nb:c", "\udcff:")


def line_of(text, kind):
    """The error of a source that cannot be, checked to be one line that any terminal shows."""
    with pytest.raises(kind) as caught:
        open_source(text)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 700
    return message


@pytest.mark.parametrize(("kind", "query"), bad_options(), ids=lambda text: repr(text[:40]))
def test_an_option_that_cannot_be_is_one_line(kind, query, tmp_path):
    where = {"dir": tmp_path, "synthetic": "cast_iron"}.get(kind, "")
    # What is no option may be taken for part of a folder's name.
    line_of(f"{kind}:{where}?{query}", PRNError if kind == "dir" else ConfigError)


@pytest.mark.parametrize("text", bad_places(), ids=lambda text: ascii(text[:40]))
def test_a_place_that_cannot_be_is_one_line(text, monkeypatch):
    kind = text.partition(":")[0]
    if kind == "aravis" and not text.isprintable():
        # Libraries end the process on some of these, or cut them.
        monkeypatch.setattr(aravis, "import_aravis", lambda: pytest.fail("the camera's library was asked"))
    if kind == "pylon":
        monkeypatch.setenv("PYLON_CAMEMU", "1")
    line_of(text, (ConfigError, LinescanError))


@pytest.mark.parametrize(
    ("option", "most", "words"),
    [
        ("line_rate=nan", 120, "line_rate is nan; give a finite number"),
        ("seed=-1", 120, "seed is -1; give 0 to 9,223,372,036,854,775,807"),
        ("line_rate=-3", 120, "line_rate is -3.0; give 0, or 0.001 to 10,000,000"),
        ("lines=5&lines=6", 120, "lines is given more than once"),
        ("channels=2", 120, "channels is 2; choose one of 1, 3"),
    ],
)
def test_what_to_give_is_told(option, most, words):
    message = line_of(f"synthetic:?{option}", ConfigError)
    assert message.endswith(words)
    assert len(message) < most


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


def test_stop_before_the_first_line():
    source = SyntheticSource(width=512, lines=64, strip_lines=512, line_rate=0.001)
    source.stop()
    assert list(source.events()) == []


def ends_silently(source, meanwhile=lambda: None):
    """Whether the events of a source that sends nothing end after `stop`."""
    running, events = threading.Event(), []

    def run():
        running.set()
        events.extend(source.events())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    running.wait()
    meanwhile()
    source.stop()
    thread.join(20)
    return not thread.is_alive() and not events


def test_stop_ends_a_source_whose_next_line_is_due_in_days():
    assert ends_silently(SyntheticSource(width=512, lines=64, strip_lines=512, line_rate=0.001))


def test_stop_ends_a_folder_whose_next_line_is_due_in_days(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((64, 96), np.uint8))
    assert ends_silently(open_source(f"dir:{tmp_path}?line_rate=0.001"))


def test_stop_ends_a_gentl_camera_that_sends_nothing(open_gentl):
    assert ends_silently(open_gentl([], "lines=8"))


def test_stop_ends_a_basler_camera_that_sends_nothing(emulator):
    # It waits for a trigger that does not come.
    emulator.camera.TriggerSource.SetValue("Software")
    emulator.camera.TriggerMode.SetValue("On")
    assert ends_silently(emulator)


class IncompleteBuffers:
    """A monitor of harvesters whose producer hands over incomplete buffers, without end."""

    def __init__(self):
        stream = SimpleNamespace(id_="stream", queue_buffer=lambda buffer: None)
        self.buffer = SimpleNamespace(id_="buffer", parent=stream, is_complete=lambda: False)
        self.handed_over = threading.Event()

    def update_event_data(self, timeout):
        if self.handed_over.is_set():
            time.sleep(0.001)
        self.handed_over.set()


def test_stop_ends_a_gentl_camera_all_of_whose_blocks_are_incomplete(open_gentl):
    from harvesters import core

    source = open_gentl([], "lines=8")
    acquirer = core.ImageAcquirer.__new__(core.ImageAcquirer)
    monitor = IncompleteBuffers()
    acquirer._new_buffer_event_monitor_dict = {0: monitor}
    acquirer._event_new_buffer_thread = None
    acquirer._timeout_on_internal_fetch_call = 1
    acquirer._callback_dict = collections.defaultdict(list)
    source._acquirer, acquirer.start = acquirer, lambda: None
    try:
        assert ends_silently(source, monitor.handed_over.wait)
        assert source.times_lost == 0
    finally:
        source._acquirer = None


class LostCamera(CameraSource):
    """A camera that cannot be found again."""

    def __init__(self):
        super().__init__("lost", 64, "Mono8", 8, None, ids=None)
        self.looked_for = threading.Event()

    def connect(self):
        self.looked_for.set()
        raise LinescanError("there is no such camera")

    def start(self):
        raise CameraLost

    def grab(self, timeout):
        raise CameraLost

    def disconnect(self):
        pass


def test_stop_ends_the_search_for_a_lost_camera():
    source = LostCamera()
    assert ends_silently(source, source.looked_for.wait)


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


def test_a_folder_with_an_image_in_colour_is_a_web_in_colour(tmp_path):
    grey, colour = np.full((8, 96), 90, np.uint8), np.full((8, 96, 3), (200, 20, 20), np.uint8)
    write_image(tmp_path / "0.png", grey)
    write_image(tmp_path / "1.png", colour)
    source = open_source(f"dir:{tmp_path}")
    assert source.pixel_format == "RGB8"
    _, rows = take(source, None)
    assert np.array_equal(np.concatenate(rows).reshape(-1, 96, 3), np.concatenate([np.dstack([grey] * 3), colour]))


def test_a_folder_is_played_in_natural_order(tmp_path):
    for number in (10, 2, 1):
        write_image(tmp_path / f"frame{number}.png", np.full((4, 32), number, np.uint8))
    _, rows = take(open_source(f"dir:{tmp_path}"), None)
    assert np.concatenate(rows)[::4, 0].tolist() == [1, 2, 10]


@pytest.mark.parametrize("channels", [1, 3])
def test_all_pages_of_a_tiff_are_played(tmp_path, channels):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (3, 300, 96, channels), np.uint8)
    pages = [Image.fromarray(image if channels == 3 else image[:, :, 0]) for image in images]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    taken, rows = take(open_source(f"dir:{tmp_path}"), None)
    assert sum(lines for _, lines, _ in taken) == 900
    assert np.array_equal(np.concatenate(rows).reshape(-1, 96, channels), np.concatenate(images))


def test_what_a_folder_passes_over_is_told(tmp_path):
    write_image(tmp_path / "1.png", np.zeros((4, 32), np.uint8))
    (tmp_path / "2.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "3.png")
    (tmp_path / "notes.txt").touch()
    source = open_source(f"dir:{tmp_path}")
    (note,) = source.notes
    assert note == f"dir:{tmp_path}: passed over: 1 dangling link, 1 FIFO, 1 .txt: 2.png, 3.png"
    taken, _ = take(source, None)
    assert taken == [(0, 4, None)]


@pytest.mark.parametrize("name", ["what?", "a?b", "a?lines=3", "50 % #1", "%41", "[1]", "day+night", "\udcff"])
def test_a_folder_of_any_name_can_be_named(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    write_image(folder / "1.png", np.arange(8, dtype=np.uint8).repeat(32).reshape(8, 32))
    assert [lines for _, lines, _ in take(open_source(f"dir:{folder}"), None)[0]] == [8]
    source = open_source(f"dir:{folder}?lines=5&repeat=2")
    source.name.encode()
    assert [lines for _, lines, _ in take(source, None)[0]] == [5, 3, 5, 3]


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


def web_of(pixel_format, width, lines, seed=0):
    """Random rows as a camera sends them, uint8 (lines, bytes of a line)."""
    return np.random.default_rng(seed).integers(0, 256, (lines, row_bytes(pixel_format, width)), dtype=np.uint8)


class Node:
    """A feature of a stand-in camera; one with a limit takes no more, and says nothing."""

    def __init__(self, value, limit=None, symbolics=()):
        self._value, self._limit, self.symbolics = value, limit, symbolics

    @property
    def value(self):
        return self._value

    @value.setter
    def value(self, value):
        self._value = value if self._limit is None else min(value, self._limit)


class GenTLBuffer:
    """A buffer as the genicam module shows it; what its producer does not tell raises, as there.

    Args:
        frame_id: None where the producer does not number blocks.
        raw: bytes of the whole buffer.
        told: what the producer tells.
    """

    def __init__(self, frame_id, raw, **told):
        self.raw_buffer, self._told = raw, told if frame_id is None else told | {"frame_id": frame_id}
        self.parent = self

    def __getattr__(self, name):
        if name not in self._told:
            raise RuntimeError("GenTL exception: Resource or information is not available.")
        return self._told[name]

    def queue_buffer(self, buffer):
        assert buffer is self
        self.raw_buffer = b""


class StandInHarvesters:
    """Stands in for the harvesters module, a producer and a camera that sends given buffers and then nothing.

    Attributes:
        source: is stopped after the last buffer.
    """

    def __init__(self, buffers, width, most_lines=None):
        self._buffers = list(buffers)
        formats = Node("Mono8", symbolics=("RGB8Packed", "BGR8"))
        nodes = {"PixelFormat": formats, "Width": Node(width), "Height": Node(8, most_lines)}
        self.remote_device = SimpleNamespace(node_map=SimpleNamespace(**nodes, AcquisitionLineRate=Node(0.0)))
        self.num_buffers, self.source = 0, None

    def __getattr__(self, name):
        if name in ("Harvester", "create"):
            return lambda *_: self
        return lambda *_: None

    def try_fetch(self, *, timeout, is_raw):
        assert is_raw
        if self._buffers:
            return self._buffers.pop(0)
        if self.source is not None:
            self.source.stop()
        return None


@pytest.fixture
def open_gentl(monkeypatch, tmp_path):
    """Opens a source whose camera sends given buffers."""
    (tmp_path / "producer.cti").touch()
    sources = []

    def open_with(buffers, options, width=40, **camera):
        harvesters = StandInHarvesters(buffers, width, **camera)
        monkeypatch.setattr(gentl, "import_harvesters", lambda: harvesters)
        sources.append(open_source(f"gentl:{tmp_path}/producer.cti?{options}"))
        harvesters.source = sources[-1] if buffers else None
        return sources[-1]

    yield open_with
    for source in sources:
        source.close()


PACKED = ["Mono10p", "Mono10Packed", "Mono12p", "Mono12Packed"]


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("pixel_format", ["Mono8", "Mono12", "RGB8", *PACKED])
def test_gentl_rows_are_what_the_camera_packed(open_gentl, pixel_format, padding):
    rows = web_of(pixel_format, 40, 16)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=7)
    buffers = [
        GenTLBuffer(number, b"..." + padded[top : top + 8].tobytes() + bytes(50), image_offset=3, padding_x=padding)
        for number, top in ((1, 0), (2, 8))
    ]
    source = open_gentl(buffers, f"lines=8&pixel_format={pixel_format}")
    taken, blocks = take(source, 2)
    assert taken == [(0, 8, None), (8, 8, None)]
    assert np.array_equal(np.concatenate(blocks), rows)
    # The ring takes them as they are.
    ring = LineRing(40, pixel_format, tile=8)
    ring.push(blocks[0])
    assert ring.ledger().lines == 8


@pytest.mark.parametrize(
    "told",
    [
        {"delivered_image_height": 5, "height": 8, "size_filled": 8 * 40},
        {"delivered_image_height": 0, "height": 5},
        {"delivered_image_height": 8, "height": 8, "size_filled": 5 * 40},
        {"size_filled": 5 * 40 + 39},
    ],
    ids=["delivered height", "height", "bytes", "bytes, a part of a line"],
)
def test_gentl_short_blocks_hold_what_was_delivered(open_gentl, told):
    rows, stale = web_of("Mono8", 40, 5), web_of("Mono8", 40, 3, seed=1)
    whole = np.concatenate([rows, stale])
    buffers = [GenTLBuffer(1, whole.tobytes(), width=40, **told), GenTLBuffer(2, whole.tobytes())]
    taken, blocks = take(open_gentl(buffers, "lines=8"), 3)
    assert taken == [(0, 5, None), (5, 3, "incomplete"), (8, 8, None)]
    assert np.array_equal(blocks[0], rows)


def test_gentl_blocks_in_parts_and_blocks_without_lines(open_gentl):
    rows = web_of("Mono8", 40, 8)
    part = SimpleNamespace(data_offset=4, data_size=rows.size, x_padding=0, width=40, height=8)
    buffers = [
        GenTLBuffer(1, b"????" + rows.tobytes(), payload_type=10, parts=(part,)),
        GenTLBuffer(2, rows.tobytes(), payload_type=10, parts=()),
        GenTLBuffer(3, rows.tobytes(), size_filled=39),
        GenTLBuffer(4, rows.tobytes()),
    ]
    taken, blocks = take(open_gentl(buffers, "lines=8"), 4)
    assert taken == [(0, 8, None), (8, 16, "incomplete"), (24, 8, None)]
    assert np.array_equal(blocks[0], rows)


@pytest.mark.parametrize(("wanted", "set_to"), [("RGB8", "RGB8Packed"), ("BGR8", "BGR8"), ("Mono8", "Mono8")])
def test_a_camera_that_is_older_than_a_name_knows_the_format_by_another(open_gentl, wanted, set_to):
    source = open_gentl([], f"lines=8&pixel_format={wanted}")
    assert source._acquirer.remote_device.node_map.PixelFormat.value == set_to
    assert source.pixel_format == wanted


def counted_rows(first, lines=8, width=40):
    """Random lines that begin with their numbers."""
    rows = web_of("Mono8", width, lines)
    rows[:, :8] = np.arange(first, first + lines, dtype="<u8").view(np.uint8).reshape(lines, 8)
    return rows.tobytes()


@pytest.mark.parametrize("number", [0, None], ids=["always 0", "not told"])
def test_a_camera_without_block_numbers_needs_a_counter(open_gentl, number):
    starts = (0, 8, 24)
    taken, _ = take(open_gentl([GenTLBuffer(number, counted_rows(n)) for n in starts], "lines=8&counter=line"), None)
    assert taken == [(0, 8, None), (8, 8, None), (16, 8, "gap"), (24, 8, None)]
    buffers = [GenTLBuffer(number, counted_rows(0)) for _ in range(1200)]
    with pytest.raises(LinescanError, match="use counter=line"):
        take(open_gentl(buffers, "lines=8"), None)


@pytest.mark.parametrize("told", [{"width": 39}, {"height": 9}])
def test_a_block_of_another_size_stops_the_line(open_gentl, told):
    source = open_gentl([GenTLBuffer(1, bytes(9 * 40), **told)], "lines=8")
    with pytest.raises(LinescanError, match="were its settings changed"):
        take(source, 1)


def test_a_size_that_the_camera_does_not_take_is_told(open_gentl):
    with pytest.raises(LinescanError, match="takes a width of 40 and blocks of 100 lines, not 40 and 256; give what"):
        open_gentl([], "lines=256", most_lines=100)


@pytest.mark.parametrize(
    "pixel_format", ["Mono8", "Mono10", "Mono12", "Mono16", "RGB8", "BGR8", "BayerGR8", "BayerRG8"]
)
def test_pylon_rows_are_what_the_ring_takes(emulator, pixel_format):
    emulator.close()
    with open_source(f"pylon:?width=1024&lines=64&line_rate=51200&pixel_format={pixel_format}") as source:
        taken, blocks = take(source, 2)
        ring = LineRing(source.width, source.pixel_format, tile=64)
        ring.push(blocks[0])
    assert [lines for _, lines, _ in taken] == [64, 64]
    assert np.ptp(blocks[0]) > 0


class PylonResult:
    """A grab result of the emulator with other lines in it."""

    def __init__(self, result, memory, height, width, payload, padding=0):
        self._result, self._memory = result, memory
        self._numbers = {"Height": height, "Width": width, "PayloadSize": payload, "PaddingX": padding}

    def GetMemoryView(self):
        return memoryview(self._memory)

    def __getattr__(self, name):
        if name.removeprefix("Get") in self._numbers:
            return lambda: self._numbers[name.removeprefix("Get")]
        return getattr(self._result, name)


class PylonCamera:
    """The emulator, whose results are changed."""

    def __init__(self, camera, change):
        self._camera, self._change = camera, change

    def __getattr__(self, name):
        return getattr(self._camera, name)

    def RetrieveResult(self, *arguments):
        return self._change(self._camera.RetrieveResult(*arguments))


@pytest.mark.parametrize(("height", "filled"), [(100, 256), (256, 100)], ids=["height", "bytes"])
def test_pylon_short_blocks_hold_what_was_delivered(emulator, height, filled):
    rows = web_of("Mono8", 8192, 256)
    emulator.camera = PylonCamera(
        emulator.camera, lambda result: PylonResult(result, rows.tobytes(), height, 8192, filled * 8192)
    )
    taken, blocks = take(emulator, 3)
    assert [lines for _, lines, _ in taken] == [100, 156, 100]
    assert taken[1][2] == "incomplete"
    assert np.array_equal(blocks[0], rows[:100])


@pytest.mark.parametrize("pixel_format", PACKED)
def test_pylon_rows_are_what_the_camera_packed(emulator, pixel_format):
    # The emulator packs no pixels: its blocks are changed, and the source believes in the format.
    rows = web_of(pixel_format, 8192, 256)
    emulator.pixel_format = pixel_format
    emulator._row_bytes = rows.shape[1]
    emulator.camera = PylonCamera(
        emulator.camera, lambda result: PylonResult(result, rows.tobytes(), 256, 8192, rows.size)
    )
    taken, blocks = take(emulator, 1)
    assert taken[0][1:] == (256, None)
    assert np.array_equal(blocks[0], rows)


@pytest.fixture
def emulator(monkeypatch):
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
    assert [(one.lines, one.reason) for one in gaps] == [(3 * 256, "failed")]
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
    monkeypatch.setenv("PYLON_CAMEMU", "1")
    with pytest.raises(LinescanError, match="pylon:12345: "):
        open_source("pylon:12345")


@pytest.fixture(scope="module")
def producer():
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
