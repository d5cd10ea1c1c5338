"""Bytes that cutting and normalising of tiles moves."""

from prn_fast.kernels.tile_normalize.reference import NETWORK_CHANNELS
from prn_fast.kernels.traffic import FLOAT_BYTES, BytesMoved


def bytes_moved(strip_bytes: int, tile_pixels: int, value_bytes: int) -> BytesMoved:
    """The kernel of `fused.py`: the strip in, once whatever the overlap, and the tiles out.

    Args:
        strip_bytes: lines x width x channels.
        tile_pixels: N side^2 of N tiles.
        value_bytes: of one value of a tile.
    """
    return BytesMoved(strip_bytes, NETWORK_CHANNELS * tile_pixels * value_bytes)


def published_bytes_moved(strip_bytes: int, tile_pixels: int, channels: int, value_bytes: int) -> BytesMoved:
    """`reference.tile_normalize`, one kernel for each operation.

    The strip is unwrapped and the tiles are cut, bytes in and out of each. Three values per pixel in float32: converted
    (bytes read, 1 written), multiplied (1, 1), shifted (1, 1), and rounded to half precision if asked for (1 read).
    """
    cut, values = tile_pixels * channels, NETWORK_CHANNELS * tile_pixels
    read = strip_bytes + 2 * cut + 2 * values * FLOAT_BYTES
    written = strip_bytes + cut + 3 * values * FLOAT_BYTES
    if value_bytes < FLOAT_BYTES:
        read, written = read + values * FLOAT_BYTES, written + values * value_bytes
    return BytesMoved(read, written)
