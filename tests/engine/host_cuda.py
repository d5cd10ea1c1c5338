"""A stand-in for a GPU: streams, events, recorded graphs and pinned memory that are none, on the CPU.

All else of an engine is real: pieces, lanes, what is copied where, strips, and the network in its operations for the
CPU.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from prn_fast.engine import fused, gathering, recorded
from prn_fast.engine.cuda_graph import RecordedCall


class HostGraph:
    """Computes again, and writes to where the outputs lay the first time."""

    def __init__(self, run: Callable[[], tuple[Tensor, ...]], outputs: tuple[Tensor, ...]) -> None:
        self._run, self._outputs = run, outputs

    def replay(self) -> None:
        for output, found in zip(self._outputs, self._run(), strict=True):
            output.copy_(found)

    def pool(self) -> None: ...


def _record(self: RecordedCall, run: Callable[[], Any], stream: Any = None, pool: Any = None, warm_up: int = 1) -> None:
    with torch.no_grad():
        self.outputs = run()
    self.graph = HostGraph(torch.no_grad()(run), self.outputs)


class HostCuda:
    """Pinned memory that is known by its address, and how often the host has waited for an event.

    Attributes:
        on_wait: called whenever the host waits for an event.
    """

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []
        self.on_wait: Callable[[], None] = lambda: None

    def event(self) -> mock.Mock:
        return mock.Mock(synchronize=lambda: self.on_wait())

    def pinned(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        self._tensors.append(torch.empty(tuple(shape), dtype=dtype))
        return self._tensors[-1]

    def is_pinned(self, array: np.ndarray) -> bool:
        address = array.ctypes.data
        return any(one.data_ptr() <= address < one.data_ptr() + one.nbytes for one in self._tensors)


@contextlib.contextmanager
def host_cuda() -> Iterator[HostCuda]:
    """Inside, `FusedEngine`, and what it is made of, runs on the CPU."""
    cuda = HostCuda()
    with contextlib.ExitStack() as stack:
        for name in ("Stream", "current_stream", "synchronize"):
            stack.enter_context(mock.patch.object(torch.cuda, name))
        stack.enter_context(mock.patch.object(torch.cuda, "Event", cuda.event))
        for name in ("stream", "device"):
            stack.enter_context(mock.patch.object(torch.cuda, name, return_value=contextlib.nullcontext()))
        stack.enter_context(mock.patch.object(RecordedCall, "__init__", _record))
        stack.enter_context(mock.patch.object(fused, "require_device", return_value=torch.device("cpu")))
        for module in (fused, gathering, recorded):
            stack.enter_context(mock.patch.object(module, "pinned", cuda.pinned))
        stack.enter_context(mock.patch.object(recorded, "is_pinned", cuda.is_pinned))
        yield cuda
