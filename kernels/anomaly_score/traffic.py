"""Bytes that the scores and the stitching of a strip move."""

from prn_fast.kernels.anomaly_score.reference import LARGEST, STATISTICS, TOP_PIXELS
from prn_fast.kernels.traffic import FLOAT_BYTES, BytesMoved


def bytes_moved(batch: int, size: int, splits: int, value_bytes: int) -> BytesMoved:
    """The two kernels of `fused.py`: logits in, float maps and 100 candidates per split out; those in, scores out."""
    pixels = batch * size
    candidates = batch * splits * TOP_PIXELS * FLOAT_BYTES
    return BytesMoved(pixels * value_bytes + candidates, pixels * FLOAT_BYTES + candidates + batch * FLOAT_BYTES)


def published_bytes_moved(batch: int, size: int, value_bytes: int) -> BytesMoved:
    """`reference.anomaly_score`, one kernel for each operation.

    Of maps in float32: sigmoid (1 read, 1 written), topk (1 read; 100 values and their indices of 8 bytes written),
    mean of the 100 (read; one written). Half precision is converted before (1 read in half, 1 written).
    """
    pixels, top = batch * size, batch * TOP_PIXELS
    read = 2 * pixels * FLOAT_BYTES + top * FLOAT_BYTES
    written = pixels * FLOAT_BYTES + top * (FLOAT_BYTES + 8) + batch * FLOAT_BYTES
    if value_bytes < FLOAT_BYTES:
        read, written = read + pixels * value_bytes, written + pixels * FLOAT_BYTES
    return BytesMoved(read, written)


def learned_bytes_moved(batch: int, size: int, splits: int, value_bytes: int) -> BytesMoved:
    """The two kernels of the learned score: logits in, 100 candidates and 2 sums per split out and in, scores out."""
    left = batch * splits * (LARGEST[-1] + 2) * FLOAT_BYTES
    given = (len(STATISTICS) + batch) * FLOAT_BYTES
    return BytesMoved(batch * size * value_bytes + left + given, left + batch * FLOAT_BYTES)


def published_learned_bytes_moved(batch: int, size: int, value_bytes: int) -> BytesMoved:
    """`reference.learned_score`, one kernel for each operation; of the few figures per image, only the score counts.

    Of logits in float32: clamp (1 read, 1 written), topk (1 read; 100 values and their indices of 8 bytes written),
    means of the largest 1, 10 and 100 (read), mean of all (1 read), difference from it (1 read, 1 written), its square
    (1 read, 1 written), the mean of these (1 read). Half precision is converted before (1 read in half, 1 written).
    """
    pixels, top = batch * size, batch * LARGEST[-1]
    read = 6 * pixels * FLOAT_BYTES + batch * sum(LARGEST) * FLOAT_BYTES
    written = 3 * pixels * FLOAT_BYTES + top * (FLOAT_BYTES + 8) + batch * FLOAT_BYTES
    if value_bytes < FLOAT_BYTES:
        read, written = read + pixels * value_bytes, written + pixels * FLOAT_BYTES
    return BytesMoved(read, written)


def stitch_bytes_moved(tile_pixels: int, strip_pixels: int, value_bytes: int) -> BytesMoved:
    """The stitching kernel of `fused.py`: the N side^2 pixels of all tiles in, the strip out."""
    return BytesMoved(tile_pixels * value_bytes, strip_pixels * value_bytes)


def published_stitch_bytes_moved(tile_pixels: int, strip_pixels: int, value_bytes: int) -> BytesMoved:
    """`reference.stitch_tiles`, one kernel for each operation, sums in float32.

    Two sums are zeroed. A tile pixel is weighted (1 value read, 1 float written) and added to the sum (2 read, 1
    written), its weight too (1 read, 1 written; the weights of a tile stay in the cache). A strip pixel is divided (2
    read, 1 written), and rounded to half precision if asked for (1 read, 1 value written).
    """
    read = tile_pixels * (value_bytes + 3 * FLOAT_BYTES) + strip_pixels * 2 * FLOAT_BYTES
    written = tile_pixels * 3 * FLOAT_BYTES + strip_pixels * 3 * FLOAT_BYTES
    if value_bytes < FLOAT_BYTES:
        read, written = read + strip_pixels * FLOAT_BYTES, written + strip_pixels * value_bytes
    return BytesMoved(read, written)
