"""Bytes that the upsampling and adding of multi-scale fusion moves."""

from collections.abc import Sequence

from prn_fast.kernels.traffic import Traffic


def bytes_moved(batch: int, full_size: int, full: int, coarse_sizes: Sequence[int], value_bytes: int) -> Traffic:
    """The kernel of `fused.py`: every map in once, the result out. Sizes are the values of one map."""
    maps = batch * full_size * value_bytes
    return Traffic(full * maps + batch * sum(coarse_sizes) * value_bytes, maps)


def published_bytes_moved(batch: int, full_size: int, coarse_channels: Sequence[float], value_bytes: int) -> Traffic:
    """The published formulation of x + sum of projected upsamplings, one kernel an operation.

    For each coarse map, of `coarse_channels` times the target's channels: upsampled at its own width (its read is left
    out, written 1), projected (1 read; one map written), added (2 read, 1 written).
    """
    maps = batch * full_size * value_bytes
    widths = sum(coarse_channels)
    count = len(coarse_channels)
    return Traffic(round((widths + 2 * count) * maps), round((widths + 2 * count) * maps))
