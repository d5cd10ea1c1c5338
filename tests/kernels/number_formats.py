"""In which number formats and memory layouts a kernel is tried."""

import itertools

import pytest
import torch

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
# Each format and each layout; with the others, which `make proofs` adds, all pairs.
_SHORT = {("fp32", "contiguous"), ("fp16", "channels-last"), ("bf16", "channels-last")}

dtypes = pytest.mark.parametrize("dtype", _DTYPES.values(), ids=_DTYPES)
layouts = pytest.mark.parametrize("layout", _LAYOUTS.values(), ids=_LAYOUTS)
dtypes_and_layouts = pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        pytest.param(
            _DTYPES[dtype],
            _LAYOUTS[layout],
            id=f"{dtype}-{layout}",
            marks=() if (dtype, layout) in _SHORT else pytest.mark.long,
        )
        for dtype, layout in itertools.product(_DTYPES, _LAYOUTS)
    ],
)
