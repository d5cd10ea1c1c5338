"""Numbers on a command line, for argparse."""

import argparse
import math
from collections.abc import Callable


def positive(text: str) -> float:
    """An argument's number above 0, finite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """A parser of an argument's whole number from `least` to `most`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more, up to {most}")
        return value

    return parse
