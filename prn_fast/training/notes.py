"""What training says before it begins, and what should not be overlooked."""

import sys

from rich.console import Console
from rich.text import Text

from prn_fast.training.conformal import FALSE_ALARM_RATE, default_rate, lowest_rate, needed_normals, too_few
from prn_fast.training.settings import TrainingSettings


def say_note(text: str, console: Console) -> None:
    """Print a line that should not be overlooked. As a Text, since names in it must not be read as markup."""
    console.print(Text.assemble(("note:", "yellow"), f" {text}"), soft_wrap=True)


def say_lowest_rate(normals: int, settings: TrainingSettings) -> None:
    """Say on stderr if the held-out normals are too few to promise the target rate, or a useful one."""
    pieces = f"held-out normal {'tiles' if settings.tiles else 'images'}"
    rate = settings.false_alarm_rate
    if rate is None and default_rate(normals) > FALSE_ALARM_RATE:
        told = (
            f"{normals} {pieces} are few: the threshold is set for a false-alarm rate of {default_rate(normals):.2g}; "
            f"it takes {needed_normals(FALSE_ALARM_RATE / 2)} for {FALSE_ALARM_RATE:.2g}. Calibrate the package with "
            "good images of its line: prn-calibrate"
        )
    elif rate is not None and rate < lowest_rate(normals):
        told = (
            f"{too_few(normals, rate, pieces)}; the threshold for {rate:.2g} is extrapolated, and good parts may be "
            "called defective more often"
        )
    else:
        return
    print(f"note: {told}", file=sys.stderr)
