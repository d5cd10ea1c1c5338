"""Runs TensorRT and TensorRT-RTX engines that `prn-build-engine` built. Needs an NVIDIA GPU, but no torch."""

import contextlib
import hashlib
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine.base import Engine, Thresholds
from prn_fast.engine.cuda_memory import CudaDevice, DeviceImages, DeviceRows, device_images, open_device
from prn_fast.engine.early_exit import Screening
from prn_fast.engine.tensor_names import INPUT_NAME, OUTPUT_NAMES, SCREEN_OUTPUT_NAMES
from prn_fast.engine.tensorrt_file import (
    DESCRIPTION_FILE,
    ENGINE_FILE,
    SCREEN_FOLDER,
    Description,
    bindings_fault,
    check_device,
    check_version,
    diagnosis,
    read_engine,
)
from prn_fast.engine.tensorrt_flavours import FLAVOURS, Flavour
from prn_fast.engine.tensorrt_program import Program, Weights
from prn_fast.errors import EngineError
from prn_fast.files import replace_file
from prn_fast.model.config import SCREEN_STRIDE
from prn_fast.package import Package

NETWORK, SCREEN = "network", "screen"
# Of each part: the names of its outputs, and by how much its maps are smaller than the images.
OUTPUTS = {NETWORK: OUTPUT_NAMES, SCREEN: SCREEN_OUTPUT_NAMES}
DOWNSCALED = {NETWORK: 1, SCREEN: SCREEN_STRIDE}
RUNTIME_CACHE = "runtime-{device}.cache"


class TensorRTEngine(Engine):
    """Serialised engines on a GPU, with execution contexts, a stream and pinned buffers of their own.

    Fewer images than the engine's smallest batch are filled up. From the second run of a batch size on, the whole run
    is one CUDA graph. Images that are on the GPU already (`__cuda_array_interface__`, DLPack) are read where they lie;
    all work on the GPU is waited for first.

    With early exit there are two engines of the library, the screen and the network. Images that stay are gathered for
    the network: in host memory, or on the GPU if they lie there.

    Threads that use one such object take turns, as with every engine; `share` gives another camera one of its own over
    the same weights, so that both run at a time.

    Args:
        package: gives the shape of images; `folder`: the engine's files; `precision`: as built.
        batch: most images in one run, 1 or more; taken into the range that the engine was built for, whose largest it
            is if None.
        device: number of the GPU.
        cuda_graph: whether runs are captured.
        runtime_cache: folder of the cache of kernels that TensorRT-RTX compiles here; None keeps it beside the engine,
            False keeps none. Whoever can write there can put code on the GPU.
        early_exit, screen_only: as for `open_engine`. An engine that was built without the screen runs whole.
        cut_shift: of the engine's own screen, see `Package.cut_shift`.
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
        early_exit: bool = False,
        screen_only: bool = False,
        cut_shift: float = 0.0,
    ) -> None:
        config, name = package.config, f"{self.flavour.name}:{precision}"
        has_screen = (folder / SCREEN_FOLDER / DESCRIPTION_FILE).exists()
        screening = Screening.of(
            package, early_exit=early_exit and has_screen, screen_only=screen_only, cut_shift=cut_shift
        )
        if screen_only and not has_screen:
            raise EngineError(
                f"{package.path}: its {name} was built without the screen; build it again: prn-build-engine"
            )
        folders = {} if screening is not None and screening.alone else {NETWORK: folder}
        if screening is not None:
            folders[SCREEN] = folder / SCREEN_FOLDER
        descriptions = {part: Description.read(files) for part, files in folders.items()}
        self._smallest, _, largest = next(iter(descriptions.values())).batch
        super().__init__(
            name,
            config.image_size,
            config.image_channels,
            largest if batch is None else min(batch, largest),
            gpu=device,
            thresholds=Thresholds.of(package),
            screening=screening,
        )
        # Every part but the last is then one that the engine takes, and the last may borrow from the one before.
        self.batch = max(self.batch, self._smallest)
        plans = {part: self._read(folders[part], part, description) for part, description in descriptions.items()}
        self._library = self.flavour.load()
        for part, description in descriptions.items():
            check_version(folders[part], description, self.flavour, self._library.__version__)
        self._device = open_device(device)
        for part, description in descriptions.items():
            check_device(folders[part], description, self._device.name, self._device.capability)
        self._cuda_graph, self._keeps_caches = cuda_graph, True
        with self._device.active():
            # The logger and runtime are kept, since TensorRT holds no reference to them.
            self._logger = error_logger(self._library)
            self._runtime = self._library.Runtime(self._logger)
            self._weights = {
                part: self._load(folders[part], plan, self._cache_path(folders[part], runtime_cache))
                for part, plan in plans.items()
            }
            self._prepare()

    def _read(self, folder: Path, part: str, description: Description) -> bytes:
        """One of the serialised engines, with the inputs and outputs that this package needs."""
        plan, side = read_engine(folder, description), self.image_size // DOWNSCALED[part]
        scores, maps = OUTPUTS[part]
        fault = bindings_fault(
            description.bindings,
            {
                INPUT_NAME: ("UInt8", (self.image_size, self.image_size, self.image_channels)),
                scores: ("Float", ()),
                maps: ("Float", (side, side)),
            },
        )
        if not fault and description.batch[0] != self._smallest:
            fault = f"takes {description.batch[0]} images or more, and its network {self._smallest}"
        if fault:
            raise EngineError(f"{folder / ENGINE_FILE}: {fault}; build the engine again")
        return plan

    def _deserialize(self, folder: Path, plan: bytes) -> Any:
        """The library's engine."""
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            reason = diagnosis(self._library, self._runtime, plan) or "the library gives no diagnosis"
            said = f" ({self._logger.first})" if self._logger.first else ""
            raise EngineError(f"{folder / ENGINE_FILE}: {self.flavour.title} refuses the engine, {reason}{said}")
        return engine

    def _cache_path(self, folder: Path, place: Path | bool | None) -> Path | None:
        """Where the compiled kernels for this GPU are kept; None: nowhere."""
        if not self.flavour.runtime_cache or place is False:
            return None
        of_screen = f" {SCREEN}" if folder.name == SCREEN_FOLDER else ""
        name = f"{self._device.name} {self._library.__version__}{of_screen}"
        file = RUNTIME_CACHE.format(device=hashlib.sha256(name.encode()).hexdigest()[:12])
        return (place if isinstance(place, Path) else folder) / file

    def _load(self, folder: Path, plan: bytes, cache_file: Path | None) -> Weights:
        """A serialised engine, with TensorRT-RTX's runtime configuration and cache where the flavour has them."""
        engine = self._deserialize(folder, plan)
        if not self.flavour.runtime_cache:
            return Weights(engine)
        config = engine.create_runtime_config()
        if self._cuda_graph:  # it compiles kernels while it runs, and knows itself when a capture holds
            config.cuda_graph_strategy = self._library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        cache = config.create_runtime_cache()
        if cache_file is not None and cache_file.is_file():
            # One for another driver is refused by the library, and written anew when the engine is closed.
            cache.deserialize(cache_file.read_bytes())
        config.set_runtime_cache(cache)
        return Weights(engine, config, cache, cache_file)

    def _prepare(self) -> None:
        """Contexts, buffers and graphs of this object alone."""
        side = self.image_size
        images = self._device.staging((self.batch, side, side, self.image_channels), np.uint8)
        images.host[:] = 0  # what fills a batch up
        self._programs = {
            part: Program(
                self.name,
                weights,
                self._device,
                images,
                OUTPUTS[part],
                side // DOWNSCALED[part],
                self._smallest,
                self._cuda_graph,
                self._logger,
            )
            for part, weights in self._weights.items()
        }

    def share(self) -> Self:
        """Another engine, to run beside this one: the same weights, its own contexts, stream and buffers."""
        with self._used_alone():
            other = object.__new__(type(self))
            other.__dict__.update(self.__dict__)
            other._belong_to_this_process()
            other._device = self._device.another_stream()
            other._keeps_caches = False  # the first one writes them
            with other._device.active():
                other._prepare()
        return other

    def check(self, images: Any) -> Any:
        """See `Engine.check`; images on a GPU stay there."""
        self.check_gpu(images)
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

    def run(
        self, images: NDArray[np.uint8] | DeviceImages | DeviceRows
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        with self._device.active():
            return self._programs[NETWORK].run(images)

    def screen(self, images: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.screen`."""
        if SCREEN not in self._programs:
            return super().screen(images)
        with self._device.active():
            return self.in_parts(self._programs[SCREEN].run, images)

    def gathered(self, images: Any, rows: NDArray[np.integer]) -> Any:
        """See `Engine.gathered`; images on the GPU are gathered there, where they are run."""
        return DeviceRows.of(images, rows) if isinstance(images, DeviceImages) else super().gathered(images, rows)

    def release(self) -> None:
        """See `Engine.release`; keeps the compiled kernels for the next start."""
        with self._device.active():
            for program in self._programs.values():
                program.close()
                weights = program.weights
                if self._keeps_caches and weights.cache_file is not None:
                    # A package that cannot be written to starts slowly each time, and runs as well.
                    with contextlib.suppress(OSError):
                        replace_file(weights.cache_file, bytes(weights.runtime_cache.serialize()))
            self._programs = {}


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
