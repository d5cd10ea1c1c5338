"""Anomaly map and image score, the one definition of both, and the stitching of a strip's maps.

    map = sigmoid(logits)
    score = mean of the 100 largest pixels of the map
    strip[y, x] = sum over tiles n of w(y - top_n) w(x - left_n) map_n[y - top_n, x - left_n] / sum of these weights

w(i) = min(i + 1, side - i) is a triangle over a tile: where two tiles overlap, one fades into the other in a straight
line, and where a pixel lies in one tile only, it is that tile's. The weights of every strip pixel sum to one.

Source of map and score: PRN.md, step 8.
"""

import torch
from torch import Tensor

from prn_fast.errors import ConfigError
from prn_fast.kernels.tile_normalize.reference import tile_positions

TOP_PIXELS = 100


def anomaly_score(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Score images from their logit maps.

    Args:
        logits: (B, 1, H, W), floating point, H * W at least 100.
    Returns:
        scores (B,) and maps (B, H, W), both in 0..1, float32 or the logits' dtype if that is longer: in steps of half
        precision near one, many images would score alike. A NaN among an image's logits makes its score NaN.
    Raises:
        ConfigError: another shape.
    """
    check_logits(logits)
    maps = torch.sigmoid(logits[:, 0].to(torch.promote_types(logits.dtype, torch.float32)))
    return image_scores(maps), maps


def image_scores(maps: Tensor) -> Tensor:
    """The mean of the 100 largest pixels of each map, (B, H, W) to (B,); NaN where a map holds NaN."""
    # topk takes NaN for the largest.
    return torch.topk(maps.flatten(1), TOP_PIXELS, dim=1).values.mean(dim=1)


def check_logits(logits: Tensor) -> None:
    """Refuse logits that are not one map an image, or maps with too few pixels for a score."""
    if logits.ndim != 4 or logits.shape[1] != 1 or logits.shape[2] * logits.shape[3] < TOP_PIXELS:
        raise ConfigError(
            f"logits have shape {tuple(logits.shape)}; a score needs (B, 1, H, W) with {TOP_PIXELS} pixels or more"
        )


def stitch_weights(side: int, device: torch.device | None = None) -> Tensor:
    """(side, side) float32 weights of a tile's pixels before they are divided by their sum at each strip pixel."""
    place = torch.arange(side, dtype=torch.float32, device=device)
    triangle = torch.minimum(place + 1, side - place)
    return triangle[:, None] * triangle


def stitch_tiles(maps: Tensor, lines: int, width: int, overlap: int) -> Tensor:
    """Put the maps of a strip's tiles together.

    Args:
        maps: (N, side, side), floating point, in the order of `tile_positions(lines, width, side, overlap)`.
        lines, width: of the strip.
        overlap: with which the tiles were cut.
    Returns:
        (lines, width), same dtype; half precision is summed in float32. A NaN in a map stays at its place in the strip.
    Raises:
        ConfigError: another number of maps than the strip has tiles, or sizes that `tile_starts` refuses.
    """
    check_tile_maps(maps, lines, width, overlap)
    side = maps.shape[-1]
    weights = stitch_weights(side, maps.device).to(torch.promote_types(maps.dtype, torch.float32))
    total = weights.new_zeros(lines, width)
    weight_sum = weights.new_zeros(lines, width)
    for one, (top, left) in zip(maps, tile_positions(lines, width, side, overlap), strict=True):
        total[top : top + side, left : left + side] += weights * one
        weight_sum[top : top + side, left : left + side] += weights
    return (total / weight_sum).to(maps.dtype)


def check_tile_maps(maps: Tensor, lines: int, width: int, overlap: int) -> None:
    """Refuse maps that are not those of a strip's tiles."""
    if maps.ndim != 3 or maps.shape[1] != maps.shape[2]:
        raise ConfigError(f"tile maps have shape {tuple(maps.shape)}; stitching takes (N, side, side)")
    count = len(tile_positions(lines, width, maps.shape[1], overlap))
    if maps.shape[0] != count:
        raise ConfigError(
            f"a strip of {lines} x {width} pixels has {count} tiles of {maps.shape[1]} with overlap {overlap}, "
            f"not {maps.shape[0]}"
        )
