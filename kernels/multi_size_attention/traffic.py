"""Bytes that multi-size attention moves. A map has B C H W values."""

from collections.abc import Sequence

from prn_fast.kernels.traffic import Traffic

PARTIAL_BYTES = 4


def bytes_moved(
    batch: int, channels: int, height: int, width: int, grids: Sequence[int], splits: int, value_bytes: int
) -> Traffic:
    """The three kernels of `fused.py`.

    Read: the map twice, each weight once (two of C H W / g^2 values for the logits of a grid above 1, two for its
    output), partial logits and attention once. Written: a map for each grid, partial logits and attention.
    """
    values = channels * height * width
    finest = max(grids)
    attending = [grid for grid in grids if grid > 1]
    weights = sum(2 * values // grid**2 for grid in grids) + sum(2 * values // grid**2 for grid in attending)
    partials = batch * splits * sum(finest**2 * grid**2 for grid in attending) * PARTIAL_BYTES
    attention = batch * sum(grid**4 for grid in attending) * value_bytes
    maps = batch * values * value_bytes
    return Traffic(2 * maps + weights * value_bytes + partials + attention, len(grids) * maps + partials + attention)


def backward_bytes_moved(
    batch: int,
    channels: int,
    height: int,
    width: int,
    grids: Sequence[int],
    splits: int,
    groups: int,
    value_bytes: int,
) -> Traffic:
    """The four kernels of `gradient.py`, and the sum over its groups of images.

    Read: the map twice and once more for each grid; upstream gradients three times, that of a grid of 1 twice; a
    value's scale twice and a projection twice (scale once for a grid of 1); partial products once; attention, its
    symmetric gradient, its columns and its scales twice. Written: all of these intermediates, the map's gradient, and
    the weights' for each group and once more.
    """
    values = channels * height * width
    finest = max(grids)
    attending = [grid for grid in grids if grid > 1]
    maps = batch * values * value_bytes
    weights = sum((6 if grid > 1 else 1) * values // grid**2 for grid in grids) * value_bytes
    partials = batch * splits * 2 * sum(finest**2 * grid**2 for grid in attending) * PARTIAL_BYTES
    attention = 2 * batch * sum(grid**4 for grid in attending) * value_bytes
    attention += batch * (sum(grid**2 for grid in attending) + len(grids)) * PARTIAL_BYTES
    sums = sum((4 if grid > 1 else 2) * values // grid**2 for grid in grids) * PARTIAL_BYTES
    read_maps = 2 + len(grids) + 2 * len(grids) + len(attending)
    read = read_maps * maps + weights + partials + 2 * attention + groups * sums
    return Traffic(read, maps + partials + attention + (groups + 1) * sums)


def published_bytes_moved(
    batch: int, channels: int, height: int, width: int, grids: Sequence[int], value_bytes: int
) -> Traffic:
    """The published formulation, one kernel an operation; weights, logits and attention left out.

    For each grid: patches (1 read, 1 written), value (transposed copy 1, 1; grouped convolution 1, 1), fold (1, 1),
    concatenation (1, 1); above 1 also query and key (2, 2 each), their product (2, 0) and the weighted sum (1, 1).
    """
    maps = batch * channels * height * width * value_bytes
    attending = sum(grid > 1 for grid in grids)
    return Traffic((5 * len(grids) + 7 * attending) * maps, (5 * len(grids) + 5 * attending) * maps)
