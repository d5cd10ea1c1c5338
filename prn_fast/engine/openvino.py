"""The embedded CPU engine: OpenVINO."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine.base import Engine
from prn_fast.errors import EngineError
from prn_fast.package import Package

# Name of the graph's files inside the engine's folder, and of its input and outputs: written by prn_fast.build.
GRAPH_FILE = "model.xml"
# Place in a graph's run-time information that states the arithmetic of what is not quantised, "f32" or "bf16".
_FLOAT_TYPE = ["prn_fast", "float"]


def import_openvino() -> Any:
    """The openvino module, or an EngineError that names the extra to install."""
    try:
        import openvino
    except ImportError:
        raise EngineError("OpenVINO is not installed: pip install 'prn-fast[openvino]'") from None
    return openvino


def float_types() -> tuple[str, ...]:
    """Float arithmetics that this processor has instructions for, the faster one first."""
    capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("bf16", "f32") if "BF16" in capabilities else ("f32",)


def state_float_type(graph: Any, float_type: str) -> None:
    """Write into a graph in which arithmetic the engine shall run what is not quantised."""
    graph.set_rt_info(float_type, _FLOAT_TYPE)


def stated_float_type(graph: Any, source: Path) -> str:
    """The arithmetic that a graph states, or f32 where that is bfloat16 and this processor would only imitate it.

    An EngineError if it states none.
    """
    if not graph.has_rt_info(_FLOAT_TYPE):
        raise EngineError(f"{source}: does not state its arithmetic; build the engine again: prn-build-engine")
    stated = str(graph.get_rt_info(_FLOAT_TYPE).value)
    return stated if stated in float_types() else "f32"


class OpenVINOEngine(Engine):
    """A graph built by `prn-build-engine --backend openvino`, compiled for this machine's CPU.

    A batch is run in pieces of powers of two (13 = 8 + 4 + 1), each compiled for its exact size on first use: a fixed
    shape runs faster than a dynamic one, and no more than log2(batch) + 1 sizes are ever compiled.

    Args:
        package: gives the shape of images; `folder`: the engine's files; `precision`: "fp32", "bf16" or "int8".
        batch: most images in one run.
        threads: processor threads to use; None takes all that this process may.
    """

    def __init__(
        self, package: Package, folder: Path, precision: str, batch: int = 8, threads: int | None = None
    ) -> None:
        config = package.config
        super().__init__(f"openvino:{precision}", config.image_size, config.image_channels, batch)
        openvino = import_openvino()
        self._core = openvino.Core()
        self._graph = self._core.read_model(folder / GRAPH_FILE)
        self._properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": stated_float_type(self._graph, folder / GRAPH_FILE),
            "INFERENCE_NUM_THREADS": threads or len(os.sched_getaffinity(0)),
        }
        self._requests: dict[int, Any] = {}

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        scores, maps = [], []
        start = 0
        while start < len(images):
            size = 1 << ((len(images) - start).bit_length() - 1)
            request = self._request(size)
            piece = np.ascontiguousarray(images[start : start + size])
            results = request.infer({0: piece}, share_inputs=True)
            scores.append(results["scores"])
            maps.append(results["maps"])
            start += size
        return np.concatenate(scores), np.concatenate(maps)

    def _request(self, size: int) -> Any:
        """The inference request for `size` images."""
        if size not in self._requests:
            graph = self._graph.clone()
            graph.reshape([size, self.image_size, self.image_size, self.image_channels])
            compiled = self._core.compile_model(graph, "CPU", self._properties)
            self._requests[size] = compiled.create_infer_request()
        return self._requests[size]

    def close(self) -> None:
        """See `Engine.close`."""
        self._requests.clear()
