"""Comparison of a kernel's result with its float64 reference."""

import torch
from torch import Tensor


def assert_rounded(result: Tensor, expected: Tensor, slack: float = 4.0) -> None:
    """Hold `result` within `slack` rounding steps of its dtype of the float64 `expected`; NaN fails.

    A step is relative to the value, and for values that cancelled, to a hundredth of the root mean square.
    """
    assert result.shape == expected.shape
    step = torch.finfo(result.dtype).eps
    scale = expected.abs().clamp_min(expected.square().mean().sqrt() / 100)
    error = (result.double() - expected).abs() / (scale * step)
    assert error.max() <= slack, f"{error.max():.1f} rounding steps"
