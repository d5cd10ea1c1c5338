"""Bytes that a convolution with bias, residual and ReLU moves. B images, N values in and M values out of each."""

from prn_fast.kernels.traffic import BytesMoved


def bytes_moved(batch: int, taken: int, given: int, weights: int, has_residual: bool, value_bytes: int) -> BytesMoved:
    """In one kernel: maps, weights and the residual in, the result out."""
    read = batch * (taken + (given if has_residual else 0)) + weights
    return BytesMoved(read * value_bytes, batch * given * value_bytes)


def bytes_moved_after(
    batch: int, taken: int, given: int, weights: int, has_residual: bool, value_bytes: int
) -> BytesMoved:
    """With one kernel after the convolution: maps and weights in, sums out; sums and residual in, the result out."""
    read = batch * (taken + (2 if has_residual else 1) * given) + weights
    return BytesMoved(read * value_bytes, 2 * batch * given * value_bytes)


def published_bytes_moved(
    batch: int, taken: int, given: int, weights: int, has_residual: bool, value_bytes: int
) -> BytesMoved:
    """One kernel per operation: the convolution, its bias (1 read, 1 written), the residual (2, 1), ReLU (1, 1)."""
    read = batch * (taken + (4 if has_residual else 2) * given) + weights
    written = batch * (4 if has_residual else 3) * given
    return BytesMoved(read * value_bytes, written * value_bytes)
