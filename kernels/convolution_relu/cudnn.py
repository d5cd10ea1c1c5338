"""cuDNN's convolutions that add and clamp before they write, through PyTorch's functions for them.

They are used only where a trial has shown what PyTorch does not promise: that they read no memory but their arguments
(PyTorch hands cuDNN the result, not yet written, for a residual of weight zero), and that NaN comes out as NaN, so that
a broken map cannot read as good. Each shape has its own trial, since cuDNN may run other code for it.
"""

from collections import Counter

import torch
from torch import Tensor

from prn_fast.errors import one_line
from prn_fast.kernels.convolution_relu import reference

# In float32 cuDNN would choose other algorithms for these than for a plain convolution.
DTYPES = (torch.float16, torch.bfloat16)
# Relative to the largest value; a plain convolution is rounded before bias and residual are added.
ALLOWED_STEPS = 8

# What is against them, by device, dtype, shapes and strides; nothing where a trial has passed.
_trials: dict[tuple[object, ...], str] = {}
PASSED = "passed"


def convolution_relu(
    maps: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, residual: Tensor | None
) -> Tensor:
    """The function that `reference.convolution_relu` defines, if it `is_sound`; in the algorithm cuDNN thinks best.

    Each thread of PyTorch chooses anew: by timing it could come to one that no trial has seen, and it would compile and
    run a dozen for each shape.
    """
    where = ([stride] * 2, [padding] * 2, [1, 1], 1)
    settings = torch.backends.cudnn
    timing, settings.benchmark = settings.benchmark, False
    try:
        if residual is None:
            return torch.cudnn_convolution_relu(maps, weight, bias, *where)
        return torch.cudnn_convolution_add_relu(maps, weight, residual, 1.0, bias, *where)
    finally:
        settings.benchmark = timing


def trials() -> Counter[str]:
    """How many shapes of this process have passed their trial, and how many failed it for each reason."""
    return Counter(fault or PASSED for fault in _trials.values())


def key_of(maps: Tensor, weight: Tensor, stride: int, padding: int, residual: Tensor | None) -> tuple[object, ...]:
    """What a trial is valid for."""
    return maps.device, maps.dtype, maps.shape, maps.stride(), weight.shape, stride, padding, residual is None


def is_sound(maps: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, residual: Tensor | None) -> bool:
    """Whether cuDNN's functions do what `reference.convolution_relu` defines, and nothing else, for such arguments.

    The first call runs the trial, which is impossible while a CUDA graph is captured: engines run once before.
    """
    if maps.device.type != "cuda" or maps.dtype not in DTYPES:
        return False
    key = key_of(maps, weight, stride, padding, residual)
    if key not in _trials:
        if torch.cuda.is_current_stream_capturing():
            return False
        _trials[key] = trial_fault(maps, weight, bias, stride, padding, residual)
    return not _trials[key]


@torch.no_grad()
def trial_fault(maps: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, residual: Tensor | None) -> str:
    """Compute random maps of these shapes both ways: into memory full of NaN, and with a NaN among the values.

    Returns:
        What is against cuDNN's functions; empty where nothing is.
    """
    given = torch.randn_like(maps)
    broken = given.clone(memory_format=torch.preserve_format)
    broken[-1, -1, maps.shape[2] // 2, maps.shape[3] // 2] = torch.nan
    added = None if residual is None else torch.randn_like(residual)
    try:
        for one, fault in ((given, "other values"), (broken, "NaN is lost")):
            if not _agrees(one, weight, bias, stride, padding, added):
                return fault
    # cuDNN is missing, does not support these shapes, or the trial itself does not fit into memory.
    except (RuntimeError, NotImplementedError) as error:
        return one_line(error)
    return ""


def _agrees(maps: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, residual: Tensor | None) -> bool:
    expected = reference.convolution_relu(maps, weight, bias, stride, padding, residual)
    # Freed at once, so that the next result of this size gets the same memory.
    torch.full_like(expected, torch.nan)
    found = convolution_relu(maps, weight, bias, stride, padding, residual)
    allowed = ALLOWED_STEPS * torch.finfo(maps.dtype).eps * float(expected.nan_to_num(0.0).amax())
    return torch.allclose(found, expected, rtol=0.0, atol=allowed, equal_nan=True)
