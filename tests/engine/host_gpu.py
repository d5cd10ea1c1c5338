"""A GPU's stand-in: the TensorRT runner with host memory for the device's, and a small function for the engine.

All of the runner is the real one but the library's deserialised engine: cutting, filling up, staging, addresses, order.
"""

import contextlib
import ctypes
import dataclasses
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from prn_fast.engine import tensorrt
from prn_fast.engine.cuda_memory import CudaDevice, Staging
from prn_fast.package import Package


class HostStaging(Staging):
    """Two host arrays: one plays the device's."""

    def __init__(self, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self.host, self.device = np.zeros(shape, dtype), np.zeros(shape, dtype)
        self.pointer = self.device.ctypes.data

    def upload(self, count: int) -> None:
        self.device[:count] = self.host[:count]

    def download(self, count: int) -> None:
        self.host[:count] = self.device[:count]


class HostDevice(CudaDevice):
    """Does at once what it is given."""

    name, capability, stream = "stand-in", (8, 9), 0

    def staging(self, shape: tuple[int, ...], dtype: type[np.generic]) -> Staging:
        return HostStaging(shape, dtype)

    def synchronize(self) -> None: ...

    def wait_for_all(self) -> None: ...

    def copy(self, target: int, source: int, size: int) -> None:
        ctypes.memmove(target, source, size)

    def another_stream(self) -> CudaDevice:
        return HostDevice()


def array_at(pointer: int, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
    """The array at an address."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(pointer), dtype).reshape(shape)


class HostContext:
    """Computes maps = pixels / 255 and their means from and to the addresses that it is told; a screen's are smaller.

    Attributes:
        read: first and last address of the images of each run.
    """

    def __init__(self, downscaled: int) -> None:
        self.downscaled = downscaled
        self.addresses: dict[str, int] = {}
        self.read: list[tuple[int, int]] = []

    def set_tensor_address(self, name: str, pointer: int) -> None:
        self.addresses[name] = pointer

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def execute_async_v3(self, stream: int) -> bool:
        pointer = self.addresses["images"]
        self.read.append((pointer, pointer + int(np.prod(self.shape))))
        pixels = array_at(pointer, self.shape, np.uint8)[:, :: self.downscaled, :: self.downscaled, 0]
        prefix = "" if self.downscaled == 1 else "screen_"
        maps = array_at(self.addresses[f"{prefix}maps"], pixels.shape, np.float32)
        maps[:] = pixels / np.float32(255)
        array_at(self.addresses[f"{prefix}scores"], self.shape[:1], np.float32)[:] = maps.mean(axis=(1, 2))
        return True


class HostEngine:
    """What the library makes of an engine's bytes."""

    def __init__(self, downscaled: int) -> None:
        self.downscaled = downscaled

    def create_execution_context(self, config: Any) -> HostContext:
        return HostContext(self.downscaled)

    def create_runtime_config(self) -> Any:
        return mock.MagicMock()


class HostRunner(tensorrt.TensorRTRTXEngine):
    """TensorRT-RTX's runner over such an engine."""

    def _deserialize(self, folder: Path, plan: bytes) -> HostEngine:
        return HostEngine(8 if folder.name == tensorrt.SCREEN_FOLDER else 1)


def open_on_host(package: Package | Path, smallest: int = 1, folder: Path | None = None, **options: Any) -> HostRunner:
    """A runner of an engine "tensorrt-rtx:fp16", or of the one in `folder`, as if its smallest batch were another."""
    package = package if isinstance(package, Package) else Package.open(package)
    folder = folder or package.engine_folder("tensorrt-rtx:fp16")
    read = tensorrt.Description.read

    def described(folder: Path) -> Any:
        description = read(folder)
        return dataclasses.replace(description, batch=(smallest, *description.batch[1:]))

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(tensorrt, "open_device", return_value=HostDevice()))
        stack.enter_context(mock.patch.object(tensorrt.Description, "read", described))
        return HostRunner(package, folder=folder, precision="fp16", runtime_cache=False, **options)
