"""Engines: one interface, one file for each backend. Opening an engine imports only its own backend's library."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prn_fast.engine.base import Detections, Engine
from prn_fast.engine.kserve import is_address
from prn_fast.errors import EngineError

if TYPE_CHECKING:
    from prn_fast.package import Package


@dataclass(frozen=True)
class Backend:
    """A way to run a package.

    Attributes:
        engine: module and class of the runner.
        precisions: what `BACKEND:PRECISION` may name, the default first.
        usual: those built where none is named.
        built: whether `prn-build-engine` must have put the engine into the package.
        needs: what those that are not built need to run, in words.
    """

    engine: str
    precisions: tuple[str, ...]
    built: bool
    usual: tuple[str, ...] = ()
    needs: str = "a CPU"

    def runner(self) -> Callable[..., Engine]:
        """The engine's class; imports the backend's library."""
        module, name = self.engine.rsplit(".", 1)
        return getattr(import_module(module), name)


TENSORRT_PRECISIONS = ("fp16", "fp32", "bf16", "int8", "fp8")
BACKENDS = {
    "eager": Backend("prn_fast.engine.eager.EagerEngine", ("fp32",), built=False),
    "optimized": Backend("prn_fast.engine.optimized.OptimizedEngine", ("fp32",), built=False),
    "fused": Backend(
        "prn_fast.engine.fused.FusedEngine",
        ("fp16", "bf16", "fp32"),
        built=False,
        needs="the extra triton; an NVIDIA GPU",
    ),
    "openvino": Backend(
        "prn_fast.engine.openvino.OpenVINOEngine", ("fp32", "bf16", "int8"), built=True, usual=("fp32", "int8")
    ),
    "tensorrt": Backend("prn_fast.engine.tensorrt.TensorRTEngine", TENSORRT_PRECISIONS, built=True, usual=("fp16",)),
    "tensorrt-rtx": Backend(
        "prn_fast.engine.tensorrt.TensorRTRTXEngine", TENSORRT_PRECISIONS, built=True, usual=("fp16",)
    ),
}
FORMER_BACKENDS = {"lean": "optimized"}  # names until 0.1, which version 0.3 refuses
# Best first: `default_engine` takes the first that a package holds. "fused", "tensorrt" and "tensorrt-rtx" are opened
# by name only, as long as they have not been measured on a GPU.
PREFERENCE = ("openvino:int8", "openvino:bf16", "openvino:fp32", "optimized")


def parse_name(name: str) -> tuple[str, Backend, str]:
    """Backend's name, backend and precision of an engine's name such as "eager" or "openvino:int8"."""
    if not isinstance(name, str):
        raise EngineError(f"an engine is named by a string such as 'openvino:int8', not by {name!r}")
    backend_name, _, precision = name.partition(":")
    backend_name = FORMER_BACKENDS.get(backend_name, backend_name)
    if backend_name not in BACKENDS:
        raise EngineError(f"unknown backend {backend_name!r}; choose one of {', '.join(BACKENDS)}")
    backend = BACKENDS[backend_name]
    precision = precision or backend.precisions[0]
    if precision not in backend.precisions:
        raise EngineError(
            f"backend {backend_name} has no precision {precision!r}; choose one of {', '.join(backend.precisions)}"
        )
    return backend_name, backend, precision


def open_engine(
    package: "Package | Path | str",
    name: str | None = None,
    *,
    early_exit: bool = True,
    screen_only: bool = False,
    **options: Any,
) -> Engine:
    """Open an engine of a package, or one on a server.

    Args:
        package: a package, or its path (it is then read and verified); or an address such as "grpc://host:8001/tiles",
            where a server runs it (see `RemoteEngine`).
        name: "eager", "optimized", "openvino:fp32", "openvino:int8", ...; without one, the best that the package holds.
            An address, where a server must run this very package.
        early_exit: let images that are plainly normal leave after the screen, where the package has one with a cut
            (`Package.early_exit`) and the engine was built with it; otherwise all run whole, and so they do with False.
            `Engine.screening` says which.
        screen_only: run the screen alone: its verdicts, scores and maps, brought to the network's scale and size.
        options: `batch` (most images in one run) and what the backend's class takes.
    Raises:
        EngineError: unknown name, not built, or its library is not installed; or the screen alone was asked for and
            there is none. It says what to do.
        PackageError: the package cannot be read or was altered.
    """
    from prn_fast.package import Package

    if is_address(package):
        if name is not None:
            raise EngineError(f"{package} runs the engine that its server has chosen; leave out {name!r}")
        return _remote_engine(str(package), None, options)
    if not isinstance(package, Package):
        package = Package.open(package)
    if is_address(name):
        return _remote_engine(str(name), package, options)
    name = name or default_engine(package)
    backend_name, backend, precision = parse_name(name)
    if backend.built and f"{backend_name}:{precision}" not in package.engines:
        raise EngineError(
            f"{package.path} holds no engine {backend_name}:{precision}; build it: "
            f"prn-build-engine {package.path} --backend {backend_name} --precision {precision}"
        )
    if backend.built:
        built = f"{backend_name}:{precision}"
        options |= {"folder": package.engine_folder(built), "cut_shift": package.cut_shift(built)}
    return backend.runner()(package, precision=precision, early_exit=early_exit, screen_only=screen_only, **options)


def _remote_engine(address: str, package: "Package | None", options: dict[str, Any]) -> Engine:
    from prn_fast.engine.remote import RemoteEngine

    return RemoteEngine(address, package, **options)


def default_engine(package: "Package") -> str:
    """Name of the best engine that a package holds; "optimized", which every package can run, if none was built."""
    return next((name for name in PREFERENCE if name in package.engines), PREFERENCE[-1])


__all__ = [
    "BACKENDS",
    "Backend",
    "Detections",
    "Engine",
    "default_engine",
    "open_engine",
    "parse_name",
]
