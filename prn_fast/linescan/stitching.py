"""Tile maps of one strip after the other to one map of the web."""

import numpy as np
from numpy.typing import NDArray


class StripStitcher:
    """The stitching of `prn_fast.kernels.anomaly_score`, along a web whose end is not known.

    The weights are those of the definition: w(y) w(x), a triangle over the tile. Along the strip they are divided by
    their sum at once; along the web, a line is ready when the strip that owns it is there, with what the strip before
    said of it. The last strip of a web, flush with its end, does not change lines that were ready before.

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
        self._side = side
        self._width = width
        # w(y) w(x) has the triangle itself in its first row, where w(y) = 1.
        triangle = stitch_weights(side).numpy()[0]
        total = np.zeros(width, np.float32)
        for left in self.lefts:
            total[left : left + side] += triangle
        self._across = [triangle / total[left : left + side] for left in self.lefts]
        self._along = triangle
        self._before: tuple[int, NDArray[np.float32], NDArray[np.float32]] | None = None

    def add(self, maps: NDArray[np.float32], first_line: int, owned: range) -> NDArray[np.float32]:
        """Add a strip.

        Args:
            maps: (N, side, side), one for each of `lefts`.
            first_line: number of the strip's first line; later than that of the strip before.
            owned: the lines that are ready with it.
        Returns:
            (len(owned), width): their map.
        """
        row = np.zeros((self._side, self._width), np.float32)
        for one, left, weights in zip(maps, self.lefts, self._across, strict=True):
            row[:, left : left + self._side] += one * weights
        total, weight = row * self._along[:, None], self._along.copy()
        if self._before is not None:
            before_line, before_total, before_weight = self._before
            shared = before_line + self._side - first_line
            if shared > 0:
                total[:shared] += before_total[-shared:]
                weight[:shared] += before_weight[-shared:]
        self._before = first_line, total, weight
        ready = slice(owned.start - first_line, owned.stop - first_line)
        return total[ready] / weight[ready, None]

    def interrupt(self) -> None:
        """The next strip does not follow the one before: forget that one."""
        self._before = None
