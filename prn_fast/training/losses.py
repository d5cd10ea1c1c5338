"""The training loss of PRN, as published."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from prn_fast.kernels.anomaly_score.reference import TOP_PIXELS

FOCAL_ALPHA = 0.5
FOCAL_GAMMA = 4.0


def focal_loss(logits: Tensor, masks: Tensor, alpha: float = FOCAL_ALPHA, gamma: float = FOCAL_GAMMA) -> Tensor:
    """Focal loss (Lin et al., 2017), pixel by pixel.

        -alpha_t (1 - p_t)^gamma log(p_t),  alpha_t = alpha where defective, 1 - alpha elsewhere

    From logits, so that log(p_t) is finite for any of them.

    Args:
        logits, masks: the same shape; masks of 0 and 1.
    Returns:
        The same shape.
    """
    negative_log = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    weight = alpha * masks + (1.0 - alpha) * (1.0 - masks)
    return weight * (1.0 - torch.exp(-negative_log)).pow(gamma) * negative_log


def prn_losses(logits: Tensor, masks: Tensor, focal_weight: float, smooth_l1: bool) -> Tensor:
    """smooth-L1(sigmoid(logits), masks) + w focal(logits, masks), mean over each image's pixels, in float32.

    Args:
        logits: (B, 1, S, S).
        masks: (B, S, S), 0 and 1.
        focal_weight: w; 0 leaves the focal loss out.
        smooth_l1: without, this part is left out.
    Returns:
        (B,) float32.
    """
    logits, masks = logits[:, 0].float(), masks.float()
    losses = torch.zeros_like(logits)
    if smooth_l1:
        losses = losses + functional.smooth_l1_loss(torch.sigmoid(logits), masks, reduction="none")
    if focal_weight:
        losses = losses + focal_weight * focal_loss(logits, masks)
    return losses.mean((1, 2))


def score_losses(logits: Tensor, masks: Tensor, top_pixels: int = TOP_PIXELS) -> Tensor:
    """Binary cross-entropy of the pixels that decide an image's score, in float32.

    Those are the `top_pixels` largest outside of the mask, which should be 0, and, where there is a mask, the largest
    inside of it, as many or as many as it has, which should be 1. Means over all pixels hardly see a defect of a few
    dozen; this sees it as well as a large one. After online hard example mining, on pixels.

    Args:
        logits: (B, 1, S, S).
        masks: (B, S, S), 0 and 1.
        top_pixels: of the score whose pixels these are.
    Returns:
        (B,) float32: the mean outside, plus that inside.
    """
    values, inside = logits[:, 0].float().flatten(1), masks.flatten(1) > 0
    count = min(top_pixels, values.shape[1])
    losses = torch.zeros(len(values), device=values.device)
    for chosen, sign in ((~inside, 1.0), (inside, -1.0)):
        largest = values.masked_fill(~chosen, -torch.inf).topk(count, dim=1).values
        counted = largest > -torch.inf
        pixels = functional.softplus(sign * largest.masked_fill(~counted, 0.0)) * counted
        losses = losses + pixels.sum(1) / counted.sum(1).clamp_min(1)
    return losses


def hardest(losses: Tensor, anomalous: Tensor, share: float) -> Tensor:
    """Which images of a step count: all normal ones, and the anomalous ones with the largest loss.

    Online hard example mining (Shrivastava, Gupta, Girshick, CVPR 2016), on generated anomalies.

    Args:
        losses: (B,).
        anomalous: (B,) bool.
        share: of the anomalous images, above 0 and at most 1; rounded up to whole images.
    Returns:
        (B,) bool; of equal losses, the first count.
    """
    order = torch.argsort(losses.masked_fill(~anomalous, -torch.inf), descending=True, stable=True)
    counted = ~anomalous
    counted[order[: math.ceil(share * int(anomalous.sum()))]] = True
    return counted
