"""Graphs that a backend of Triton runs by itself, without Python: ONNX Runtime's and TensorRT's.

They answer images and nothing else: without early exit, and without the known answers by which `RemoteEngine` makes
sure of what is served. Clients are programs of others.
"""

from dataclasses import dataclass

from prn_fast.engine import parse_name
from prn_fast.engine.served import MAPS, RAW_SCORES, SCORES, VERDICTS
from prn_fast.engine.tensorrt_file import Description, read_engine
from prn_fast.errors import ConfigError, EngineError
from prn_fast.package import Package

ONNX, TENSORRT = "onnx", "tensorrt"
# The file of a version, by the server's backend.
FILES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}


@dataclass(frozen=True)
class NativeGraph:
    """A graph for one of the server's own backends.

    Attributes:
        backend: key of `FILES`.
        content: of its file.
        outputs: the entries of the configuration.
        batch: most images in one run; None for any number.
    """

    backend: str
    content: bytes
    outputs: tuple[str, ...]
    batch: int | None = None

    @property
    def file(self) -> str:
        """Its name in a version's folder."""
        return FILES[self.backend]


def of_onnx(content: bytes, package: Package) -> NativeGraph:
    """The ONNX graph of a package, as `prn_fast.build.served` makes it: scores, raw scores, verdicts and maps."""
    side = package.config.image_size
    outputs = (
        _output(SCORES, "TYPE_FP32", "1"),
        _output(RAW_SCORES, "TYPE_FP32", "1"),
        _output(VERDICTS, "TYPE_UINT8", "1"),
        _output(MAPS, "TYPE_FP32", f"{side}, {side}"),
    )
    return NativeGraph("onnxruntime", content, outputs)


def of_tensorrt(package: Package, name: str) -> NativeGraph:
    """A TensorRT engine of a package as it is: its `scores` are the network's own, and it gives no verdicts.

    Args:
        name: such as "tensorrt:fp16".
    Raises:
        ConfigError: another kind of engine. EngineError: not in the package, or damaged.
    """
    backend, _, precision = parse_name(name)
    if backend != TENSORRT:
        raise ConfigError(f"--native {name}: the server has no backend for it; choose {ONNX} or {TENSORRT}:PRECISION")
    name = f"{backend}:{precision}"
    if name not in package.engines:
        raise EngineError(
            f"{package.path} holds no engine {name}; build it on the server's kind of GPU: "
            f"prn-build-engine {package.path} --backend {backend} --precision {precision}"
        )
    folder = package.engine_folder(name)
    description = Description.read(folder)
    if description.batch[0] != 1:
        raise EngineError(
            f"{package.path}: {name} takes {description.batch[0]} images or more, and a server sends single ones, too; "
            f"build it again with --batch 1:{description.batch[1]}:{description.batch[2]}"
        )
    side = package.config.image_size
    # The engine's scores are (N,), which the configuration of a batch can state as a shape of its own only.
    outputs = (
        _output("scores", "TYPE_FP32", "1", "reshape: { shape: [ ] }"),
        _output(MAPS, "TYPE_FP32", f"{side}, {side}"),
    )
    return NativeGraph("tensorrt", read_engine(folder, description), outputs, description.batch[2])


def _output(name: str, dtype: str, dims: str, more: str = "") -> str:
    return f'{{ name: "{name}", data_type: {dtype}, dims: [ {dims} ]{", " + more if more else ""} }}'
