"""Times of work on a GPU, with a CPU in its place where only the procedure is to be tried.

Kernels: between CUDA events, with a cold L2 cache, from a CUDA graph and launch by launch. Networks: from the host's
call until the device is done, as a caller waits for it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prn_fast.bench.machine.timing import FLUSH_BYTES, ColdCache, call_milliseconds, synchronize
from prn_fast.bench.stats import percentiles
from prn_fast.engine.cuda_graph import RecordedCall

MIN_RUNS, MAX_RUNS = 10, 1000


def recorded(run: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """`run` as a CUDA graph, so that the host's part of a launch is not timed; `run` itself on the CPU."""
    return RecordedCall(run) if device.type == "cuda" else run


def cold_milliseconds(run: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """Times of single runs, each with a cold L2 cache, in about this many seconds."""
    cache = ColdCache(device, FLUSH_BYTES if device.type == "cuda" else 4)
    run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < MIN_RUNS or (time.perf_counter() < end and len(times) < MAX_RUNS):
        cache.empty()
        times.append(call_milliseconds(run, device))
    return times


def operation_times(run: Callable[[], object], device: torch.device, seconds: float) -> dict[str, Any]:
    """Times of one operation with a cold cache: percentiles from a graph, and the median launch by launch."""
    by_launch = summary(cold_milliseconds(run, device, seconds))["p50_ms"]
    return {**summary(cold_milliseconds(recorded(run, device), device, seconds)), "launch_by_launch_ms": by_launch}


def latencies(
    runs: Mapping[str, Callable[[], object]], device: torch.device, seconds: float, rounds: int = 5
) -> dict[str, list[float]]:
    """Milliseconds of each run from the host's call to the device's end, side by side: all take turns, round by round.

    Args:
        runs: by name, warmed up here.
        seconds: for each of them, over all rounds; a run that is slow is still called once a round.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(min(3, rounds)):
            run()
    synchronize(device)
    for _ in range(rounds):
        for name, run in runs.items():
            end = time.perf_counter() + seconds / rounds
            while True:
                start = time.perf_counter()
                run()
                synchronize(device)
                times[name].append(1000 * (time.perf_counter() - start))
                if time.perf_counter() >= end:
                    break
    return times


def summary(times: Sequence[float]) -> dict[str, float | int | None]:
    """Percentiles in milliseconds that the number of samples supports, and that number."""
    found = percentiles(times)
    return {f"{name}_ms": found[name] for name in ("p50", "p90", "p99")} | {"samples": len(times)}


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the error over that of the expected values, in float64; NaN or infinity stays visible."""
    wide = expected.double()
    return float(((found.double() - wide).square().mean().sqrt() / wide.square().mean().sqrt()).item())


def mean_difference(found: Tensor | np.ndarray, expected: Tensor) -> float:
    """Mean absolute difference, in float64."""
    return float((torch.as_tensor(found).double().cpu() - expected.double().cpu()).abs().mean().item())
