import pytest

from prn_fast.linescan.sources.base import Gap
from prn_fast.linescan.sources.line_numbers import GIGE_VISION_IDS, LineNumbers

LINES = 10


def place(numbers, steps):
    """(first line, gap before it) of each step: a block number, or a negative one for a block that failed."""
    answers = []
    for now, step in enumerate(steps):
        answers.append((None, numbers.failed(-step)) if step < 0 else numbers.received(step, now * 10**9))
    return answers


def test_blocks_follow_each_other_over_the_end_of_16_bit_numbers():
    numbers = LineNumbers(LINES, GIGE_VISION_IDS, None)
    answers = place(numbers, [65533, 65534, 65535, 1, 2])
    assert answers == [(0, None), (10, None), (20, None), (30, None), (40, None)]


def test_numbers_that_do_not_wrap_grow_beyond_16_bit():
    numbers = LineNumbers(LINES, None, None)
    assert place(numbers, [65535, 65536, 65537])[-1] == (20, None)


def test_blocks_that_are_not_received_are_a_gap():
    numbers = LineNumbers(LINES, GIGE_VISION_IDS, None)
    assert place(numbers, [65534, 2]) == [(0, None), (30, Gap(10, 20, "gap"))]


def test_a_failed_block_is_counted_once_also_when_it_comes_late():
    numbers = LineNumbers(LINES, None, None)
    assert place(numbers, [1, -2, 3]) == [(0, None), (None, Gap(10, 10, "incomplete")), (20, None)]
    assert place(numbers, [5, -4, 4, 6]) == [
        (40, Gap(30, 10, "gap")),
        (None, None),
        (None, None),
        (50, None),
    ]


def test_failed_blocks_before_the_first_whole_one_lie_before_it():
    numbers = LineNumbers(LINES, None, None)
    assert place(numbers, [-7, -8, 9]) == [(None, None), (None, None), (20, Gap(0, 20, "gap"))]


def test_with_a_line_counter_the_counter_decides():
    numbers = LineNumbers(LINES, None, None)
    assert numbers.failed(4) is None
    assert numbers.received(5, 0, counter=1000) == (1000, Gap(990, 10, "gap"))
    assert numbers.received(6, 0, counter=1013) == (1013, Gap(1010, 3, "gap"))
    assert numbers.next_line == 1023


def test_a_camera_that_counts_on_while_it_is_away_leaves_an_exact_gap():
    numbers = LineNumbers(LINES, GIGE_VISION_IDS, None)
    numbers.received(500, 0, counter=0)
    numbers.reconnected()
    assert numbers.received(1, 10**9, counter=300) == (300, Gap(10, 290, "camera_lost"))


@pytest.mark.parametrize("counter", [None, 0])
def test_a_camera_that_counts_anew_leaves_a_gap_estimated_from_the_time(counter):
    numbers = LineNumbers(LINES, GIGE_VISION_IDS, 100.0)
    numbers.received(500, 0, counter)
    numbers.reconnected()
    # 2 seconds at 100 lines/s, of which the block itself is 10.
    assert numbers.received(1, 2 * 10**9, counter) == (200, Gap(10, 190, "camera_lost", estimated=True))
    assert numbers.received(2, 2 * 10**9, None if counter is None else 10) == (210, None)


def test_without_a_line_rate_nothing_is_invented():
    numbers = LineNumbers(LINES, None, None)
    numbers.received(500, 0)
    numbers.reconnected()
    assert numbers.received(1, 2 * 10**9) == (10, None)
