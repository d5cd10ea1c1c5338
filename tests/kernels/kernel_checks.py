"""Comparison of a kernel's result with its float64 reference."""

import torch
from torch import Tensor

# A GPU's exponentials, divisions and roots are right to two steps of float32; in half precision that is nothing.
GPU_FLOAT32 = 4.0


def assert_rounded(result: Tensor, expected: Tensor, typical: float = 1.0, worst: float = 32.0) -> None:
    """Hold `result` to the float64 `expected`, in rounding steps of its dtype at the root mean square; NaN fails.

    Args:
        typical: allowed root mean square of the error.
        worst: allowed for any value, relative to the root mean square or to the value itself if that is larger.
    """
    if result.is_cuda and result.dtype == torch.float32:
        typical *= GPU_FLOAT32
    assert result.shape == expected.shape
    step = torch.finfo(result.dtype).eps
    size = expected.square().mean().sqrt()
    error = result.double() - expected
    assert error.square().mean().sqrt() <= typical * step * size
    assert (error.abs() <= worst * step * torch.maximum(expected.abs(), size)).all()
