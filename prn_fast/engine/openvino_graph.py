"""One OpenVINO graph of an engine: reading it, checking it, compiling it for this machine's CPU."""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine.tensor_names import INPUT_NAME
from prn_fast.errors import EngineError
from prn_fast.model.config import PRNConfig

# Names of the graphs' files inside the engine's folder, written by prn_fast.build.
GRAPH_FILE, SCREEN_FILE = "model.xml", "screen.xml"
# Place in a graph's run-time information that states the arithmetic of what is not quantised, "f32" or "bf16".
_FLOAT_TYPE = ["prn_fast", "float"]
# One runs, and one waits so that nothing stands still in between.
REQUESTS_OF_A_STREAM = 2


def import_openvino() -> Any:
    """The openvino module, or an EngineError that names the extra to install."""
    try:
        import openvino
    except ImportError:
        raise EngineError("OpenVINO is not installed: pip install 'prn-fast[openvino]'") from None
    return openvino


def one_core() -> Any:
    """OpenVINO's core, one for the process and kept to its end.

    Each core gives the thread that makes it a stack for signal handlers, and frees that stack with itself, in whatever
    thread that happens; the next signal would then end the process with a segmentation fault.
    """
    import_openvino()
    return _core_of(os.getpid())


@functools.cache
def _core_of(process: int) -> Any:
    return import_openvino().Core()


def float_types() -> tuple[str, ...]:
    """Float arithmetics that this processor has instructions for, the faster one first."""
    capabilities = one_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("bf16", "f32") if "BF16" in capabilities else ("f32",)


def state_float_type(graph: Any, float_type: str) -> None:
    """Record in a graph which floating-point type its unquantised parts use."""
    graph.set_rt_info(float_type, _FLOAT_TYPE)


def stated_float_type(graph: Any, source: Path) -> str:
    """The arithmetic that a graph states, or f32 where that is bfloat16 and this processor would only imitate it.

    An EngineError if it states none.
    """
    if not graph.has_rt_info(_FLOAT_TYPE):
        raise EngineError(f"{source}: does not state its arithmetic; build the engine again: prn-build-engine")
    stated = str(graph.get_rt_info(_FLOAT_TYPE).value)
    return stated if stated in float_types() else "f32"


@contextmanager
def refusals_named(source: Path) -> Iterator[None]:
    """Whatever OpenVINO raises about a graph, as an EngineError that names its file."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:  # it raises RuntimeError, and more kinds of its own
        # Places in its source code come first, and what is wrong last.
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise EngineError(
            f"{source}: OpenVINO cannot run this graph ({lines[-1].strip()}); copy the package again from its source, "
            "or build the engine again: prn-build-engine"
        ) from None


def check_interface(graph: Any, config: PRNConfig, source: Path, outputs: tuple[str, str], side: int) -> None:
    """An EngineError unless a graph takes and gives what an engine for `config` must; see `Graph`."""
    images = config.image_size
    expected = {
        INPUT_NAME: ("u8", (-1, images, images, config.image_channels)),
        outputs[0]: ("f32", (-1,)),
        outputs[1]: ("f32", (-1, side, side)),
    }
    found = {
        port.get_any_name(): (
            port.get_element_type().get_type_name(),
            tuple(size.get_length() if size.is_static else -1 for size in port.get_partial_shape()),
        )
        for port in (*graph.inputs, *graph.outputs)
    }
    if found != expected:
        raise EngineError(f"{source}: has {found}, this package needs {expected}; build the engine again")


class Graph:
    """A graph of camera bytes to scores and maps, compiled where it is needed.

    A fixed number of images runs faster than any number: each size is compiled for itself, on first use.

    Args:
        source: the graph's file.
        config: of the images.
        outputs: names of scores (N,) and maps (N, side, side).
        side: of the maps.
        threads: processor threads to use.
    Raises:
        EngineError: OpenVINO does not take the graph: one line that names its file.
    """

    def __init__(self, source: Path, config: PRNConfig, outputs: tuple[str, str], side: int, threads: int) -> None:
        self.source, self.outputs, self._config = source, outputs, config
        self._core = one_core()
        with refusals_named(source):
            self._graph = self._core.read_model(source)
            check_interface(self._graph, config, source, outputs, side)
            float_type = stated_float_type(self._graph, source)
        self._properties = {
            "INFERENCE_PRECISION_HINT": float_type,
            "INFERENCE_NUM_THREADS": threads,
            # Pinned threads begin with the first core in every process: two engines of one thread would share it.
            "ENABLE_CPU_PINNING": threads >= len(os.sched_getaffinity(0)),
        }
        self._requests: dict[int, Any] = {}
        self._throughput: Any = None

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores and maps, soonest: in pieces of powers of two (13 = 8 + 4 + 1), each on all threads.

        No more than log2(batch) + 1 sizes are ever compiled.
        """
        scores, maps = [], []
        start = 0
        with refusals_named(self.source):
            while start < len(images):
                size = 1 << ((len(images) - start).bit_length() - 1)
                results = self._request(size).infer({0: images[start : start + size]}, share_inputs=True)
                scores.append(results[self.outputs[0]])
                maps.append(results[self.outputs[1]])
                start += size
        return np.concatenate(scores), np.concatenate(maps)

    def _request(self, size: int) -> Any:
        """The inference request for `size` images; one serves all threads, which take turns."""
        if size not in self._requests:
            self._requests[size] = self._compile(size, "LATENCY").create_infer_request()
        return self._requests[size]

    def requests(self) -> list[Any]:
        """Requests of one image each that run beside each other: as many as keep all threads at work."""
        with refusals_named(self.source):
            if self._throughput is None:
                self._throughput = self._compile(1, "THROUGHPUT")
            streams = int(self._throughput.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
            return [self._throughput.create_infer_request() for _ in range(REQUESTS_OF_A_STREAM * streams)]

    def answer(self, request: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores and maps that a request has found, in its own memory."""
        scores, maps = (request.get_tensor(name).data for name in self.outputs)
        return scores, maps

    def _compile(self, size: int, hint: str) -> Any:
        graph = self._graph.clone()
        graph.reshape([size, self._config.image_size, self._config.image_size, self._config.image_channels])
        return self._core.compile_model(graph, "CPU", self._properties | {"PERFORMANCE_HINT": hint})

    def release(self) -> None:
        """Forget all that was compiled."""
        self._requests.clear()
        self._throughput = None
