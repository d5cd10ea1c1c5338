"""By which of three formulations a convolution with bias, residual and ReLU is computed on a GPU.

1. cuDNN's function for all of it, where a trial has shown that it is sound (see `cudnn`);
2. one Triton kernel for all of it (see `fused`), in half precision and channels-last;
3. a convolution of cuDNN's, and a Triton kernel after it (see `epilogue`), always.

Which is fastest depends on the shape: 2 and 3 differ by a pass over the map, but cuDNN's convolution can split the long
sums of small maps over more programs. Where PyTorch may choose among convolutions by their time
(`torch.backends.cudnn.benchmark`), each shape is timed once and the fastest is kept; otherwise, and while a CUDA graph
is captured before a shape was timed, it is the first.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from prn_fast.errors import one_line
from prn_fast.kernels.convolution_relu import cudnn

CUDNN, TRITON, AFTER = "cuDNN, within it", "Triton, within it", "Triton, after it"
# Products in float32 run on ordinary cores, where cuDNN's are faster.
DTYPES = (torch.float16, torch.bfloat16)

# A later formulation has to save this share of the time.
MIN_GAIN = 0.02
WARM_UP_CALLS, ROUNDS, CALLS = 3, 5, 10
# About four milliseconds, in which the host puts the calls of a round on the stream: the device runs them without gaps.
HEAD_START_CYCLES = 8_000_000

# What was chosen and what failed, by device, dtype, shapes and strides.
_chosen: dict[tuple[object, ...], tuple[str, tuple[str, ...]]] = {}
_only: str | None = None


def convolution_relu(
    maps: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, residual: Tensor | None
) -> Tensor:
    """The function that `reference.convolution_relu` defines; maps are of a dtype that has kernels."""
    names = [_only] if _only else sound(maps, weight, bias, stride, padding, residual)
    runs = {name: partial(_formulation(name), maps, weight, bias, stride, padding, residual) for name in names}
    if len(runs) == 1 or maps.device.type != "cuda" or not torch.backends.cudnn.benchmark:
        return runs[names[0]]()
    key = (*cudnn.key_of(maps, weight, stride, padding, residual), bias is None, *names)
    if key not in _chosen:
        if torch.cuda.is_current_stream_capturing():
            return runs[names[0]]()
        _chosen[key] = fastest(runs, maps.device)
    return runs[_chosen[key][0]]()


def sound(
    maps: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, residual: Tensor | None
) -> list[str]:
    """Names of the formulations that compute this, preferred ones first."""
    from prn_fast.kernels.convolution_relu import fused

    names = []
    if bias is not None and cudnn.is_sound(maps, weight, bias, stride, padding, residual):
        names.append(CUDNN)
    if maps.dtype in DTYPES and fused.serves(maps, weight):
        names.append(TRITON)
    return [*names, AFTER]


def _formulation(name: str) -> Callable[..., Tensor]:
    from prn_fast.kernels.convolution_relu import epilogue, fused

    return {
        CUDNN: cudnn.convolution_relu,
        TRITON: fused.convolution_relu,
        AFTER: epilogue.convolution_relu,
    }[name]


@contextmanager
def only(name: str) -> Iterator[None]:
    """Inside, every convolution is computed by this formulation, whatever it takes: to compare them, in one thread."""
    global _only
    before, _only = _only, name
    try:
        yield
    finally:
        _only = before


def trials() -> Counter[str]:
    """How many shapes of this process were timed and are computed by each formulation, with what failed in a trial."""
    return Counter("; ".join((name, *faults)) for name, faults in _chosen.values())


def fastest(runs: Mapping[str, Callable[[], object]], device: torch.device) -> tuple[str, tuple[str, ...]]:
    """Time some formulations on the current stream of a device; ties go to the earlier.

    It waits for the device, so that no other thread may be capturing a graph on it.

    Returns:
        Name of the fastest, and one line for each other that failed.
    Raises:
        Exception: whatever the last one raised, if none works.
    """
    working: dict[str, Callable[[], object]] = {}
    faults: list[str] = []
    with torch.cuda.device(device):
        for place, (name, run) in enumerate(runs.items()):
            try:
                for _ in range(WARM_UP_CALLS):
                    run()
            # Triton's and cuDNN's errors have no common class.
            except Exception as error:
                if not working and place == len(runs) - 1:
                    raise
                faults.append(f"{name}: {one_line(error) or type(error).__name__}")
            else:
                working[name] = run
        times = _milliseconds(working) if len(working) > 1 else dict.fromkeys(working, 0.0)
    best = next(iter(times))
    for name, taken in times.items():
        if taken < (1 - MIN_GAIN) * times[best]:
            best = name
    return best, tuple(faults)


def _milliseconds(runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median time of a call of each on the current stream; all take turns, round by round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    torch.cuda.synchronize()
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(HEAD_START_CYCLES)
            start.record()
            for _ in range(CALLS):
                run()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end) / CALLS)
    return {name: statistics.median(taken) for name, taken in times.items()}
