"""Capturing what is put on a CUDA stream and starting it again at once, through the driver's own interface.

Neither pycuda nor TensorRT offers this, and torch only for its own streams; five functions of libcuda do it for any.
"""

import ctypes
from collections.abc import Callable
from typing import Any

from prn_fast.errors import EngineError

CAPTURE_THREAD_LOCAL = 1


class CudaGraph:
    """The work that `record` puts on a stream, to be launched any number of times.

    Args:
        stream: handle of a CUDA stream, not the default one.
        record: puts work on the stream; it must have done so once before, so that nothing is left to be set up.
    """

    def __init__(self, stream: int, record: Callable[[], None]) -> None:
        self._driver = _load_driver()
        self._stream = ctypes.c_void_p(stream)
        graph, self._executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(CAPTURE_THREAD_LOCAL))
        try:
            record()
        finally:  # a capture that is left open makes the stream useless
            self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._executable), graph, ctypes.c_ulonglong(0))
        finally:
            self._call("cuGraphDestroy", graph)

    def launch(self) -> None:
        """Put all of it on the stream again."""
        self._call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Free the graph; it cannot be launched afterwards."""
        if self._executable:
            self._call("cuGraphExecDestroy", self._executable)
            self._executable = ctypes.c_void_p()

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._driver, name)(*arguments)
        if status != 0:
            raise EngineError(f"CUDA graph: {name} failed with status {status}; open the engine with cuda_graph=False")


def _load_driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise EngineError("there is no NVIDIA driver on this machine (libcuda.so.1 is missing)") from None
