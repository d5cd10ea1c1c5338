"""Runs an ONNX graph on this machine's CPU, to verify what is to be built for a device that is not here."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prn_fast.build.export import INPUT_NAME, OUTPUT_NAMES
from prn_fast.engine.base import Engine
from prn_fast.engine.openvino import import_openvino
from prn_fast.errors import EngineError
from prn_fast.package import Package

BATCH = 4


class OnnxRuntimeGraph(Engine):
    """A graph as ONNX Runtime computes it, every tensor rounded to the type that the graph names.

    ONNX Runtime's CPU computes float16 nodes in float32 and rounds their results; bfloat16 it does not compute.
    """

    def __init__(self, package: Package, graph: Path) -> None:
        config = package.config
        super().__init__("onnxruntime", config.image_size, config.image_channels, BATCH)
        try:
            import onnxruntime
        except ImportError:
            raise EngineError("ONNX Runtime is not installed: pip install 'prn-fast[tensorrt]'") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # The graph as it is written: eight bits as quantised values in float arithmetic, not by this CPU's own integer
        # kernels. Even basic optimisation (1.32) changes what a graph of quantised nodes with float16 scales computes.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        scores, maps = self._session.run(list(OUTPUT_NAMES), {INPUT_NAME: np.ascontiguousarray(images)})
        return scores, maps


class OpenVINOGraph(Engine):
    """A graph as OpenVINO computes it, in float32 arithmetic; bfloat16 constants keep their rounding."""

    def __init__(self, package: Package, graph: Path) -> None:
        config = package.config
        super().__init__("openvino graph", config.image_size, config.image_channels, BATCH)
        core = import_openvino().Core()
        self._compiled = core.compile_model(core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        results = self._compiled(np.ascontiguousarray(images))
        return results[OUTPUT_NAMES[0]], results[OUTPUT_NAMES[1]]


def graph_engine(package: Package, graph: Path, precision: str) -> Engine:
    """The engine that computes a graph most like the device would: ONNX Runtime, and OpenVINO for bfloat16."""
    return OpenVINOGraph(package, graph) if precision == "bf16" else OnnxRuntimeGraph(package, graph)
