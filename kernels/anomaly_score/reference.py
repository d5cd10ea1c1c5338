"""Anomaly map and image scores, the one definition of each, and the stitching of a strip's maps.

    map = sigmoid(logits)
    score = mean of the 100 largest pixels of the map
    learned score = sigmoid(o + sum over j of w_j x_j),  x = `map_statistics`(logits), o what else speaks for a defect
    strip[y, x] = sum over tiles n of w(y - top_n) w(x - left_n) map_n[y - top_n, x - left_n] / sum of these weights

w(i) = min(i + 1, side - i) is a triangle over a tile: where two tiles overlap, one fades into the other in a straight
line, and where a pixel lies in one tile only, that tile alone decides. The weights of every strip pixel sum to one.

Source of map and score: Zhang et al., CVPR 2023. The learned score is this project's: a small defect shows in the
largest pixel, a large one in many, and good images of different products reach different heights. So the weights are
fitted to a validation split (`prn_fast.training.image_score`).
"""

import torch
from torch import Tensor

from prn_fast.errors import ConfigError
from prn_fast.kernels.tile_normalize.reference import tile_positions

TOP_PIXELS = 100
# The learned score: means of these numbers of largest logits, then the mean and the spread of all.
LARGEST = (1, 10, TOP_PIXELS)
STATISTICS = (*(f"largest {count}" for count in LARGEST), "mean", "spread")
# Logits are clamped to this: beyond it a float32 map hardly changes, and no single pixel decides everything.
LOGIT_LIMIT = 10.0


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
    # topk treats NaN as the largest value.
    return torch.topk(maps.flatten(1), TOP_PIXELS, dim=1).values.mean(dim=1)


def learned_score(logits: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """Score images from statistics of their logit maps.

    Args:
        logits: (B, 1, H, W), floating point, H * W at least 100.
        weights: (J,), one for each of `STATISTICS`.
        offsets: (B,), added to each image's decision.
    Returns:
        scores (B,) in 0..1, float32 or the logits' dtype if that is longer; NaN where an image's logits hold NaN.
    Raises:
        ConfigError: another shape.
    """
    check_logits(logits)
    check_weights(weights)
    statistics = map_statistics(logits)
    return torch.sigmoid((statistics * weights.to(statistics.dtype)).sum(1) + offsets.to(statistics.dtype))


def map_statistics(logits: Tensor) -> Tensor:
    """Statistics (B, J) of logit maps (B, 1, H, W), in the order of `STATISTICS`; float32 at least.

    Logits are clamped to -10..10. "largest k" is the mean of the k largest; the spread is the standard deviation.
    """
    values = logits.flatten(1).to(torch.promote_types(logits.dtype, torch.float32)).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
    largest = torch.topk(values, TOP_PIXELS, dim=1).values
    means = [largest[:, :count].mean(1) for count in LARGEST]
    mean = values.mean(1)
    spread = (values - mean[:, None]).square().mean(1).sqrt()
    return torch.stack([*means, mean, spread], dim=1)


def check_weights(weights: Tensor) -> None:
    """Refuse weights that are not one for each statistic."""
    if weights.shape != (len(STATISTICS),):
        raise ConfigError(
            f"a learned score has {len(STATISTICS)} weights ({', '.join(STATISTICS)}), not {tuple(weights.shape)}"
        )


def check_logits(logits: Tensor) -> None:
    """Refuse logits that are not one map per image, or maps with too few pixels for a score."""
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
