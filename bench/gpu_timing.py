"""Times of work on a GPU, with a CPU in its place where only the procedure is to be tried.

Kernels: from a CUDA graph, between CUDA events, the L2 cache overwritten before each run. Networks: from the host's
call until the device is done, as a caller waits for it.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from prn_fast.bench.stats import percentiles

# Written before each run of a kernel, several times the largest L2 cache.
FLUSH_BYTES = 256 << 20
LEAST_RUNS, MOST_RUNS = 10, 1000


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def recorded(run: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """`run` as a CUDA graph, so that the host's part of a launch is not timed; `run` itself on the CPU."""
    if device.type != "cuda":
        return run
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        # What the graph writes must live as long as the graph.
        outputs = run()

    def replay() -> object:
        graph.replay()
        return outputs

    return replay


def cold_milliseconds(run: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """Times of single runs, each with a cold L2 cache, in about so many seconds."""
    flush = torch.empty(FLUSH_BYTES if device.type == "cuda" else 1, dtype=torch.uint8, device=device)
    run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < LEAST_RUNS or (time.perf_counter() < end and len(times) < MOST_RUNS):
        flush.zero_()
        if device.type != "cuda":
            start = time.perf_counter()
            run()
            times.append(1000 * (time.perf_counter() - start))
            continue
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        run()
        after.record()
        after.synchronize()
        times.append(before.elapsed_time(after))
    return times


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
