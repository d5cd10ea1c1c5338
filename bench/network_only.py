"""The network without what surrounds it: no copy of images to the device, no normalising, scoring or copy back."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prn_fast.bench.ceilings import best_seconds
from prn_fast.model.prn import PRN

CALLS = 5
# Larger than the L2 cache of any GPU so far: writing it leaves nothing else in there.
FLUSH_BYTES = 1 << 28


def network_milliseconds(engine: Any, images: NDArray[np.uint8]) -> dict[str, float] | None:
    """Median time of the network alone on images that are already normalised and on the device.

    Returns:
        {"warm": ms} on a CPU; {"warm": ms, "cold": ms} on a GPU, timed between CUDA events, with a cache that holds
        what the call before left there, and one that was emptied. None for an engine that cannot be taken apart, such
        as a graph with normalising and scoring inside.
    """
    model = getattr(engine, "model", None)
    if not isinstance(model, PRN) or getattr(engine, "compile_mode", None) is not None:
        return None
    parameter = next(model.parameters())
    device = parameter.device.type
    half = getattr(engine, "half", False)
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16) if half else nullcontext():
        inputs = model.normalize(torch.tensor(images, device=parameter.device))
        medians = {
            "warm": float(
                np.median([1000 * best_seconds(lambda: model.logits(inputs), 0, device) for _ in range(CALLS)])
            )
        }
        if device == "cuda":
            flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=parameter.device)
            medians["cold"] = float(np.median([_cold(model, inputs, flush) for _ in range(CALLS)]))
    return medians


def _cold(model: PRN, inputs: torch.Tensor, flush: torch.Tensor) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    flush.zero_()
    begin.record()
    model.logits(inputs)
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))
