"""The network without what surrounds it: no copy of images to the device, no normalising, scoring or copy back."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prn_fast.bench.machine.timing import ColdCache, call_milliseconds
from prn_fast.model.prn import PRN

CALLS = 5


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
    device = parameter.device
    half = getattr(engine, "half", False)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
        inputs = model.normalize(torch.tensor(images, device=device))

        def run() -> object:
            return model.logits(inputs)

        run()
        medians = {"warm": float(np.median([call_milliseconds(run, device) for _ in range(CALLS)]))}
        if device.type == "cuda":
            cache, times = ColdCache(device), []
            for _ in range(CALLS):
                cache.empty()
                times.append(call_milliseconds(run, device))
            medians["cold"] = float(np.median(times))
    return medians
