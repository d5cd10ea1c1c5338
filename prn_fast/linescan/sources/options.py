"""Values of sources' options: what each may be, and errors for wrong ones."""

import math
from dataclasses import dataclass

from prn_fast.errors import ConfigError, printable

COUNTERS = ("block", "line")


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`; also 0 where `or_zero`, which then means "not given"."""

    least: float
    most: float
    or_zero: bool = False

    def holds(self, value: float) -> bool:
        """Whether a value lies in it."""
        return self.least <= value <= self.most or (self.or_zero and value == 0)

    def __str__(self) -> str:
        return f"{'0, or ' if self.or_zero else ''}{self.least:,} to {self.most:,}"


# Defaults of sources: lines of a block, and blocks that a camera's library may fill ahead.
BLOCK_LINES = 256
BUFFERS = 16
# Most pixels of a block and of a synthetic web in memory, and most lines of a block: more is a typing error.
MAX_PIXELS = 1 << 30
_MAX_WIDTH = 1 << 20  # the line ring's
_MAX_LINES = 1 << 16
RANGES = {
    "width": Range(0, _MAX_WIDTH),
    "lines": Range(1, _MAX_LINES),
    "line_rate": Range(0.001, 10_000_000, or_zero=True),
    # One block is read while another is filled.
    "buffers": Range(2, 1024),
    "packet_size": Range(576, 16_384, or_zero=True),
    "strip_lines": Range(512, MAX_PIXELS // 512),
    "defects": Range(0, 1_000_000),
    "seed": Range(0, (1 << 63) - 1),
    "length": Range(0, 1 << 60),
    "repeat": Range(0, 1 << 60),
}
CHOICES: dict[str, tuple[object, ...]] = {
    "counter": COUNTERS,
    "channels": (1, 3),
}
# Names of cameras, as their libraries list them: `where` of some sources, `device` of others.
TEXTS = ("where", "device")
_LONGEST_TEXT = 1000


def check_options(name: str, **options: object) -> None:
    """Check values of options against what they may be, before anything is opened.

    Args:
        name: of the source, for the message.
        options: by their names; those without limits may be anything.
    Raises:
        ConfigError: a number that is not finite or out of range, a word that is none of the choices, or a name that
            no camera has.
    """
    for option, value in options.items():
        choices = _pixel_formats() if option == "pixel_format" else CHOICES.get(option)
        if choices is not None and value not in choices:
            wanted = f"choose one of {', '.join(map(str, choices))}"
        elif isinstance(value, int | float) and not math.isfinite(value):
            wanted = "give a finite number"
        elif isinstance(value, int | float) and option in RANGES and not RANGES[option].holds(value):
            wanted = f"give {RANGES[option]}"
        elif option in TEXTS and not _could_be_a_name(str(value)):
            wanted = "give a name as the camera's library lists it"
        else:
            continue
        told = f"'{printable(value)}'" if isinstance(value, str) else printable(str(value))
        raise ConfigError(f"{name}: {option} is {told}; {wanted}")


def _could_be_a_name(text: str) -> bool:
    """Whether camera libraries accept it: some end the process on text that is not UTF-8, or cut it at a NUL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return len(text) <= _LONGEST_TEXT and (text == "" or text.isprintable())


def _pixel_formats() -> tuple[str, ...]:
    from prn_fast.linescan.core import PIXEL_FORMATS

    return PIXEL_FORMATS
