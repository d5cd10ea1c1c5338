"""A GPU's stand-in for the fused engine: streams, events, graphs and pinned memory that are none, on the CPU.

All else is the real engine: pieces, lanes, what is copied where, strips, and the network in its operations for the CPU.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from prn_fast.engine import fused, recorded
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


class HostMemory:
    """Pinned memory that is known by its address."""

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []

    def pinned(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        self._tensors.append(torch.empty(tuple(shape), dtype=dtype))
        return self._tensors[-1]

    def is_pinned(self, array: np.ndarray) -> bool:
        address = array.ctypes.data
        return any(one.data_ptr() <= address < one.data_ptr() + one.nbytes for one in self._tensors)


@contextlib.contextmanager
def host_cuda() -> Iterator[HostMemory]:
    """Inside, `FusedEngine` opens on the CPU."""
    memory = HostMemory()
    with contextlib.ExitStack() as stack:
        for name in ("Stream", "Event", "current_stream", "synchronize"):
            stack.enter_context(mock.patch.object(torch.cuda, name))
        for name in ("stream", "device"):
            stack.enter_context(mock.patch.object(torch.cuda, name, return_value=contextlib.nullcontext()))
        stack.enter_context(mock.patch.object(RecordedCall, "__init__", _record))
        stack.enter_context(mock.patch.object(fused, "require_device", return_value=torch.device("cpu")))
        for module in (fused, recorded):
            stack.enter_context(mock.patch.object(module, "pinned", memory.pinned))
        stack.enter_context(mock.patch.object(recorded, "is_pinned", memory.is_pinned))
        yield memory
