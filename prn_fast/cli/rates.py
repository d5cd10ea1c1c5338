"""What a false-alarm rate costs and finds, as lines and tables for a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from prn_fast.training.conformal import promise_at


def rates_table(calibration: Mapping[str, Any], defects: str) -> Table:
    """What several false-alarm rates promise and find, of a calibration; the rate in force is bold.

    A rate that n good images cannot promise is "extrapolated". All others have the expected rate of their threshold,
    which is the next below that n images support, and the upper 95 % bound of `promise_at`.

    Args:
        defects: which ones were detected, in words.
    """
    table = Table(title="detection against false alarms", title_justify="left")
    for heading in ("false alarms", "expected", "95 % sure: below", f"detected, {defects}", "95 % interval"):
        table.add_column(heading, justify="right")
    for row in calibration["detection"]:
        promise = promise_at(calibration["normals"], row["false_alarm_rate"])
        table.add_row(
            f"{row['false_alarm_rate']:.1%}",
            *(("extrapolated", "") if promise is None else (f"{one:.1%}" for one in promise)),
            f"{row['detected']} of {row['defects']} ({row['detected'] / row['defects']:.0%})",
            f"{row['low']:.0%} to {row['high']:.0%}",
            style="bold" if row["false_alarm_rate"] == calibration["false_alarm_rate"] else None,
        )
    return table


def promise(calibration: Mapping[str, Any], pieces: str = "good images") -> str:
    """What the threshold of a calibration promises, in a sentence."""
    normals, rate = calibration["normals"], calibration["promised_rate"]
    if rate is None:
        return (
            f"threshold {calibration['threshold']:.3f} (raw score) is extrapolated: {normals} {pieces} promise nothing "
            f"below {calibration['lowest_rate']:.2g}"
        )
    return (
        f"threshold {calibration['threshold']:.3f} (raw score): of good parts like the {normals} held out, at most "
        f"{rate:.1%} are expected to be called defective (95 % sure: below {calibration['rate_bound']:.1%})"
    )
