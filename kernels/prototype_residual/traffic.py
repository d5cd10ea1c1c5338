"""Bytes that the prototype residual moves. B maps, K prototypes, D values per map."""

from prn_fast.kernels.traffic import FLOAT_BYTES, BytesMoved


def bytes_moved(batch: int, count: int, size: int, splits: int, value_bytes: int) -> BytesMoved:
    """The two kernels of `fused.py`.

    First: the maps and all prototypes in, B K splits partial sums out. Second: those, the maps and each nearest
    prototype (at most K of them differ) in, the residual out.
    """
    maps = batch * size * value_bytes
    partials = batch * count * splits * FLOAT_BYTES
    prototypes = (count + min(batch, count)) * size * value_bytes
    return BytesMoved(2 * maps + prototypes + partials, partials + maps)


def candidate_bytes_moved(
    batch: int, count: int, size: int, candidates: int, splits: int, look_splits: int, value_bytes: int
) -> BytesMoved:
    """The three kernels of `candidates.py`.

    First: maps and prototypes in, B K splits partial sums out. Second: those, the maps and the candidate prototypes (at
    most K) in, B candidates look_splits partial sums and B candidates indices out. Third: those, the maps and each
    nearest prototype in, the residual out.
    """
    maps = batch * size * value_bytes
    partials, looked = batch * count * splits * FLOAT_BYTES, batch * candidates * (look_splits + 1) * FLOAT_BYTES
    prototypes = (count + min(batch * candidates, count) + min(batch, count)) * size * value_bytes
    return BytesMoved(3 * maps + prototypes + partials + looked, partials + looked + maps)


def published_bytes_moved(batch: int, count: int, size: int, value_bytes: int) -> BytesMoved:
    """The published formulation, one kernel for each operation.

    Over B K D values: two expanded copies (2 read, 2 written), difference (2, 1), epsilon (1, 1), norm (1, 0). Over
    B D values: gather (1, 1), squared difference (2, 1).
    """
    pairs, maps = batch * count * size * value_bytes, batch * size * value_bytes
    return BytesMoved(6 * pairs + 3 * maps, 4 * pairs + 2 * maps)
