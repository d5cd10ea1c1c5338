"""Bytes that multi-size attention moves. A map has B C H W values."""

from collections.abc import Sequence

from prn_fast.kernels.traffic import FLOAT_BYTES, BytesMoved


def bytes_moved(
    batch: int, channels: int, height: int, width: int, grids: Sequence[int], splits: int, value_bytes: int
) -> BytesMoved:
    """The three kernels of `fused.py`.

    Read: the map twice, each weight once (two of C H W / g^2 values for the logits of a grid above 1, two for its
    output), partial logits and attention once. Written: a map for each grid, partial logits and attention.
    """
    values = channels * height * width
    finest = max(grids)
    attending = [grid for grid in grids if grid > 1]
    weights = sum(2 * values // grid**2 for grid in grids) + sum(2 * values // grid**2 for grid in attending)
    partials = batch * splits * sum(finest**2 * grid**2 for grid in attending) * FLOAT_BYTES
    attention = batch * sum(grid**4 for grid in attending) * value_bytes
    maps = batch * values * value_bytes
    return BytesMoved(2 * maps + weights * value_bytes + partials + attention, len(grids) * maps + partials + attention)


def published_bytes_moved(
    batch: int, channels: int, height: int, width: int, grids: Sequence[int], value_bytes: int
) -> BytesMoved:
    """The published formulation, one kernel for each operation; weights, logits and attention left out.

    For each grid: patches (1 read, 1 written), value (transposed copy 1, 1; grouped convolution 1, 1), fold (1, 1),
    concatenation (1, 1); above 1 also query and key (2, 2 each), their product (2, 0) and the weighted sum (1, 1).
    """
    maps = batch * channels * height * width * value_bytes
    attending = sum(grid > 1 for grid in grids)
    return BytesMoved((5 * len(grids) + 7 * attending) * maps, (5 * len(grids) + 5 * attending) * maps)
