import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prn_fast.linescan.sources.base import Gap
from prn_fast.linescan.sources.line_numbers import GIGE_VISION_IDS, LineNumbers, Placement

LINES = 10


def place(numbers, steps):
    """First line and gaps before it of each step: a block number, or a negative one for a block that failed."""
    answers = []
    for now, step in enumerate(steps):
        if step < 0:
            assert numbers.failed(-step) is None
            answers.append(None)
            continue
        placed = numbers.received(step, now * 10**9)
        answers.append(None if placed is None else (placed.first_line, *placed.before))
    return answers


def test_blocks_follow_each_other_over_the_end_of_16_bit_numbers():
    numbers = LineNumbers(LINES, GIGE_VISION_IDS, None)
    answers = place(numbers, [65533, 65534, 65535, 1, 2])
    assert answers == [(0,), (10,), (20,), (30,), (40,)]


def test_numbers_that_do_not_wrap_grow_beyond_16_bit():
    numbers = LineNumbers(LINES, None, None)
    assert place(numbers, [65535, 65536, 65537])[-1] == (20,)


def test_blocks_that_are_not_received_are_a_gap():
    numbers = LineNumbers(LINES, GIGE_VISION_IDS, None)
    assert place(numbers, [65534, 2]) == [(0,), (30, Gap(10, 20, "gap"))]


def test_a_failed_block_is_counted_once_also_when_it_comes_late():
    numbers = LineNumbers(LINES, None, None)
    assert place(numbers, [1, -2, -2, 3]) == [(0,), None, None, (20, Gap(10, 10, "incomplete"))]
    assert place(numbers, [5, -4, 4, 6]) == [(40, Gap(30, 10, "gap")), None, None, (50,)]


def test_blocks_that_failed_and_blocks_that_were_not_received_are_told_apart():
    numbers = LineNumbers(LINES, None, None)
    assert place(numbers, [1, -3, 6])[-1] == (50, Gap(10, 10, "incomplete"), Gap(20, 30, "gap"))


def test_failed_blocks_before_the_first_whole_one_lie_before_it():
    numbers = LineNumbers(LINES, None, None)
    assert place(numbers, [-7, -8, 9]) == [None, None, (20, Gap(0, 20, "incomplete"))]


def test_failed_blocks_that_none_follows_are_counted_at_the_end():
    numbers = LineNumbers(LINES, None, None)
    place(numbers, [1, -2, -3])
    assert numbers.end() == Gap(10, 20, "incomplete")
    assert numbers.end() is None
    none_whole = LineNumbers(LINES, None, None)
    place(none_whole, [-1, -2])
    assert none_whole.end() == Gap(0, 20, "incomplete")


@pytest.mark.parametrize("counter", [False, True])
def test_many_failed_blocks_are_told_of_before_one_follows(counter):
    numbers = LineNumbers(LINES, None, None)
    numbers.received(1, 0, counter=0 if counter else None)
    gaps = [numbers.failed(block_id) for block_id in range(2, 22)]
    assert [gap for gap in gaps if gap is not None] == [Gap(10, 160, "incomplete")]
    placed = numbers.received(23, 0, counter=220 if counter else None)
    assert placed == Placement(220, before=(Gap(170, 40, "incomplete"), Gap(210, 10, "gap")))


@pytest.mark.parametrize("counter", [False, True])
def test_the_number_of_a_failed_block_decides_nothing(counter):
    numbers = LineNumbers(LINES, GIGE_VISION_IDS, None)
    numbers.received(7, 0, counter=0 if counter else None)
    for block_id in (135, 40_000, 3, 65_535):
        assert numbers.failed(block_id) is None
    placed = numbers.received(9, 0, counter=20 if counter else None)
    assert placed == Placement(20, before=(Gap(10, 10, "incomplete"),))


def test_with_a_line_counter_the_counter_decides():
    numbers = LineNumbers(LINES, None, None)
    assert numbers.failed(4) is None
    assert numbers.received(5, 0, counter=1000) == Placement(1000, before=(Gap(990, 10, "incomplete"),))
    assert numbers.received(6, 0, counter=1013) == Placement(1013, before=(Gap(1010, 3, "gap"),))
    assert numbers.next_line == 1023


def test_a_camera_that_counts_on_while_it_is_away_leaves_an_exact_gap():
    numbers = LineNumbers(LINES, GIGE_VISION_IDS, None)
    numbers.received(500, 0, counter=0)
    numbers.reconnected()
    assert numbers.received(1, 10**9, counter=300) == Placement(300, before=(Gap(10, 290, "camera_lost"),))


@pytest.mark.parametrize("counter", [None, 0])
def test_a_camera_that_counts_anew_leaves_a_gap_estimated_from_the_time(counter):
    numbers = LineNumbers(LINES, GIGE_VISION_IDS, 100.0)
    numbers.received(500, 0, counter)
    numbers.reconnected()
    # 2 seconds at 100 lines/s, of which the block itself is 10.
    gap = Gap(10, 190, "camera_lost", estimated=True)
    assert numbers.received(1, 2 * 10**9, counter) == Placement(200, before=(gap,))
    assert numbers.received(2, 2 * 10**9, None if counter is None else 10) == Placement(210)


def test_without_a_line_rate_nothing_is_invented():
    numbers = LineNumbers(LINES, None, None)
    numbers.received(500, 0)
    numbers.reconnected()
    assert numbers.received(1, 2 * 10**9) == Placement(10)


def test_the_lines_that_a_short_block_lacks_are_missing_behind_it():
    numbers = LineNumbers(LINES, None, None)
    assert numbers.received(1, 0, lines=4) == Placement(0, after=Gap(4, 6, "incomplete"))
    assert numbers.received(2, 0) == Placement(10)
    assert numbers.received(5, 0, lines=9) == Placement(
        40, before=(Gap(20, 20, "gap"),), after=Gap(49, 1, "incomplete")
    )
    assert numbers.failed(6) is None
    assert numbers.end() == Gap(50, 10, "incomplete")
    assert numbers.next_line == 60


def test_with_a_line_counter_the_next_block_tells_what_a_short_one_lacked():
    numbers = LineNumbers(LINES, None, None)
    assert numbers.received(1, 0, counter=0, lines=4) == Placement(0)
    assert numbers.received(2, 0, counter=4, lines=4) == Placement(4)
    assert numbers.received(3, 0, counter=20) == Placement(20, before=(Gap(8, 12, "gap"),))


def test_lines_that_were_counted_as_missing_too_early_are_not_counted_again():
    numbers = LineNumbers(LINES, None, None)
    numbers.received(1, 0, counter=0)
    # It had 4 lines, not 10, and the block after it 5: the counter says so.
    assert numbers.failed(2) is None
    assert numbers.end() == Gap(10, 10, "incomplete")
    assert numbers.received(3, 0, counter=14, lines=5) is None
    assert numbers.received(4, 0, counter=19) == Placement(20, skipped=1)
    assert numbers.next_line == 29


def test_no_line_has_a_negative_number():
    numbers = LineNumbers(LINES, None, None)
    numbers.failed(1)
    assert numbers.received(2, 0, counter=3) == Placement(3, before=(Gap(0, 3, "incomplete"),))


@pytest.mark.parametrize("ids", [None, GIGE_VISION_IDS])
@pytest.mark.parametrize("counter", [None, 0])
def test_a_camera_that_counts_anew_without_having_been_lost_is_not_waited_for(ids, counter):
    numbers = LineNumbers(LINES, ids, 100.0)
    numbers.received(30_000, 0, counter)
    gap = Gap(10, 190, "camera_lost", estimated=True)
    assert numbers.received(1, 2 * 10**9, counter) == Placement(200, before=(gap,))
    numbers = LineNumbers(LINES, ids, None)
    numbers.received(30_000, 0)
    assert numbers.failed(1) is None
    assert numbers.received(2, 10**9) == Placement(10)


@st.composite
def webs(draw):
    """What becomes of each block, its lines, and the lines that pass before the next; and the first block's number.

    Of one that is "garbled", hardly a packet arrives: its number is any.
    """
    lines = st.one_of(st.just(LINES), st.integers(1, LINES))
    fates = st.sampled_from(["arrives", "arrives", "fails", "garbled", "lost"])
    block = st.tuples(fates, lines, st.integers(0, 3), st.integers(0, GIGE_VISION_IDS))
    return draw(st.lists(block, max_size=40)), draw(st.integers(1, GIGE_VISION_IDS))


def run(numbers, web, counts_lines):
    """Plays a web; (first line by the camera's counter, Placement, lines) of what arrived, and the ranges missing."""
    blocks, block_id = web
    line, expected, arrived, missing = 0, None, [], []

    def follow(first_line, end_line):
        nonlocal expected
        assert expected in (None, first_line)
        assert end_line > first_line >= 0
        expected = end_line

    def lose(gap):
        if gap is not None:
            follow(gap.first_line, gap.end_line)
            missing.append(range(gap.first_line, gap.end_line))

    for fate, lines, pause, garbled in blocks:
        if fate in ("fails", "garbled"):
            lose(numbers.failed(block_id if fate == "fails" else garbled))
        elif fate == "arrives":
            placed = numbers.received(block_id, 0, line if counts_lines else None, lines)
            if placed is not None:
                for gap in placed.before:
                    lose(gap)
                follow(placed.first_line, placed.first_line + lines - placed.skipped)
                lose(placed.after)
                arrived.append((line, placed, lines))
        # Without a counter, nothing tells that a block was short but its own lines.
        line += lines + pause if counts_lines else LINES
        block_id = block_id % GIGE_VISION_IDS + 1
    lose(numbers.end())
    return arrived, missing, expected


@settings(max_examples=300, deadline=None)
@given(webs())
def test_any_blocks_lie_at_their_number_and_all_else_is_missing(web):
    arrived, missing, end = run(LineNumbers(LINES, GIGE_VISION_IDS, None), web, counts_lines=False)
    if arrived:
        line, placed, _ = arrived[0]
        origin = line - placed.first_line
        failed = sum(fate in ("fails", "garbled") for fate, *_ in web[0][: line // LINES])
        assert placed.first_line in range(failed * LINES + 1)
    for line, placed, lines in arrived:
        assert placed.skipped == 0
        assert placed.first_line == line - origin
        assert lines == LINES or range(placed.first_line + lines, placed.first_line + LINES) in missing
    assert (end or 0) == sum(lines for _, _, lines in arrived) + sum(len(one) for one in missing)
    assert (end or 0) % LINES == 0
    assert (end or 0) <= LINES * len(web[0])


@settings(max_examples=300, deadline=None)
@given(webs())
def test_with_a_line_counter_any_line_that_is_taken_has_its_own_number(web):
    numbers = LineNumbers(LINES, GIGE_VISION_IDS, None)
    arrived, missing, end = run(numbers, web, counts_lines=True)
    taken = []
    for line, placed, lines in arrived:
        assert placed.first_line == line + placed.skipped
        assert placed.after is None
        taken.append(range(placed.first_line, line + lines))
    every = sorted(number for one in taken + missing for number in one)
    assert every == list(range(every[0], end)) if every else end is None
