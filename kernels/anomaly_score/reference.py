"""Anomaly map and image score, the one definition of both.

    map = sigmoid(logits)
    score = mean of the 100 largest pixels of the map

Source: PRN.md, step 8.
"""

import torch
from torch import Tensor

TOP_PIXELS = 100


def anomaly_score(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Score images from their logit maps.

    Args:
        logits: (B, 1, H, W), floating point, H * W at least 100.
    Returns:
        scores (B,) and maps (B, H, W), same dtype, both in 0..1.
    """
    maps = torch.sigmoid(logits[:, 0])
    scores = torch.topk(maps.flatten(1), TOP_PIXELS, dim=1).values.mean(dim=1)
    return scores, maps
