"""Runs TensorRT and TensorRT-RTX engines that `prn-build-engine` built. Needs an NVIDIA GPU, but no torch."""

import contextlib
import hashlib
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine.base import Engine
from prn_fast.engine.cuda_graph import CudaGraph
from prn_fast.engine.cuda_memory import CudaDevice, DeviceImages, Staging, device_images, open_device
from prn_fast.engine.tensorrt_file import (
    ENGINE_FILE,
    Description,
    bindings_fault,
    check_device,
    check_version,
    diagnosis,
    read_engine,
)
from prn_fast.engine.tensorrt_flavours import FLAVOURS, Flavour
from prn_fast.errors import EngineError
from prn_fast.package import Package, write_atomically

INPUT_NAME, OUTPUT_NAMES = "images", ("scores", "maps")
RUNTIME_CACHE = "runtime-{device}.cache"


class TensorRTEngine(Engine):
    """A serialised engine on a GPU, with an execution context, a stream and pinned buffers of its own.

    Fewer images than the engine's smallest batch are filled up. From the second run of a batch size on, the whole run
    is one CUDA graph. Images that are on the GPU already (`__cuda_array_interface__`, DLPack) are read where they lie;
    all work on the GPU is waited for first.

    One such object belongs to one thread at a time. `share` gives another camera one of its own over the same weights.

    Args:
        package: gives the shape of images; `folder`: the engine's files; `precision`: as built.
        batch: most images in one run; at most, and if None, the engine's largest.
        device: number of the GPU.
        cuda_graph: whether runs are captured.
        runtime_cache: folder of the cache of kernels that TensorRT-RTX compiles here; None keeps it beside the engine,
            False keeps none. Whoever can write there can put code on the GPU.
    Raises:
        EngineError: no library, no GPU, another version or GPU than the engine was built for, or a file that is
            truncated or altered: one line each, before the library reads the engine.
    """

    flavour: ClassVar[Flavour] = FLAVOURS["tensorrt"]

    def __init__(
        self,
        package: Package,
        folder: Path,
        precision: str,
        batch: int | None = None,
        device: int = 0,
        cuda_graph: bool = True,
        runtime_cache: Path | bool | None = None,
    ) -> None:
        config = package.config
        description = Description.read(folder)
        largest = description.batch[2]
        super().__init__(
            f"{self.flavour.name}:{precision}",
            config.image_size,
            config.image_channels,
            largest if batch is None else min(batch, largest),
        )
        self._smallest = description.batch[0]
        plan = read_engine(folder, description)
        fault = bindings_fault(
            description.bindings,
            {
                INPUT_NAME: ("UInt8", (config.image_size, config.image_size, config.image_channels)),
                OUTPUT_NAMES[0]: ("Float", ()),
                OUTPUT_NAMES[1]: ("Float", (config.image_size, config.image_size)),
            },
        )
        if fault:
            raise EngineError(f"{folder / ENGINE_FILE}: {fault}; build the engine again")
        self._library = self.flavour.load()
        check_version(folder, description, self.flavour, self._library.__version__)
        self._device = open_device(device)
        check_device(folder, description, self._device.name, self._device.capability)
        self._cache_file = self._cache_path(folder, runtime_cache)
        self._cuda_graph = cuda_graph
        with self._device.active():
            self._engine = self._deserialize(folder, plan)
            self._runtime_config, self._runtime_cache = self._configure()
            self._prepare()

    def _deserialize(self, folder: Path, plan: bytes) -> Any:
        """The library's engine; the logger and runtime are kept, since TensorRT holds no reference to them."""
        library = self._library
        self._logger = error_logger(library)
        self._runtime = library.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            reason = diagnosis(library, self._runtime, plan) or "the library gives no diagnosis"
            said = f" ({self._logger.first})" if self._logger.first else ""
            raise EngineError(f"{folder / ENGINE_FILE}: {self.flavour.title} refuses the engine, {reason}{said}")
        return engine

    def _cache_path(self, folder: Path, place: Path | bool | None) -> Path | None:
        """Where the compiled kernels for this GPU are kept; None: nowhere."""
        if not self.flavour.runtime_cache or place is False:
            return None
        name = hashlib.sha256(f"{self._device.name} {self._library.__version__}".encode()).hexdigest()[:12]
        return (place if isinstance(place, Path) else folder) / RUNTIME_CACHE.format(device=name)

    def _configure(self) -> tuple[Any, Any]:
        """TensorRT-RTX's runtime configuration and its cache; nothing for a flavour that has none."""
        if not self.flavour.runtime_cache:
            return None, None
        config = self._engine.create_runtime_config()
        if self._cuda_graph:  # it compiles kernels while it runs, and knows itself when a capture holds
            config.cuda_graph_strategy = self._library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        cache = config.create_runtime_cache()
        if self._cache_file is not None and self._cache_file.is_file():
            # One for another driver is refused by the library, and written anew when the engine is closed.
            cache.deserialize(self._cache_file.read_bytes())
        config.set_runtime_cache(cache)
        return config, cache

    def _prepare(self) -> None:
        """Context, buffers and graphs of this object alone."""
        if self._runtime_config is None:
            self._context = self._engine.create_execution_context()
        else:
            self._context = self._engine.create_execution_context(self._runtime_config)
        if self._context is None:
            raise EngineError(
                f"{self.name}: no execution context could be made: {self._logger.first or 'out of memory?'}"
            )
        rows = max(self.batch, self._smallest)
        side = self.image_size
        self._images: Staging = self._device.staging((rows, side, side, self.image_channels), np.uint8)
        self._images.host[:] = 0  # what fills a batch up
        self._scores: Staging = self._device.staging((rows,), np.float32)
        self._maps: Staging = self._device.staging((rows, side, side), np.float32)
        self._graphs: dict[int, CudaGraph] = {}
        for name, staging in zip(OUTPUT_NAMES, (self._scores, self._maps), strict=True):
            self._context.set_tensor_address(name, staging.pointer)

    def share(self) -> Self:
        """Another engine for another thread: the same weights, its own context, stream and buffers."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._device = self._device.another_stream()
        other._cache_file = None  # the first one writes it
        with other._device.active():
            other._prepare()
        return other

    def check(self, images: Any) -> Any:
        """See `Engine.check`; images on a GPU stay there."""
        on_device = device_images(images)
        if on_device is None:
            return super().check(images)
        self.check_shape(on_device)
        if len(on_device) < self._smallest:
            raise EngineError(
                f"there are {len(on_device)} images on the GPU; this engine takes {self._smallest} or more there"
            )
        with self._device.active():
            self._device.wait_for_all()
        return on_device

    def run(self, images: NDArray[np.uint8] | DeviceImages) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        count = len(images)
        rows = max(count, self._smallest)
        first = 0
        with self._device.active():
            if isinstance(images, DeviceImages):
                # The last part of many may be short: it is run together with images before it, and those are left out.
                first = rows - count
                self._enqueue(images.pointer - first * images.row_bytes, rows)
                self._download(rows)
            else:
                self._images.host[:count] = images
                self._run_staged(rows)
            self._device.synchronize()
        part = slice(first, first + count)
        return self._scores.host[part].copy(), self._maps.host[part].copy()

    def _run_staged(self, rows: int) -> None:
        """Upload, compute and download, as one graph from the second time on."""
        if rows in self._graphs:
            self._graphs[rows].launch()
            return
        self._work(rows)
        if self._cuda_graph and self._runtime_config is None:  # TensorRT-RTX captures by itself
            self._device.synchronize()
            self._graphs[rows] = CudaGraph(self._device.stream, lambda: self._work(rows))

    def _work(self, rows: int) -> None:
        self._images.upload(rows)
        self._enqueue(self._images.pointer, rows)
        self._download(rows)

    def _download(self, rows: int) -> None:
        self._scores.download(rows)
        self._maps.download(rows)

    def _enqueue(self, pointer: int, rows: int) -> None:
        shape = (rows, self.image_size, self.image_size, self.image_channels)
        self._context.set_input_shape(INPUT_NAME, shape)
        self._context.set_tensor_address(INPUT_NAME, pointer)
        if not self._context.execute_async_v3(self._device.stream):
            raise EngineError(f"{self.name}: the GPU refused the work: {self._logger.first or 'no reason given'}")

    def close(self) -> None:
        """See `Engine.close`; keeps the compiled kernels for the next start."""
        if self._context is None:
            return
        with self._device.active():
            for graph in self._graphs.values():
                graph.close()
            if self._cache_file is not None:
                # A package that cannot be written to starts slowly each time, and runs as well.
                with contextlib.suppress(OSError):
                    write_atomically(self._cache_file, bytes(self._runtime_cache.serialize()))
            self._graphs, self._context = {}, None


class TensorRTRTXEngine(TensorRTEngine):
    """The same for TensorRT-RTX, which compiles its kernels on the machine that runs them."""

    flavour = FLAVOURS["tensorrt-rtx"]


def error_logger(library: Any) -> Any:
    """A logger that keeps the first error."""

    class Logger(library.ILogger):
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.first = ""

        def log(self, severity: Any, message: str) -> None:
            if severity <= library.ILogger.Severity.ERROR and not self.first:
                self.first = " ".join(message.split())

    return Logger()


def device_capability(index: int = 0) -> str | None:
    """Compute capability of a GPU of this machine, such as "8.9"; None where there is none that can be used."""
    try:
        device: CudaDevice = open_device(index)
    except EngineError:
        return None
    return ".".join(map(str, device.capability))
