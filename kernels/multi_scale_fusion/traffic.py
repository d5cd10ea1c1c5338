"""Bytes that projection, upsampling and adding of multi-scale fusion move."""

from collections.abc import Sequence

from prn_fast.kernels.traffic import BytesMoved


def bytes_moved(
    batch: int, channels: int, pixels: int, full: int, coarse: Sequence[tuple[int, int]], value_bytes: int
) -> BytesMoved:
    """The kernel of `fused.py`: every map, weight and bias in once, the result out.

    Args:
        channels, pixels: of the target scale.
        full: number of full maps.
        coarse: channels and pixels of each coarse map.
    """
    maps = channels * pixels
    values = batch * (full * maps + sum(width * size for width, size in coarse))
    weights = sum(channels * width + channels for width, _ in coarse)
    return BytesMoved((values + weights) * value_bytes, batch * maps * value_bytes)


def published_bytes_moved(
    batch: int, channels: int, pixels: int, coarse_channels: Sequence[int], value_bytes: int
) -> BytesMoved:
    """The published formulation of x + sum of projected upsamplings, one kernel for each operation.

    For each coarse map: upsampled with its own number of channels (its read is left out, written 1), projected
    (1 read; one map written), added (2 read, 1 written).
    """
    maps = (sum(coarse_channels) + 2 * len(coarse_channels) * channels) * batch * pixels * value_bytes
    return BytesMoved(maps, maps)
