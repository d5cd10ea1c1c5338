"""Joins the tile maps of consecutive strips to one map of the web."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Stitched:
    """Lines whose map is final.

    Attributes:
        first_line: number of the first one.
        pixels: uint8 (n, width, C).
        heat: float32 (n, width), anomaly map in 0..1; 0 on missing lines.
        missing: bool (n,), lines that never arrived.
    """

    first_line: int
    pixels: NDArray[np.uint8]
    heat: NDArray[np.float32]
    missing: NDArray[np.bool_]


@dataclass
class _Pending:
    """Lines that the next strip also covers: the weighted sum of their maps so far, and the sum of the weights."""

    first_line: int
    pixels: NDArray[np.uint8]
    missing: NDArray[np.bool_]
    total: NDArray[np.float32]
    weight: NDArray[np.float32]

    def stitched(self) -> Stitched:
        heat = self.total / self.weight[:, None]
        heat[self.missing] = 0.0
        return Stitched(self.first_line, self.pixels, heat, self.missing)


class StripStitcher:
    """The stitching of `prn_fast.kernels.anomaly_score`, along a web whose end is not known.

    The weights are those of the definition: w(y) w(x), a triangle over the tile. Across the web they are divided by
    their sum at once; along the web, a line is final when no further strip holds it. The last strip of a web, flush
    with its end, does not change lines that were final before.

    Only lines that strips own become final, each once: after a hole, those of the strip that was left out do not.

    Args:
        width: pixels of the web.
        side: of the tiles.
        overlap: pixels that neighbouring tiles share, 0 to side / 2.
    Raises:
        ConfigError: sizes that `tile_starts` refuses.
    """

    def __init__(self, width: int, side: int, overlap: int) -> None:
        from prn_fast.kernels.anomaly_score.reference import stitch_weights
        from prn_fast.kernels.tile_normalize.reference import tile_starts

        self.lefts = tile_starts(width, side, overlap)
        self._stride = side - overlap
        # w(y) w(x) is the triangle itself in its first row, where w(y) = 1.
        self._along = triangle = stitch_weights(side).numpy()[0]
        total = np.zeros(width, np.float32)
        for left in self.lefts:
            total[left : left + side] += triangle
        self._across = [triangle / total[left : left + side] for left in self.lefts]
        self._width = width
        self._end: int | None = None
        self._pending: _Pending | None = None

    def along_the_line(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """The maps (N, side, side) of a strip's tiles, one for each of `lefts`, put together: (side, width)."""
        across = np.zeros((maps.shape[1], self._width), np.float32)
        for one, left, weights in zip(maps, self.lefts, self._across, strict=True):
            across[:, left : left + len(weights)] += one * weights
        return across

    def add(
        self,
        strip_map: NDArray[np.float32],
        pixels: NDArray[np.uint8],
        missing: NDArray[np.bool_],
        first_line: int,
        owned: range,
    ) -> list[Stitched]:
        """Add a strip; its pixels are copied.

        Args:
            strip_map: (side, width), its tiles' maps put together along the line.
            pixels, missing: (side, width, C) and (side,), of the strip.
            first_line: number of the strip's first line.
            owned: the lines that the strip before does not hold; where they do not follow it, there is a hole.
        Returns:
            What became final: up to two runs of lines, where there is a hole.
        """
        done = [] if owned.start == self._end else self.flush()
        before, self._end = self._pending, owned.stop
        start = owned.start if before is None else before.first_line
        kept = slice(start - first_line, owned.stop - first_line)
        weight = self._along[kept].copy()
        total = strip_map[kept] * weight[:, None]
        if before is not None:
            total[: len(before.total)] += before.total
            weight[: len(before.weight)] += before.weight
        lines = _Pending(start, pixels[kept].copy(), missing[kept].copy(), total, weight)
        ready = first_line + self._stride - start
        if ready > 0:
            done.append(_part(lines, slice(0, ready)).stitched())
        self._pending = _part(lines, slice(max(0, ready), None))
        return done

    def flush(self) -> list[Stitched]:
        """The lines that waited for another strip, now that none follows."""
        pending, self._pending, self._end = self._pending, None, None
        return [] if pending is None or not len(pending.total) else [pending.stitched()]


def _part(lines: _Pending, part: slice) -> _Pending:
    return _Pending(
        lines.first_line + (part.start or 0),
        lines.pixels[part],
        lines.missing[part],
        lines.total[part],
        lines.weight[part],
    )
