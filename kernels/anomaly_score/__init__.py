"""Anomaly map and image score of a logit map, and the maps of a strip's tiles put together.

Both are operations that a compiled or exported graph keeps: the reference on the CPU, Triton on a GPU. Neither has a
backward: training takes its loss from the logits.
"""

import torch
from torch import Tensor

from prn_fast.kernels.anomaly_score import reference
from prn_fast.kernels.anomaly_score.reference import TOP_PIXELS

__all__ = ["TOP_PIXELS", "anomaly_score", "stitch_tiles"]


@torch.library.custom_op("prn_fast::anomaly_score", mutates_args=())
def anomaly_score(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The function that `reference.anomaly_score` defines: scores and maps, both contiguous."""
    scores, maps = reference.anomaly_score(logits)
    return scores, maps.contiguous()


@anomaly_score.register_kernel("cuda")
def _(logits: Tensor) -> tuple[Tensor, Tensor]:
    from prn_fast.kernels.anomaly_score import fused

    return fused.anomaly_score(logits)


@anomaly_score.register_fake
def _(logits: Tensor) -> tuple[Tensor, Tensor]:
    batch, _, height, width = logits.shape
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.new_empty(batch, dtype=dtype), logits.new_empty((batch, height, width), dtype=dtype)


@torch.library.custom_op("prn_fast::stitch_tiles", mutates_args=())
def stitch_tiles(maps: Tensor, lines: int, width: int, overlap: int) -> Tensor:
    """The function that `reference.stitch_tiles` defines."""
    return reference.stitch_tiles(maps, lines, width, overlap)


@stitch_tiles.register_kernel("cuda")
def _(maps: Tensor, lines: int, width: int, overlap: int) -> Tensor:
    from prn_fast.kernels.anomaly_score import fused

    return fused.stitch_tiles(maps, lines, width, overlap)


@stitch_tiles.register_fake
def _(maps: Tensor, lines: int, width: int, overlap: int) -> Tensor:
    return maps.new_empty(lines, width)
