"""Runs an ONNX graph on this machine's CPU, to verify an engine for a device that this machine lacks."""

from abc import abstractmethod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine.base import Engine, Thresholds
from prn_fast.engine.early_exit import Screening
from prn_fast.engine.openvino_graph import one_core
from prn_fast.engine.tensor_names import INPUT_NAME, OUTPUT_NAMES, SCREEN_OUTPUT_NAMES
from prn_fast.errors import EngineError
from prn_fast.package import Package

BATCH = 4
Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]


class GraphEngine(Engine):
    """A graph of the network, or of the screen, which then runs alone."""

    def __init__(self, name: str, package: Package, *, screen: bool) -> None:
        config = package.config
        super().__init__(
            name,
            config.image_size,
            config.image_channels,
            BATCH,
            thresholds=Thresholds.of(package),
            screening=Screening.of(package, early_exit=screen, screen_only=screen),
        )
        self.outputs = SCREEN_OUTPUT_NAMES if screen else OUTPUT_NAMES

    @abstractmethod
    def compute(self, images: NDArray[np.uint8]) -> Outputs:
        """The graph's two outputs for at most `batch` images, contiguous."""

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """See `Engine.run`."""
        return self.compute(images)

    def screen(self, images: NDArray[np.uint8]) -> Outputs:
        """See `Engine.screen`."""
        return self.in_parts(self.compute, images)


class OnnxRuntimeGraph(GraphEngine):
    """A graph as ONNX Runtime computes it, every tensor rounded to the type that the graph names.

    ONNX Runtime's CPU computes float16 nodes in float32 and rounds their results; bfloat16 it does not compute.
    """

    def __init__(self, package: Package, graph: Path, *, screen: bool = False) -> None:
        super().__init__("onnxruntime", package, screen=screen)
        try:
            import onnxruntime
        except ImportError:
            raise EngineError("ONNX Runtime is not installed: pip install 'prn-fast[tensorrt]'") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # The graph exactly as written: eight bits as quantised values in float arithmetic, not by this CPU's integer
        # kernels. Even basic optimisation (1.32) changes what a graph of quantised nodes with float16 scales computes.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def compute(self, images: NDArray[np.uint8]) -> Outputs:
        """See `GraphEngine.compute`."""
        scores, maps = self._session.run(list(self.outputs), {INPUT_NAME: np.ascontiguousarray(images)})
        return scores, maps


class OpenVINOGraph(GraphEngine):
    """A graph as OpenVINO computes it, in float32 arithmetic; bfloat16 constants keep their rounding."""

    def __init__(self, package: Package, graph: Path, *, screen: bool = False) -> None:
        super().__init__("openvino graph", package, screen=screen)
        core = one_core()
        self._compiled = core.compile_model(core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def compute(self, images: NDArray[np.uint8]) -> Outputs:
        """See `GraphEngine.compute`."""
        results = self._compiled(np.ascontiguousarray(images))
        return results[self.outputs[0]], results[self.outputs[1]]


def graph_engine(package: Package, graph: Path, precision: str, *, screen: bool = False) -> Engine:
    """The engine that computes a graph most like the device would: ONNX Runtime, and OpenVINO for bfloat16."""
    kind = OpenVINOGraph if precision == "bf16" else OnnxRuntimeGraph
    return kind(package, graph, screen=screen)
