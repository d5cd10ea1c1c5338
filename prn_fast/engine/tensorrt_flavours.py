"""The two TensorRT libraries and how they differ; builder and runner ask here and nowhere else."""

import re
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from prn_fast.errors import EngineError

# Lowest compute capability that a precision is built for. Below that of bf16 and fp8 tensor cores do not know the type;
# below 8.0 TensorRT-RTX compiles no float32 matrix product, and attention in float32 is made of them.
LOWEST_CAPABILITY = {"fp32": (8, 0), "bf16": (8, 0), "fp8": (8, 9)}
# Lower ones are built for only when asked: they take another formulation of distances, in one engine for all.
PORTABLE_USUAL = (8, 0)


@dataclass(frozen=True)
class Flavour:
    """A TensorRT library.

    Attributes:
        name: of the backend.
        title: for people.
        modules: Python modules to try, in this order.
        install: what to do where none can be imported.
        portable: engines are built for named compute capabilities, without a GPU; otherwise for the GPU at hand.
        timing_cache: the builder times kernels, and a file keeps the times for the next build.
        runtime_cache: kernels are compiled on the machine that runs the engine, and a file keeps them.
        plugins: Triton kernels can be placed in the engine.
    """

    name: str
    title: str
    modules: tuple[str, ...]
    install: str
    portable: bool
    timing_cache: bool
    runtime_cache: bool
    plugins: bool

    def load(self) -> ModuleType:
        """The library's Python module, or an EngineError that says what to install."""
        for name in self.modules:
            try:
                return import_module(name)
            except ImportError:
                continue
        raise EngineError(f"{self.title} is not installed: {self.install}")

    def capabilities(self, library: Any) -> tuple[str, ...]:
        """Compute capabilities such as "8.9" that a portable flavour's library builds for."""
        names = (re.fullmatch(r"SM(\d+)(\d)", name) for name in library.ComputeCapability.__members__)
        return tuple(f"{name[1]}.{name[2]}" for name in names if name)


FLAVOURS = {
    flavour.name: flavour
    for flavour in (
        Flavour(
            name="tensorrt",
            title="TensorRT",
            modules=("tensorrt", "tensorrt_bindings"),
            install="install NVIDIA's tensorrt-cu13 packages on the machine with the GPU",
            portable=False,
            timing_cache=True,
            runtime_cache=False,
            plugins=True,
        ),
        Flavour(
            name="tensorrt-rtx",
            title="TensorRT-RTX",
            modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
            install="pip install 'prn-fast[tensorrt]'",
            portable=True,
            timing_cache=False,
            runtime_cache=True,
            plugins=False,
        ),
    )
}


def parse_capability(text: str) -> tuple[int, int]:
    """(8, 9) of "8.9", or an EngineError."""
    match = re.fullmatch(r"(\d+)\.(\d)", text)
    if match is None:
        raise EngineError(f"{text!r} is not a compute capability; write it as in 8.9")
    return int(match[1]), int(match[2])
