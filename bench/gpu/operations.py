"""Single operations at the real network's shapes: whether they are right, and how fast they are.

Right: forward and backward against the published formulation in float64, on random inputs, in rounding steps of the
dtype. Fast: milliseconds with a cold L2 cache, GB/s by the operation's traffic model, share of the copy bandwidth that
was measured in the same run. An operation whose output is wrong, or that would have read its inputs faster than memory
can deliver them, gets no speed. The published formulation is timed in the same way, in a process of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from prn_fast.bench.gpu.steps import Row, Rows, Step
from prn_fast.bench.gpu.timing import operation_times, relative_error
from prn_fast.bench.machine.ceilings import OVER_CEILING
from prn_fast.kernels.catalogue import all_cases
from prn_fast.kernels.operation import Case, Draw, Shapes

# Largest root mean square of an error, relative to that of the result, in rounding steps of its dtype.
ALLOWED_STEPS = {torch.float64: 1e3, torch.float32: 64.0, torch.float16: 4.0, torch.bfloat16: 4.0}


def cases(batch: int, dtype: torch.dtype, device: torch.device, shapes: Shapes) -> Iterator[Case]:
    """Every operation, at every shape that it is used at."""
    return all_cases(batch, Draw(dtype, device), shapes)


def widened(value: Any) -> Any:
    """Floating tensors and dtypes in a nest of arguments, in float64."""

    def widen(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf.detach().double()
        return torch.float64 if isinstance(leaf, torch.dtype) else leaf

    return tree_map(widen, value)


def error_steps(found: Any, expected: Any) -> float:
    """The largest error of all results, in rounding steps of their dtypes; NaN if there is one."""
    pairs = zip(tree_leaves(found), tree_leaves(expected), strict=True)
    return float(np.max([relative_error(one, other) / torch.finfo(one.dtype).eps for one, other in pairs]))


def gradients(function: Callable[..., Any], case: Case, arguments: tuple[Any, ...], upstream: Any) -> list[Tensor]:
    """Gradients of the trained arguments, given those of the results."""
    arguments = tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, arguments)
    leaves = [leaf.requires_grad_() for position in case.trained for leaf in tree_leaves(arguments[position])]
    outputs = tree_leaves(function(*arguments))
    weights = [one.to(output.dtype) for one, output in zip(upstream, outputs, strict=True)]
    return list(torch.autograd.grad(outputs, leaves, weights))


def verdict(case: Case, dtype: torch.dtype, steps: float) -> dict[str, Any]:
    """What is recorded of a check; NaN is not right."""
    right = bool(steps <= max(ALLOWED_STEPS[dtype], 1.0))
    return {"op": case.op, "shape": case.shape, "dtype": str(dtype), "error_steps": steps, "right": right}


def label_of(case: Case, dtype: torch.dtype) -> Row:
    """What a row says of a case that fails."""
    return {"op": case.op, "shape": case.shape, "dtype": str(dtype)}


def check_forward(case: Case, dtype: torch.dtype) -> Rows:
    """The error of an operation; outputs are poisoned before they are written."""
    with poisoned_memory():
        checked = verdict(case, dtype, error_steps(case.run(), case.published(*widened(case.arguments))))
    return [{**checked, "direction": "forward"}]


def check_backward(case: Case, dtype: torch.dtype) -> Rows:
    """The error of an operation's gradients; poisoned like `check_forward`."""
    with poisoned_memory():
        wide = widened(case.arguments)
        with torch.no_grad():
            upstream = [torch.randn_like(one) for one in tree_leaves(case.published(*wide))]
        expected = gradients(case.published, case, wide, upstream)
        checked = verdict(case, dtype, error_steps(gradients(case.fused, case, case.arguments, upstream), expected))
    return [{**checked, "direction": "backward"}]


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Inside, `torch.empty` gives NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def check_steps(device: torch.device, dtypes: Sequence[torch.dtype], shapes: Shapes, batch: int) -> Iterator[Step]:
    """Every operation, forward and backward, in every dtype."""
    for dtype in dtypes:
        for case in cases(batch, dtype, device, shapes):
            label = label_of(case, dtype)
            yield Step({**label, "direction": "forward"}, partial(check_forward, case, dtype))
            if case.trained:
                yield Step({**label, "direction": "backward"}, partial(check_backward, case, dtype))


def timed_cases(
    device: torch.device, dtype: torch.dtype, shapes: Shapes, batches: Sequence[int]
) -> Iterator[tuple[int, Case]]:
    """Batch and case of all that is timed."""
    for batch in batches:
        for case in cases(batch, dtype, device, shapes):
            if case.traffic is not None:
                yield batch, case


def time_steps(
    device: torch.device, dtype: torch.dtype, shapes: Shapes, batches: Sequence[int], seconds: float, bandwidth: float
) -> Iterator[Step]:
    """Every operation, shape and batch, timed for this many seconds; `bandwidth` is of copying, bytes/s."""
    for batch, case in timed_cases(device, dtype, shapes, batches):
        label = {**label_of(case, dtype), "batch": batch}
        yield Step(label, partial(time_fused, case, batch, dtype, device, seconds, bandwidth))


@torch.no_grad()
def time_fused(
    case: Case, batch: int, dtype: torch.dtype, device: torch.device, seconds: float, bandwidth: float
) -> Rows:
    """One row: check, then time."""
    checked = verdict(case, dtype, error_steps(case.run(), case.published(*widened(case.arguments))))
    row = {**checked, "batch": batch, "copy_gigabytes_per_second": bandwidth / 1e9}
    if not checked["right"]:
        return [{**row, "refused": "the output is wrong"}]
    return [row | times_of(case, device, bandwidth, seconds)]


def times_of(case: Case, device: torch.device, bandwidth: float, seconds: float) -> Row:
    """Times of one operation and what follows from them, or why they cannot be true."""
    assert case.traffic is not None
    moved, _ = case.traffic()
    found = operation_times(case.run, device, seconds)
    taken = found["p50_ms"] / 1000
    if case.input_bytes / taken > OVER_CEILING * bandwidth:
        return {
            "refused": f"inputs would be read at {case.input_bytes / taken / 1e9:.0f} GB/s, over the "
            f"{bandwidth / 1e9:.0f} GB/s that memory copies at: work is left out, or the cache was not cold"
        }
    return {
        **found,
        "gigabytes_per_second": moved.total / taken / 1e9,
        "percent_of_copy": 100 * moved.total / taken / bandwidth,
    }


def published_steps(
    device: torch.device, dtype: torch.dtype, shapes: Shapes, batches: Sequence[int], seconds: float
) -> Iterator[Step]:
    """The published formulation of what `time_steps` times, in the same dtype.

    Attention comes last: stated as a convolution of 524,288 groups, it may be refused in half precision.
    """
    for last in (False, True):
        for batch, case in timed_cases(device, dtype, shapes, batches):
            if (case.op == "multi_size_attention") == last:
                label = {**label_of(case, dtype), "batch": batch, "formulation": "published"}
                yield Step(label, partial(time_published, case, label, device, seconds))


@torch.no_grad()
def time_published(case: Case, label: Row, device: torch.device, seconds: float) -> Rows:
    """One row."""
    return [{**label, **operation_times(partial(case.published, *case.arguments), device, seconds)}]
