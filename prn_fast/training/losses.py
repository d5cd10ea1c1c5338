"""The training loss of PRN (PRN.md, Training)."""

import torch
from torch import Tensor
from torch.nn import functional

FOCAL_WEIGHT = 5.0
FOCAL_ALPHA = 0.5
FOCAL_GAMMA = 4.0


def focal_loss(logits: Tensor, masks: Tensor, alpha: float = FOCAL_ALPHA, gamma: float = FOCAL_GAMMA) -> Tensor:
    """Focal loss (Lin et al., 2017), mean over pixels.

        -alpha_t (1 - p_t)^gamma log(p_t),  alpha_t = alpha where defective, 1 - alpha elsewhere

    From logits, so that log(p_t) is finite for any of them.

    Args:
        logits, masks: the same shape; masks of 0 and 1.
    """
    negative_log = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    weight = alpha * masks + (1.0 - alpha) * (1.0 - masks)
    return (weight * (1.0 - torch.exp(-negative_log)).pow(gamma) * negative_log).mean()


def prn_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """smooth-L1(sigmoid(logits), masks) + 5 focal(logits, masks), computed in float32.

    Args:
        logits: (B, 1, S, S).
        masks: (B, S, S), 0 and 1.
    """
    logits, masks = logits[:, 0].float(), masks.float()
    return functional.smooth_l1_loss(torch.sigmoid(logits), masks) + FOCAL_WEIGHT * focal_loss(logits, masks)
