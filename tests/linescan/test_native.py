"""The native line ring, tiler and ledger."""

import ctypes
import gc
import signal
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prn_fast.errors import LinescanError
from prn_fast.kernels.tile_normalize import reference
from prn_fast.linescan.core import (
    ABI_VERSION,
    DROP_REASONS,
    MISSING_REASONS,
    PIXEL_FORMATS,
    LineRing,
    Tiler,
    row_bytes,
)


def random_lines(lines: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (lines, width), dtype=np.uint8)


def balanced(ledger) -> bool:
    """Every line has exactly one fate."""
    return ledger.lines == ledger.inspected + sum(ledger.missing.values()) + sum(ledger.dropped.values())


def inspect_waiting(ring: LineRing) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Take and inspect all waiting strips: (index, pixels, missing), copied."""
    taken = []
    while (strip := ring.pop()) is not None:
        taken.append((strip.index, strip.pixels.copy(), strip.missing.copy()))
        strip.inspected()
    return taken


@st.composite
def webs(draw):
    """Sizes of a web's ring, and what happens on its grab side: (skipped or lost lines, reason or None, lines)."""
    tile = draw(st.integers(1, 6))
    width = draw(st.integers(tile, 13))
    loss = st.one_of(st.just(0), st.integers(0, 40))
    events = st.lists(st.tuples(loss, st.sampled_from([None, *MISSING_REASONS]), st.integers(0, 12)), max_size=20)
    return width, tile, draw(st.integers(0, tile // 2)), draw(events)


def play(ring: LineRing, events, after_each) -> tuple[np.ndarray, np.ndarray]:
    """Push random lines and losses; the whole image as it should be seen, and which of its lines are missing."""
    image, missing = np.zeros((0, ring.width), np.uint8), np.zeros(0, bool)
    for number, (lost, reason, count) in enumerate(events):
        rows = random_lines(count, ring.width, number)
        if reason is None:
            ring.push(rows, first_line=len(image) + lost)
        else:
            ring.push_missing(lost, reason)
            ring.push(rows)
        repeated = image[-1:] if len(image) else np.zeros((1, ring.width), np.uint8)
        image = np.concatenate([image, repeated.repeat(lost, axis=0), rows])
        missing = np.concatenate([missing, np.ones(lost, bool), np.zeros(count, bool)])
        after_each(number)
    ring.finish()
    return image, missing


def cut_at_once(image, missing, tile, overlap) -> dict[int, tuple[np.ndarray, np.ndarray, int]]:
    """Strips of the whole image that own a received line: index -> (pixels, missing, received lines that it owns)."""
    lacking = max(0, tile - len(image))
    padded = np.concatenate([image, image[-1:].repeat(lacking, axis=0)])
    flags = np.concatenate([missing, np.ones(lacking, bool)])
    strips, end = {}, 0
    for index, start in enumerate(reference.tile_starts(len(padded), tile, overlap) if len(image) else []):
        owned = int((~flags[end : start + tile]).sum())
        if owned:
            strips[index] = (padded[start : start + tile], flags[start : start + tile], owned)
        end = start + tile
    return strips


@settings(max_examples=300, deadline=None)
@given(webs())
def test_any_pushes_losses_and_wrap_arounds_give_the_tiles_of_the_whole_image(web):
    width, tile, overlap, events = web
    ring = LineRing(width, tile=tile, overlap=overlap, depth=14)  # more than the strips of one push: none is dropped
    taken = []
    image, missing = play(ring, events, lambda _: taken.extend(inspect_waiting(ring)))
    taken += inspect_waiting(ring)

    expected = cut_at_once(image, missing, tile, overlap)
    assert [index for index, _, _ in taken] == list(expected)
    tiler = Tiler(width, tile=tile, overlap=overlap)
    for index, pixels, flags in taken:
        strip = torch.tensor(expected[index][0][..., None])
        np.testing.assert_array_equal(tiler.cut(pixels), reference.cut_tiles(strip, 0, tile, tile, overlap))
        np.testing.assert_array_equal(flags, expected[index][1])
    ledger = ring.ledger()
    assert balanced(ledger)
    assert ledger.inspected == (~missing).sum()
    assert sum(ledger.missing.values()) == missing.sum()
    for reason in MISSING_REASONS:
        told = sum(lost for lost, why, _ in events if (why or "gap") == reason)
        assert ledger.missing[reason] == told
    assert ring.finished


@settings(max_examples=200, deadline=None)
@given(webs(), st.integers(1, 3), st.lists(st.integers(0, 3), min_size=20, max_size=20))
def test_a_slow_reader_loses_the_oldest_strips_and_each_is_counted(web, depth, takes):
    width, tile, overlap, events = web
    ring = LineRing(width, tile=tile, overlap=overlap, depth=depth)
    taken = []

    def take(number):
        for _ in range(takes[number]):
            if (strip := ring.pop()) is not None:
                taken.append((strip.index, strip.pixels.copy()))
                strip.inspected()

    image, missing = play(ring, events, take)
    taken += [(index, pixels) for index, pixels, _ in inspect_waiting(ring)]

    expected = cut_at_once(image, missing, tile, overlap)
    indices = [index for index, _ in taken]
    assert indices == sorted(set(indices))
    for index, pixels in taken:
        np.testing.assert_array_equal(pixels[..., 0], expected[index][0])
    # The newest strips are always there.
    assert indices[-depth:] == list(expected)[-depth:]
    ledger = ring.ledger()
    assert balanced(ledger)
    assert ledger.dropped["queue_full"] == sum(expected[index][2] for index in set(expected) - set(indices))
    assert ledger.inspected == sum(expected[index][2] for index in indices)


def test_a_whole_image_cut_by_ring_and_tiler_equals_the_reference():
    image = random_lines(101, 47)
    ring = LineRing(47, tile=16, overlap=5, depth=12)
    ring.push(image)
    ring.finish()
    tiler = Tiler(47, tile=16, overlap=5)
    tiles = np.concatenate([tiler.cut(pixels) for _, pixels, _ in inspect_waiting(ring)])
    np.testing.assert_array_equal(tiles, reference.cut_tiles(torch.tensor(image[..., None]), 0, 101, 16, 5))


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 39))
def test_tiles_lie_where_the_kernels_put_them(width, tile, overlap):
    if overlap >= tile or width < tile:
        with pytest.raises(LinescanError, match="do not fit"):
            Tiler(width, tile=tile, overlap=overlap)
        return
    assert Tiler(width, tile=tile, overlap=overlap).lefts == reference.tile_starts(width, tile, overlap)


def test_a_gap_of_a_year_costs_no_more_than_a_short_one():
    ring = LineRing(8, tile=8, overlap=2, depth=4)
    ring.push(random_lines(20, 8))
    inspect_waiting(ring)
    year = 80_000 * 86_400 * 365
    ring.push(random_lines(16, 8), first_line=year)
    ring.finish()
    first, *others = inspect_waiting(ring)
    start = first[0] * 6
    assert start <= year < start + 8
    np.testing.assert_array_equal(first[2], np.arange(start, start + 8) < year)
    assert [index for index, _, _ in others] == [first[0] + 1, first[0] + 2, first[0] + 3]
    ledger = ring.ledger()
    assert balanced(ledger)
    assert ledger.missing["gap"] == year - 20


# -- pixel formats ------------------------------------------------------------------------------------------------


def pack_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """PFNC "p" packing by definition: a stream of bits, lowest first."""
    stream = (values[..., None] >> np.arange(bits)) & 1
    return np.packbits(stream.reshape(len(values), -1).astype(np.uint8), axis=1, bitorder="little")


def pack_gige(values: np.ndarray, bits: int) -> np.ndarray:
    """GigE Vision 1.x packing: two pixels in three bytes, upper eight bits outside, low bits in the middle."""
    low = bits - 8
    first, second = values[:, ::2], values[:, 1::2]
    middle = (first & ((1 << low) - 1)) | (second & ((1 << low) - 1)) << 4
    return np.stack([first >> low, middle, second >> low], axis=-1).reshape(len(values), -1).astype(np.uint8)


def incoming(name: str, values: np.ndarray, bits: int) -> np.ndarray:
    if name.endswith("Packed"):
        return pack_gige(values, bits)
    return pack_bits(values, bits) if name.endswith("p") else values.astype(np.uint16 if bits > 8 else np.uint8)


MONO = {"Mono8": 8, "Mono10": 10, "Mono10p": 10, "Mono10Packed": 10, "Mono12": 12, "Mono12p": 12, "Mono12Packed": 12}
MONO |= {"Mono16": 16, "BayerGR8": 8, "BayerRG8": 8, "BayerGB8": 8, "BayerBG8": 8}


@pytest.mark.parametrize("name", MONO)
def test_mono_formats_keep_the_upper_eight_bits(name):
    bits = MONO[name]
    values = np.random.default_rng(0).integers(0, 1 << bits, (6, 20))
    ring = LineRing(20, name, tile=6)
    ring.push(incoming(name, values, bits))
    strip = ring.pop()
    assert strip.pixels.shape == (6, 20, 1)
    np.testing.assert_array_equal(strip.pixels[..., 0], values >> (bits - 8))


@pytest.mark.parametrize("name", ["RGB8", "BGR8"])
def test_colour_comes_out_as_rgb(name):
    colours = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    ring = LineRing(10, name, tile=6)
    ring.push(colours)
    np.testing.assert_array_equal(ring.pop().pixels, colours if name == "RGB8" else colours[..., ::-1])


def test_all_formats_are_tested():
    assert set(PIXEL_FORMATS) == {*MONO, "RGB8", "BGR8"}


@pytest.mark.parametrize("name", PIXEL_FORMATS)
def test_a_row_has_as_many_bytes_as_its_pixels_fill(name):
    bits = MONO.get(name, 24)
    stored = 12 if name.endswith("Packed") else bits if name.endswith("p") else 8 * -(-bits // 8)
    assert row_bytes(name, 20) == LineRing(20, name, tile=4).row_bytes == 20 * stored // 8


def test_a_row_that_cannot_be_has_no_size():
    for name, width in (("Mono10p", 6), ("Mono12p", 5), ("Mono12Packed", 5), ("Mono8", -1), ("Mono17", 8)):
        with pytest.raises(LinescanError):
            row_bytes(name, width)


def test_a_word_above_the_range_is_the_brightest_pixel():
    ring = LineRing(2, "Mono10", tile=1)
    ring.push(np.array([[1023, 65535]], np.uint16))
    assert ring.pop().pixels.ravel().tolist() == [255, 255]


@pytest.mark.parametrize("name", ["Mono8", "Mono12", "Mono12p", "RGB8"])
@pytest.mark.parametrize("padding", [1, 3, 64])
def test_any_pitch_between_rows(name, padding):
    ring = LineRing(12, name, tile=4)
    rows = random_lines(4, ring.row_bytes)
    padded = np.concatenate([rows, random_lines(4, padding, seed=1)], axis=1)
    ring.push(padded[:, : ring.row_bytes])
    plain = LineRing(12, name, tile=4)
    plain.push(rows)
    np.testing.assert_array_equal(ring.pop().pixels, plain.pop().pixels)


# -- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((4, 9), np.uint8),
        np.zeros((4, 8), np.int8),
        np.zeros((4, 8), np.float32),
        np.zeros((4, 8), np.uint16),
        np.zeros(8, np.uint8),
        np.zeros((4, 8, 3), np.uint8),
        np.zeros((4, 16), np.uint8)[:, ::2],
        np.zeros((8, 4), np.uint8).T,
        np.zeros((4, 8), np.uint8)[::-1],
        np.broadcast_to(np.zeros(8, np.uint8), (4, 8)),
    ],
    ids=[
        "width",
        "int8",
        "float",
        "words",
        "one row",
        "colour",
        "every other pixel",
        "transposed",
        "upwards",
        "pitch 0",
    ],
)
def test_rows_that_do_not_fit_are_refused_and_not_counted(rows):
    ring = LineRing(8, tile=4)
    with pytest.raises(LinescanError):
        ring.push(rows)
    assert ring.ledger().lines == 0


def test_words_in_the_other_byte_order_are_refused():
    with pytest.raises(LinescanError, match="little-endian"):
        LineRing(8, "Mono12", tile=4).push(np.zeros((4, 8), ">u2"))


def test_lists_are_not_converted():
    with pytest.raises(TypeError):
        LineRing(2, tile=1).push([[1, 2]])


@pytest.mark.parametrize(
    ("width", "changes"),
    [
        (8, {"tile": 9}),
        (8, {"tile": 0}),
        (8, {"tile": -1}),
        (8, {"tile": 4, "overlap": 3}),
        (8, {"tile": 4, "depth": 0}),
        (10, {"tile": 4, "pixel_format": "Mono10p"}),
        (9, {"tile": 4, "pixel_format": "Mono12Packed"}),
        (8, {"tile": 4, "pixel_format": "YUV422_8"}),
        (0, {"tile": 1}),
        (1 << 40, {"tile": 4}),
    ],
)
def test_rings_that_cannot_work_are_refused(width, changes):
    with pytest.raises(LinescanError):
        LineRing(width, **changes)


def test_lines_that_came_before_are_refused():
    ring = LineRing(8, tile=4)
    ring.push(random_lines(6, 8), first_line=10)
    with pytest.raises(LinescanError, match="came before"):
        ring.push(random_lines(2, 8), first_line=15)
    with pytest.raises(LinescanError, match="negative"):
        ring.push(random_lines(2, 8), first_line=-1)
    with pytest.raises(LinescanError):
        ring.push(random_lines(2, 8), first_line=1 << 62)
    assert ring.next_line == 16


def test_no_lines_after_the_end():
    ring = LineRing(8, tile=4)
    ring.finish()
    for action in (lambda: ring.push(random_lines(1, 8)), lambda: ring.push_missing(1, "gap"), ring.finish):
        with pytest.raises(LinescanError, match="finished"):
            action()
    assert ring.finished
    assert ring.pop(timeout=10) is None


def test_unknown_reasons_are_refused():
    ring = LineRing(8, tile=4)
    with pytest.raises(LinescanError, match="camera_lost"):
        ring.push_missing(1, "bad luck")
    ring.push(random_lines(4, 8))
    with pytest.raises(LinescanError, match="overload"):
        ring.pop().drop("bad luck")


# -- verdicts and lifetimes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", DROP_REASONS)
def test_a_strip_is_settled_once(reason):
    ring = LineRing(8, tile=4)
    ring.push(random_lines(8, 8))
    strip = ring.pop()
    strip.drop(reason)
    for settle in (strip.inspected, lambda: strip.drop(reason)):
        with pytest.raises(LinescanError, match="verdict"):
            settle()
    with pytest.raises(LinescanError, match="views before"):
        strip.pixels  # noqa: B018
    assert strip.owned == range(4)
    assert ring.ledger().dropped[reason] == 4
    ring.pop().inspected()
    assert balanced(ring.ledger())


def test_a_strip_without_a_verdict_counts_as_abandoned():
    ring = LineRing(8, tile=4)
    ring.push(random_lines(4, 8))
    ring.pop()
    assert ring.ledger().dropped["abandoned"] == 4


def test_a_view_outlives_strip_and_ring_and_is_never_overwritten():
    ring = LineRing(8, tile=4, depth=2)
    image = random_lines(400, 8)
    ring.push(image[:4])
    strip = ring.pop()
    view = strip.pixels[1:, :, 0]
    strip.inspected()
    ring.push(image[4:])
    assert len(inspect_waiting(ring)) >= 2
    np.testing.assert_array_equal(view, image[1:4])
    del ring
    gc.collect()
    np.testing.assert_array_equal(view, image[1:4])


def test_views_are_read_only():
    ring = LineRing(8, tile=4)
    ring.push(random_lines(4, 8))
    strip = ring.pop()
    for view in (strip.pixels, strip.missing):
        with pytest.raises(ValueError, match=r"WRITEABLE|read-only"):
            view.setflags(write=True)
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1


def test_held_views_hold_places_until_they_go():
    ring = LineRing(8, tile=4, depth=2)
    ring.push(random_lines(12, 8))
    kept = [ring.pop().pixels, ring.pop().pixels]
    with pytest.raises(LinescanError, match="held"):
        ring.pop()
    kept.pop()
    assert ring.pop().first_line == 8


def test_a_web_shorter_than_a_strip_is_filled_up():
    ring = LineRing(8, tile=4, overlap=2)
    image = random_lines(3, 8)
    ring.push(image)
    ring.finish()
    strip = ring.pop()
    assert strip.missing.tolist() == [False, False, False, True]
    assert strip.owned == range(3)
    np.testing.assert_array_equal(strip.pixels[..., 0], image[[0, 1, 2, 2]])
    strip.inspected()
    assert balanced(ring.ledger())


def test_arrival_times_are_the_producers_or_now():
    ring = LineRing(8, tile=4)
    ring.push(random_lines(4, 8), timestamp_ns=123)
    assert ring.pop().arrival_ns == 123
    before = time.monotonic_ns()
    ring.push(random_lines(4, 8))
    assert before <= ring.pop().arrival_ns <= time.monotonic_ns()


def test_cut_writes_into_the_given_array():
    strip = random_lines(4, 30).reshape(4, 10, 3)
    tiler = Tiler(10, tile=4, overlap=1)
    out = np.full((3, 4, 4, 3), 7, np.uint8)
    assert tiler.cut(strip, out=out) is out
    np.testing.assert_array_equal(out, np.stack([strip[:, left : left + 4] for left in (0, 3, 6)]))
    for bad in (out[:2], out[..., :1], out.astype(np.int16), np.broadcast_to(out[:1], out.shape)):
        with pytest.raises(LinescanError, match="out must be"):
            tiler.cut(strip, out=bad)
    for bad in (strip[:3], strip[:, :9], strip.astype(np.float32), strip[..., 0]):
        with pytest.raises(LinescanError, match="a strip is"):
            tiler.cut(bad)


# -- threads ------------------------------------------------------------------------------------------------------


def test_a_reader_waits_without_the_gil():
    ring = LineRing(8, tile=4)
    found = []
    reader = threading.Thread(target=lambda: found.append(ring.pop(timeout=60)), daemon=True)
    reader.start()
    ring.push(random_lines(4, 8))  # could not run if the reader slept with the GIL
    reader.join(timeout=30)
    assert not reader.is_alive()
    assert found[0].first_line == 0


def test_two_producers_at_once_are_refused_and_nothing_is_torn():
    ring = LineRing(4096, "Mono12p", tile=64, depth=2)
    rows = np.zeros((4096, ring.row_bytes), np.uint8)
    refused, pushed = [], []

    def produce():
        for _ in range(20):
            try:
                ring.push(rows)
                pushed.append(len(rows))
            except LinescanError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=produce, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("another thread is pushing" in text for text in refused)
    assert ring.ledger().lines == sum(pushed)


def test_the_ledger_balances_with_producer_and_reader_in_parallel():
    ring = LineRing(64, tile=16, overlap=4, depth=3)
    image = random_lines(5000, 64)
    strips = []

    def read():
        while True:
            strip = ring.pop(timeout=0.05)
            if strip is not None:
                strips.append((strip.first_line, strip.pixels[..., 0].copy()))
                strip.inspected()
            elif ring.finished:
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    for start in range(0, len(image), 7):
        ring.push(image[start : start + 7])
    ring.finish()
    reader.join(timeout=60)
    assert not reader.is_alive()
    for first_line, pixels in strips:
        np.testing.assert_array_equal(pixels, image[first_line : first_line + 16])
    ledger = ring.ledger()
    assert ledger.lines == len(image)
    assert balanced(ledger)


def test_a_signal_ends_waiting():
    class Alarm(Exception):
        pass

    def ring_the_bell(*_):
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring_the_bell)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Alarm):
            LineRing(8, tile=4).pop(timeout=3600)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("timeout", [-1.0, float("nan")])
def test_a_timeout_that_is_no_time_is_refused(timeout):
    with pytest.raises(LinescanError, match="timeout"):
        LineRing(8, tile=4).pop(timeout=timeout)


# -- rings of C++ hosts -------------------------------------------------------------------------------------------


class RingReference(ctypes.Structure):
    """prn_ring_reference of linescan.h."""

    _fields_ = (("ring", ctypes.c_void_p), ("api", ctypes.c_void_p))


def make_capsule(pointer, name: bytes):
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return make(pointer, name, None)


def test_a_host_of_another_version_is_refused():
    table = (ctypes.c_uint32 * 64)(256, ABI_VERSION + 1)
    reference = RingReference(None, ctypes.addressof(table))
    name = b"prn_fast.ring_reference"
    with pytest.raises(LinescanError, match="build the host again"):
        LineRing.from_capsule(make_capsule(ctypes.addressof(reference), name))


def test_a_host_without_a_ring_is_refused():
    table = (ctypes.c_uint32 * 64)(256, ABI_VERSION)
    for lent in (RingReference(None, None), RingReference(None, ctypes.addressof(table))):
        with pytest.raises(LinescanError, match="does not hold a line ring"):
            LineRing.from_capsule(make_capsule(ctypes.addressof(lent), b"prn_fast.ring_reference"))


def test_another_capsule_is_refused():
    something = ctypes.c_int(1)
    with pytest.raises(LinescanError, match="does not hold a line ring"):
        LineRing.from_capsule(make_capsule(ctypes.addressof(something), b"something"))
    with pytest.raises(TypeError):
        LineRing.from_capsule(something)
