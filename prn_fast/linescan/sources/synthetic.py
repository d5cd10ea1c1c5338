"""A synthetic web with defects at known places, for demonstrations, tests and rates."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_fast.data.synthetic import MATERIALS, Surface, add_defect, render
from prn_fast.errors import ConfigError, printable
from prn_fast.linescan.sources.base import Block, Event, Source
from prn_fast.linescan.sources.options import BLOCK_LINES, MAX_PIXELS, check_options

# Surfaces and defects are drawn at this size.
_SIDE = 256


@dataclass(frozen=True)
class Planted:
    """A defect that was put into a strip.

    Attributes:
        kind: its name in `prn_fast.data.synthetic`.
        first_line, left, lines, width: the box around its mask, lines and pixels.
    """

    kind: str
    first_line: int
    left: int
    lines: int
    width: int


def weave(
    width: int,
    lines: int,
    channels: int = 1,
    *,
    material: str = "brushed_metal",
    defects: int = 8,
    kinds: Sequence[str] = (),
    seed: int = 0,
) -> tuple[NDArray[np.uint8], list[Planted]]:
    """A strip that can be played in a loop without a seam, and its defects.

    The surface is one drawing mirrored along both directions. Defects lie apart from each other: at least 32 pixels
    of normal surface are around each.

    Args:
        width, lines: of the strip, each at least 512; lines a multiple of 512.
        channels: 1 or 3.
        material, kinds: names from `prn_fast.data.synthetic`; no kinds means all of the material.
        defects: how many; fewer if there is no room.
        seed: same arguments, same pixels.
    Returns:
        uint8 (lines, width, channels), and the planted defects in the order of their first lines.
    Raises:
        ConfigError: an unknown name, or sizes that cannot work.
    """
    if material not in MATERIALS:
        raise ConfigError(f"unknown material '{printable(material)}'; choose from {', '.join(MATERIALS)}")
    kinds = tuple(kinds) or MATERIALS[material].defects
    if set(kinds) - set(MATERIALS[material].defects):
        raise ConfigError(f"{material} has the defects {', '.join(MATERIALS[material].defects)}, not {kinds}")
    if channels not in (1, 3):
        raise ConfigError(f"a strip of {channels} channels cannot be woven; it has 1 or 3")
    if width < 2 * _SIDE or lines < 2 * _SIDE or lines % (2 * _SIDE):
        raise ConfigError(f"a strip of {lines} x {width} cannot be woven; both at least 512, lines a multiple of 512")
    if width * lines * channels > MAX_PIXELS:
        raise ConfigError(f"a strip of {lines} x {width} cannot be woven; it has at most {MAX_PIXELS:,} pixels")
    rng = np.random.default_rng((seed, width, lines))
    surface = render(material, _SIDE, rng)
    picture, beneath = _mirrored(surface.picture), _mirrored(surface.beneath)
    rows, columns = np.arange(lines) % len(picture), np.arange(width) % len(picture)
    strip = _as_bytes(picture, channels)[rows[:, None], columns]
    # A cell for each defect, with a margin around the drawing in it.
    pitch = _SIDE + 32
    cells = [
        (top, left)
        for top in range(16, lines - _SIDE - 15, pitch)
        for left in range(16, width - _SIDE - 15, pitch)
    ]  # fmt: skip
    planted = []
    for number, cell in enumerate(rng.permutation(len(cells))[:defects]):
        top, left = cells[cell]
        here = rows[top : top + _SIDE, None], columns[left : left + _SIDE]
        kind = kinds[number % len(kinds)]
        whole = Surface(picture[here], np.ones((_SIDE, _SIDE), bool), beneath[here], surface.pitch)
        changed, mask = add_defect(whole, kind, rng)
        strip[top : top + _SIDE, left : left + _SIDE] = _as_bytes(changed, channels)
        ys, xs = np.nonzero(mask)
        planted.append(
            Planted(kind, top + int(ys.min()), left + int(xs.min()), int(np.ptp(ys)) + 1, int(np.ptp(xs)) + 1)
        )
    return strip, sorted(planted, key=lambda one: (one.first_line, one.left))


def _mirrored(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """The picture and its mirror images, four times as large: the next copy joins it without a seam on every side."""
    pair = np.concatenate([picture, picture[:, ::-1]], axis=1)
    return np.concatenate([pair, pair[::-1]], axis=0)


def _as_bytes(picture: NDArray[np.float32], channels: int) -> NDArray[np.uint8]:
    if channels == 1:
        picture = picture.mean(axis=2, keepdims=True)
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


class StripSource(Source):
    """A strip, played in a loop: line n shows row n modulo the rows of the strip.

    Args:
        name: for people.
        strip: uint8 (rows, width, C), with C of 1 or 3.
        lines: lines in a block.
        line_rate: lines per second; 0 plays as fast as the lines are inspected.
        length: lines to play; 0 never ends.
    """

    def __init__(
        self, name: str, strip: NDArray[np.uint8], *, lines: int = BLOCK_LINES, line_rate: float = 0.0, length: int = 0
    ) -> None:
        super().__init__(name, strip.shape[1], "Mono8" if strip.shape[2] == 1 else "RGB8", lines, line_rate or None)
        self.live = bool(line_rate)
        self._strip, self._length = strip, length

    def events(self) -> Iterator[Event]:
        """See `Source.events`."""
        line, start = 0, time.monotonic_ns()
        while not self._length or line < self._length:
            count = min(self.lines, self._length - line) if self._length else self.lines
            rows = np.take(self._strip, range(line, line + count), axis=0, mode="wrap")
            due = time.monotonic_ns()
            if self.line_rate:
                due = start + int((line + count) / self.line_rate * 1e9)
            if not self.wait_until(due):
                return
            yield Block(rows[:, :, 0] if rows.shape[2] == 1 else rows, line, due)
            line += count


class SyntheticSource(StripSource):
    """A woven strip, so that each planted defect comes back with every round.

    Args:
        where: the material.
        width: pixels in a line; channels: 1 or 3.
        lines: lines in a block.
        line_rate: lines per second; 0 plays as fast as the lines are inspected.
        strip_lines: lines before the strip repeats.
        defects, seed: as for `weave`.
        length: lines to play; 0 never ends.
    Attributes:
        planted: the defects of one round.
    """

    def __init__(
        self,
        where: str = "brushed_metal",
        *,
        width: int = 2048,
        channels: int = 1,
        lines: int = BLOCK_LINES,
        line_rate: float = 0.0,
        strip_lines: int = 4096,
        defects: int = 6,
        seed: int = 0,
        length: int = 0,
    ) -> None:
        where = where or "brushed_metal"
        source = f"synthetic:{printable(where)}"
        check_options(
            source, width=width, channels=channels, lines=lines, line_rate=line_rate, strip_lines=strip_lines,
            defects=defects, seed=seed, length=length,
        )  # fmt: skip
        strip, self.planted = weave(width, strip_lines, channels, material=where, defects=defects, seed=seed)
        super().__init__(source, strip, lines=lines, line_rate=line_rate, length=length)
