"""Bytes that the end of the decoder moves. B images, N values of the map, M pixels of C channels at full size."""

from prn_fast.kernels.logit_head.reference import TAPS
from prn_fast.kernels.traffic import FLOAT_BYTES, BytesMoved


def bytes_moved(batch: int, taken: int, pixels: int, weights: int, value_bytes: int) -> BytesMoved:
    """The two kernels of `fused.py`: map and weights in, nine parts per pixel out; those in, logits out."""
    parts = batch * pixels * TAPS * FLOAT_BYTES
    return BytesMoved((batch * taken + weights) * value_bytes + parts, parts + batch * pixels * value_bytes)


def published_bytes_moved(
    batch: int, taken: int, inputs: int, channels: int, pixels: int, weights: int, value_bytes: int
) -> BytesMoved:
    """One kernel for each operation.

    Upsampling (N read, M C written), a convolution (M C, M C'), its bias (M C', M C'), ReLU (M C', M C'), a convolution
    (M C', M) and its bias (M, M).
    """
    read = batch * (taken + pixels * (inputs + 3 * channels + 1)) + weights
    written = batch * pixels * (inputs + 3 * channels + 2)
    return BytesMoved(read * value_bytes, written * value_bytes)
