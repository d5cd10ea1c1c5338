"""Memory and streams of a GPU for engines that are no part of PyTorch.

A process that has torch loaded gets torch's memory and streams, so that both share one allocator and one context; any
other gets pycuda's, and needs no torch. Where pycuda is not installed, torch is loaded for it. Images that are already
on the GPU are taken where they lie.
"""

import ctypes
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine.cuda_graph import copy_on_device
from prn_fast.engine.images import gpu_of
from prn_fast.errors import EngineError


class Staging(ABC):
    """An array on the GPU and its twin in pinned host memory, from which copies run beside computation.

    Attributes:
        host: numpy array over the pinned memory.
        pointer: address of the array on the GPU.
    """

    host: NDArray[Any]
    pointer: int

    @abstractmethod
    def upload(self, count: int) -> None:
        """Put a copy of the first `count` rows, host to GPU, on the stream."""

    @abstractmethod
    def download(self, count: int) -> None:
        """Put a copy of the first `count` rows, GPU to host, on the stream."""


class CudaDevice(ABC):
    """A GPU and one stream on it.

    Attributes:
        name: of the GPU.
        capability: its compute capability.
        stream: the stream's handle.
    """

    name: str
    capability: tuple[int, int]
    stream: int

    @abstractmethod
    def staging(self, shape: tuple[int, ...], dtype: type[np.generic]) -> Staging:
        """An array on the GPU with its pinned twin."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all that was put on the stream is done."""

    @abstractmethod
    def wait_for_all(self) -> None:
        """Wait until all that any stream was given is done."""

    def copy(self, target: int, source: int, size: int) -> None:
        """Enqueue a copy of `size` bytes from one address on the GPU to another."""
        copy_on_device(target, source, size, self.stream)

    @abstractmethod
    def another_stream(self) -> "CudaDevice":
        """The same GPU with a stream of its own."""

    @contextmanager
    def active(self) -> Iterator[None]:
        """Makes the GPU's context current in this thread."""
        yield


def open_device(index: int = 0) -> CudaDevice:
    """A GPU of this machine: through torch if this process has it loaded, else through pycuda, else through torch.

    Raises:
        EngineError: no GPU, no driver, or neither pycuda nor torch is installed; one line.
    """
    loaded = sys.modules.get("torch") is not None
    if loaded or (find_spec("pycuda") is None and find_spec("torch") is not None):
        return TorchDevice(index)
    return PycudaDevice(index)


class TorchDevice(CudaDevice):
    """Memory and streams of PyTorch."""

    def __init__(self, index: int) -> None:
        import torch

        if not torch.cuda.is_available():
            raise EngineError("TensorRT engines need an NVIDIA GPU, and torch finds none that it can use")
        if index >= torch.cuda.device_count():
            raise EngineError(f"there is no GPU {index}; this machine has {torch.cuda.device_count()}")
        self._torch = torch
        self._device = torch.device("cuda", index)
        self.index = index
        self.name = torch.cuda.get_device_name(self._device)
        self.capability = torch.cuda.get_device_capability(self._device)
        self._stream = torch.cuda.Stream(self._device)
        self.stream = self._stream.cuda_stream

    def staging(self, shape: tuple[int, ...], dtype: type[np.generic]) -> Staging:
        """See the base."""
        return _TorchStaging(self._torch, self._stream, shape, dtype)

    def synchronize(self) -> None:
        """See the base."""
        self._stream.synchronize()

    def wait_for_all(self) -> None:
        """See the base."""
        self._torch.cuda.synchronize(self._device)

    def another_stream(self) -> CudaDevice:
        """See the base."""
        return TorchDevice(self.index)

    @contextmanager
    def active(self) -> Iterator[None]:
        """See the base."""
        with self._torch.cuda.device(self._device):
            yield


class _TorchStaging(Staging):
    def __init__(self, torch: Any, stream: Any, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        self._torch, self._stream = torch, stream
        self._pinned = torch.empty(shape, dtype=kind, pin_memory=True)
        self._array = torch.empty(shape, dtype=kind, device=stream.device)
        # The allocator may hand out memory that work on another stream still uses.
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        self.host = self._pinned.numpy()
        self.pointer = self._array.data_ptr()

    def upload(self, count: int) -> None:
        with self._torch.cuda.stream(self._stream):
            self._array[:count].copy_(self._pinned[:count], non_blocking=True)

    def download(self, count: int) -> None:
        with self._torch.cuda.stream(self._stream):
            self._pinned[:count].copy_(self._array[:count], non_blocking=True)


class PycudaDevice(CudaDevice):
    """Memory and streams of pycuda, in the GPU's primary context, which the TensorRT library uses too."""

    def __init__(self, index: int, context: Any = None) -> None:
        try:
            import pycuda.driver as driver
        except ModuleNotFoundError:
            raise EngineError(
                "neither pycuda nor torch is installed, whose memory TensorRT engines use: pip install torch, or "
                "'prn-fast[pycuda]' (it is compiled, with a CUDA toolkit)"
            ) from None
        except ImportError as error:
            raise EngineError(
                f"pycuda cannot be loaded, is there an NVIDIA driver on this machine? ({error})"
            ) from None
        try:
            driver.init()
            count = driver.Device.count()
        except driver.Error as error:
            raise EngineError(f"TensorRT engines need an NVIDIA GPU, and pycuda finds none ({error})") from None
        if index >= count:
            raise EngineError(f"there is no GPU {index}; this machine has {count}")
        device = driver.Device(index)
        self._driver, self._context = driver, context or device.retain_primary_context()
        self.index = index
        self.name = device.name()
        self.capability = device.compute_capability()
        with self.active():
            self._stream = driver.Stream()
        self.stream = self._stream.handle

    def staging(self, shape: tuple[int, ...], dtype: type[np.generic]) -> Staging:
        """See the base."""
        with self.active():
            return _PycudaStaging(self._driver, self._stream, shape, dtype)

    def synchronize(self) -> None:
        """See the base."""
        self._stream.synchronize()

    def wait_for_all(self) -> None:
        """See the base."""
        with self.active():
            self._driver.Context.synchronize()

    def another_stream(self) -> CudaDevice:
        """See the base."""
        return PycudaDevice(self.index, self._context)

    @contextmanager
    def active(self) -> Iterator[None]:
        """See the base."""
        self._context.push()
        try:
            yield
        finally:
            self._driver.Context.pop()


class _PycudaStaging(Staging):
    def __init__(self, driver: Any, stream: Any, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self._driver, self._stream = driver, stream
        self.host = driver.pagelocked_empty(shape, dtype)
        self._allocation = driver.mem_alloc(self.host.nbytes)
        self.pointer = int(self._allocation)

    def upload(self, count: int) -> None:
        self._driver.memcpy_htod_async(self._allocation, self.host[:count], self._stream)

    def download(self, count: int) -> None:
        self._driver.memcpy_dtoh_async(self.host[:count], self._allocation, self._stream)


@dataclass(frozen=True)
class DeviceImages:
    """Images on the GPU, contiguous, where they lie: what an engine reads without a copy.

    Attributes:
        pointer: address of the first byte.
        shape: (N, H, W, C).
        dtype: of the pixels.
        owner: keeps the memory alive.
        before: how many images of the same array lie before these.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any
    before: int = 0

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def row_bytes(self) -> int:
        """Size of one image."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> "DeviceImages":
        start, stop, _ = part.indices(len(self))
        shape = (stop - start, *self.shape[1:])
        pointer = self.pointer + start * self.row_bytes
        return DeviceImages(pointer, shape, self.dtype, self.owner, self.before + start)


@dataclass(frozen=True)
class DeviceRows:
    """Some images on the GPU, wherever there each of them lies.

    Attributes:
        pointers: addresses of the images.
        row_bytes: size of one.
        owner: keeps the memory alive.
    """

    pointers: tuple[int, ...]
    row_bytes: int
    owner: Any

    @classmethod
    def of(cls, images: DeviceImages, rows: NDArray[np.integer]) -> "DeviceRows":
        """Some of the images, in this order."""
        return cls(tuple(images.pointer + int(row) * images.row_bytes for row in rows), images.row_bytes, images.owner)

    def __len__(self) -> int:
        return len(self.pointers)

    def __getitem__(self, part: slice) -> "DeviceRows":
        return DeviceRows(self.pointers[part], self.row_bytes, self.owner)


def device_images(images: Any) -> DeviceImages | None:
    """`images` if they lie on a GPU, by `__cuda_array_interface__` or DLPack; None if they do not.

    Raises:
        EngineError: they are not contiguous.
    """
    try:
        interface = getattr(images, "__cuda_array_interface__", None)
    except (AttributeError, TypeError):  # torch raises these for tensors that are not on a GPU
        interface = None
    if interface is not None:
        dtype = np.dtype(interface["typestr"])
        _require_contiguous(interface["shape"], interface.get("strides"), dtype.itemsize)
        return DeviceImages(interface["data"][0], tuple(interface["shape"]), dtype, images)
    if gpu_of(images) is not None:
        return from_dlpack(images.__dlpack__(), images)
    return None


def _require_contiguous(shape: Any, strides: Any, itemsize: int) -> None:
    if strides is None:
        return
    expected = itemsize
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            raise EngineError("images on the GPU are not contiguous; copy them into one (N, H, W, C) array first")
        expected *= size


class _DLTensor(ctypes.Structure):
    """DLPack's description of an array, as its header dlpack.h lays it out."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


DLPACK_KINDS = {0: "i", 1: "u", 2: "f"}


def from_dlpack(capsule: Any, owner: Any) -> DeviceImages:
    """The array in a DLPack capsule, which is not consumed: `owner` and the capsule keep it."""
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _DLTensor.from_address(pointer_of(capsule, b"dltensor"))
    kind = DLPACK_KINDS.get(tensor.code)
    if kind is None or tensor.lanes != 1:
        raise EngineError(f"images have DLPack type {tensor.code} of {tensor.bits} bits; engines take uint8")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None
    _require_contiguous(shape, strides, 1)  # DLPack counts strides in elements
    dtype = np.dtype(f"{kind}{tensor.bits // 8}")
    return DeviceImages(tensor.data + tensor.byte_offset, shape, dtype, (owner, capsule))
