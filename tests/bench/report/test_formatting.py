"""Figures as text."""

import pytest

from prn_fast.bench.report.formatting import ABSENT, describe_memory, interval_text, number, signed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ABSENT), (0, "0"), (1.0, "1.00"), (9.126, "9.13"), (34.94, "34.9"), (318.6, "319"), (4405.2, "4,405"),
        (0.633, "0.633"), (0.0012345, "0.00123"), (1.2e-6, "1.20e-06"), (250000.0, "2.50e+05"), (-2.5, "-2.50"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_intervals_changes_and_memory() -> None:
    assert interval_text(None) == ABSENT
    assert interval_text([7.987, 11.13]) == "7.99 to 11.1"
    assert signed(0.0005) == "+0.0005"
    assert signed(None) == ABSENT
    assert describe_memory(None) == ABSENT
    assert describe_memory({"error": "killed"}) == "failed"
    assert describe_memory({"peak_rss_bytes": 658e6, "peak_cuda_bytes": 2e9}) == "658 + 2,000 GPU"
