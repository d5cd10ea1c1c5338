"""Bytes that the prototype residual moves. B maps, K prototypes, D values a map."""

from prn_fast.kernels.traffic import Traffic

PARTIAL_BYTES = 4


def bytes_moved(batch: int, count: int, size: int, splits: int, value_bytes: int) -> Traffic:
    """The two kernels of `fused.py`.

    First: the maps and all prototypes in, B K splits partial sums out. Second: those, the maps and each nearest
    prototype (at most K of them differ) in, the residual out.
    """
    maps = batch * size * value_bytes
    partials = batch * count * splits * PARTIAL_BYTES
    prototypes = (count + min(batch, count)) * size * value_bytes
    return Traffic(2 * maps + prototypes + partials, partials + maps)


def published_bytes_moved(batch: int, count: int, size: int, value_bytes: int) -> Traffic:
    """The published formulation, one kernel an operation.

    Over B K D values: two expanded copies (2 read, 2 written), difference (2, 1), epsilon (1, 1), norm (1, 0). Over
    B D values: gather (1, 1), squared difference (2, 1).
    """
    pairs, maps = batch * count * size * value_bytes, batch * size * value_bytes
    return Traffic(6 * pairs + 3 * maps, 4 * pairs + 2 * maps)
