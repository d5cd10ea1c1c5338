"""Captures the work on a CUDA stream and launches it again as one graph.

`RecordedCall` captures PyTorch's work, whose memory must stay where it is. `CudaGraph` takes any stream, for engines
outside PyTorch: neither pycuda nor TensorRT offers this, so it calls five functions of libcuda. `copy_on_device` calls
another one.
"""

import ctypes
from collections.abc import Callable
from typing import Any

from prn_fast.errors import EngineError

CAPTURE_THREAD_LOCAL = 1
_failed = False


def capture_has_failed() -> bool:
    """Whether a `RecordedCall` of this process could not be captured.

    PyTorch's allocator then keeps what it noted of the capture: graphs that are captured afterwards may share memory
    with others.
    """
    return _failed


class RecordedCall:
    """A PyTorch call that is replayed on a GPU: calling this launches it again and returns the same outputs.

    Args:
        run: puts work on the current stream.
        stream: to record on, one of its own by default.
        pool: of memory shared with other graphs of the same stream; outputs hold until any of them is replayed.
        warm_up: calls before the recorded one; afterwards nothing is compiled or chosen any more.
    Attributes:
        outputs: what `run` returned, written anew by every replay.
        graph: torch.cuda.CUDAGraph.
    """

    def __init__(self, run: Callable[[], Any], stream: Any = None, pool: Any = None, warm_up: int = 1) -> None:
        # TensorRT's engines need no PyTorch.
        import torch

        stream = stream or torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(warm_up):
                run()
        stream.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        capture = torch.cuda.graph(self.graph, pool=pool, stream=stream, capture_error_mode="thread_local")
        cause: Exception | None = None
        try:
            # The outer one puts the caller's stream back where a capture fails.
            with torch.cuda.stream(stream), capture:
                try:
                    self.outputs = run()
                except Exception as error:
                    cause = error
                    raise
        except Exception as error:
            global _failed
            _failed = True
            # PyTorch, ending the capture, says only that something went wrong before.
            raise cause or error from None

    def __call__(self) -> Any:
        self.graph.replay()
        return self.outputs


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
        """Launch all of it on the stream again."""
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


def copy_on_device(target: int, source: int, size: int, stream: int) -> None:
    """Enqueue a copy of `size` bytes between two addresses on the GPU whose context is current."""
    status = _load_driver().cuMemcpyDtoDAsync_v2(
        ctypes.c_uint64(target), ctypes.c_uint64(source), ctypes.c_size_t(size), ctypes.c_void_p(stream)
    )
    if status != 0:
        raise EngineError(f"images could not be gathered on the GPU: cuMemcpyDtoDAsync_v2 failed with status {status}")


def _load_driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise EngineError("there is no NVIDIA driver on this machine (libcuda.so.1 is missing)") from None
