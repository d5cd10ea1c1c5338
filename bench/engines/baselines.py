"""What a user has without this project: baselines to compare engines with. They are opened by the bench alone.

All of them run the published formulation: eager PyTorch in half precision, `torch.compile`, and the plain ONNX export
in ONNX Runtime and in OpenVINO. (`eager`, float32, is an engine of every package.)
"""

import functools
import os
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prn_fast.build.export import serialise
from prn_fast.engine import Engine, open_engine
from prn_fast.engine.base import Thresholds
from prn_fast.engine.names import WAYS, split_way, with_way
from prn_fast.engine.openvino_graph import one_core
from prn_fast.engine.tensor_names import INPUT_NAME, OUTPUT_NAMES
from prn_fast.errors import EngineError
from prn_fast.kernels import REFERENCE
from prn_fast.model.prn import PRN
from prn_fast.package import Package


@dataclass(frozen=True)
class Baseline:
    """A way to run the published formulation.

    Attributes:
        description: in words, for `prn-bench --help` and the report.
        make: the engine, from name, package and largest batch.
    """

    description: str
    make: Callable[[str, Package, int], Engine]


def open_any(package: Package, name: str, batch: int) -> Engine:
    """A baseline or an engine of the package, which runs whole unless its name ends with a key of `WAYS`.

    Errors: EngineError, also where the package or the engine has no screen that a way needs.
    """
    if name in BASELINES:
        return BASELINES[name].make(name, package, batch)
    plain, way = split_way(name)
    if way and way not in WAYS:
        raise EngineError(f"unknown way {way!r} of running {plain}; choose one of {', '.join(WAYS)}")
    options = WAYS.get(way, {"early_exit": False})
    engine = open_engine(package, plain, batch=batch, **options)
    if way and engine.screening is None:
        engine.close()
        raise EngineError(
            f"{name}: all images run whole: {package.why_whole or 'the engine was built without a screen'}"
        )
    engine.name = with_way(engine.name, way)
    return engine


class TorchBaseline(Engine):
    """PyTorch on the GPU where there is one, else on the CPU.

    Args:
        half: compute in bfloat16 with channels-last maps (autocasting; the residual stays in float32).
        compile_mode: of `torch.compile`; None runs eagerly.
    """

    def __init__(
        self, name: str, package: Package, batch: int, *, half: bool = False, compile_mode: str | None = None
    ) -> None:
        config = package.config
        super().__init__(name, config.image_size, config.image_channels, batch, thresholds=Thresholds.of(package))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.half, self.compile_mode = half, compile_mode
        self.model: PRN = package.model(REFERENCE).to(self.device)
        if half:
            for parameter in self.model.parameters():
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self._detect: Callable[[Tensor], tuple[Tensor, Tensor]] = self.model.detect
        if compile_mode is not None:
            self._detect = torch.compile(self.model.detect, mode=compile_mode, dynamic=False)

    @torch.inference_mode()
    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        lowering = torch.autocast(self.device.type, torch.bfloat16) if self.half else nullcontext()
        with lowering:
            scores, maps = self._detect(torch.tensor(images, device=self.device))
        return scores.float().cpu().numpy(), maps.float().cpu().numpy()


class _Detector(nn.Module):
    """The published network with normalising and scoring, as someone would export it."""

    def __init__(self, model: PRN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.detect(images)


@functools.lru_cache(maxsize=1)
def _plain_export(path: Path, digest: str) -> bytes:
    """The published formulation of the package at `path` as ONNX, with a dynamic batch; kept for the next baseline."""
    package = Package.open(path, verify=False)
    return serialise(_Detector(package.model(REFERENCE)), package.config)


class OnnxRuntimeBaseline(Engine):
    """The plain export in ONNX Runtime, on the GPU where its provider is installed."""

    def __init__(self, name: str, package: Package, batch: int) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise EngineError("ONNX Runtime is not installed: pip install onnxruntime") from None
        config = package.config
        super().__init__(name, config.image_size, config.image_channels, batch, thresholds=Thresholds.of(package))
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        available = onnxruntime.get_available_providers()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            _plain_export(package.path, package.digest),
            options,
            providers=[provider for provider in wanted if provider in available],
        )

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        scores, maps = self._session.run(list(OUTPUT_NAMES), {INPUT_NAME: np.ascontiguousarray(images)})
        return scores, maps


class OpenVINOBaseline(Engine):
    """The plain export in OpenVINO with its latency hint, float32; compiled for each batch size when it first comes."""

    def __init__(self, name: str, package: Package, batch: int) -> None:
        config = package.config
        super().__init__(name, config.image_size, config.image_channels, batch, thresholds=Thresholds.of(package))
        self._core = one_core()
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            file.write(_plain_export(package.path, package.digest))
            file.flush()
            self._graph = self._core.read_model(file.name)
        self._requests: dict[int, Any] = {}

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        if len(images) not in self._requests:
            graph = self._graph.clone()
            graph.reshape([len(images), self.image_size, self.image_size, self.image_channels])
            compiled = self._core.compile_model(
                graph, "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
            )
            self._requests[len(images)] = compiled.create_infer_request()
        results = self._requests[len(images)].infer({0: np.ascontiguousarray(images)}, share_inputs=True)
        return np.array(results[OUTPUT_NAMES[0]]), np.array(results[OUTPUT_NAMES[1]])

    def release(self) -> None:
        """See `Engine.release`."""
        self._requests.clear()


# The name's ending states the precision, which decides the tolerance of the checks.
BASELINES = {
    "eager:bf16": Baseline("eager PyTorch, bfloat16, channels-last", functools.partial(TorchBaseline, half=True)),
    "compile:fp32": Baseline("torch.compile", functools.partial(TorchBaseline, compile_mode="default")),
    "compile-max:fp32": Baseline(
        "torch.compile with mode max-autotune", functools.partial(TorchBaseline, compile_mode="max-autotune")
    ),
    "onnxruntime:fp32": Baseline("ONNX Runtime on the plain export", OnnxRuntimeBaseline),
    "openvino-plain:fp32": Baseline("OpenVINO on the plain export", OpenVINOBaseline),
}
