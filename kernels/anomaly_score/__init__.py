"""Anomaly map and image scores of a logit map, and the maps of a strip's tiles put together.

All are operations that a compiled or exported graph keeps: the reference on the CPU, Triton on a GPU. None has a
backward: training takes its loss from the logits.
"""

import torch
from torch import Tensor

from prn_fast.kernels.anomaly_score import reference
from prn_fast.kernels.anomaly_score.reference import STATISTICS, TOP_PIXELS
from prn_fast.kernels.launch import has_kernels

__all__ = ["STATISTICS", "TOP_PIXELS", "anomaly_score", "learned_score", "stitch_tiles"]


def _plain(logits: Tensor) -> tuple[Tensor, Tensor]:
    scores, maps = reference.anomaly_score(logits)
    return scores, maps.contiguous()


@torch.library.custom_op("prn_fast::anomaly_score", mutates_args=())
def anomaly_score(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The function that `reference.anomaly_score` defines: scores and maps, both contiguous."""
    return _plain(logits)


@anomaly_score.register_kernel("cuda")
def _(logits: Tensor) -> tuple[Tensor, Tensor]:
    from prn_fast.kernels.anomaly_score import fused

    return fused.anomaly_score(logits) if has_kernels(logits.dtype) else _plain(logits)


@anomaly_score.register_fake
def _(logits: Tensor) -> tuple[Tensor, Tensor]:
    batch, _, height, width = logits.shape
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.new_empty(batch, dtype=dtype), logits.new_empty((batch, height, width), dtype=dtype)


@torch.library.custom_op("prn_fast::learned_score", mutates_args=())
def learned_score(logits: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """The function that `reference.learned_score` defines."""
    return reference.learned_score(logits, weights, offsets)


@learned_score.register_kernel("cuda")
def _(logits: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    from prn_fast.kernels.anomaly_score import fused

    return (fused if has_kernels(logits.dtype) else reference).learned_score(logits, weights, offsets)


@learned_score.register_fake
def _(logits: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    return logits.new_empty(logits.shape[0], dtype=torch.promote_types(logits.dtype, torch.float32))


@torch.library.custom_op("prn_fast::stitch_tiles", mutates_args=())
def stitch_tiles(maps: Tensor, lines: int, width: int, overlap: int) -> Tensor:
    """The function that `reference.stitch_tiles` defines."""
    return reference.stitch_tiles(maps, lines, width, overlap)


@stitch_tiles.register_kernel("cuda")
def _(maps: Tensor, lines: int, width: int, overlap: int) -> Tensor:
    from prn_fast.kernels.anomaly_score import fused

    return (fused if has_kernels(maps.dtype) else reference).stitch_tiles(maps, lines, width, overlap)


@stitch_tiles.register_fake
def _(maps: Tensor, lines: int, width: int, overlap: int) -> Tensor:
    return maps.new_empty(lines, width)
