"""The engine for NVIDIA GPUs: PRN with the fused operations, recorded in CUDA graphs and replayed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prn_fast.engine.base import Engine, StripDetections, Thresholds
from prn_fast.engine.device import find_device
from prn_fast.engine.early_exit import Screening
from prn_fast.engine.float32 import float32_arithmetic
from prn_fast.engine.gathering import Gathering
from prn_fast.engine.images import gpu_of
from prn_fast.engine.recorded import Family, RecordedGraph, RecordedStrip, pinned, powers_of_two
from prn_fast.engine.streams import Answers
from prn_fast.errors import EngineError
from prn_fast.kernels import FUSED
from prn_fast.kernels.tiles import tile_for
from prn_fast.model.config import SCREEN_STRIDE
from prn_fast.model.engine_graph import EngineGraph, ScreenGraph
from prn_fast.model.prn import PRN
from prn_fast.model.strip_graph import StripGraph

if TYPE_CHECKING:
    from prn_fast.package import Package

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@contextmanager
def convolution_settings(tune: bool) -> Iterator[None]:
    """Algorithms of convolutions timed or not, and float32 that is float32, not TF32."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    with float32_arithmetic():
        cudnn.benchmark = tune
        try:
            yield
        finally:
            cudnn.benchmark = before


class FusedEngine(Engine):
    """PRN with Triton kernels, folded batch norm, channels-last, in half precision, bfloat16 or float32.

    A batch is run in pieces of powers of two (13 = 8 + 4 + 1), each a CUDA graph of its exact size. While one piece is
    computed, the next is copied to the device and the one before it back, each on a stream of its own.

    All graphs are recorded when the engine is opened, which takes seconds to minutes; from then on no inference
    compiles, tunes or allocates anything on the device. The exception are strips (`infer_strip`), whose graph is
    recorded at the first one of its width and overlap.

    Images may lie on the engine's GPU, and results may stay there (`infer_on_gpu`). In host memory that is pinned,
    images are read where they lie.

    Args:
        package: trained; or its network.
        precision: "fp16", "bf16" or "fp32" (true float32, no TF32).
        batch: most images in one graph.
        device: "cuda", or "cuda:1" and so on.
        tune: time cuDNN's convolution algorithms and the project's for every size while the engine is opened
            (`torch.backends.cudnn.benchmark`) and keep the fastest. The choice may differ from one opening to the next,
            and with it the last bits of the result; without it cuDNN's rules of thumb and the project's order decide,
            always alike. cuDNN's rules of thumb also choose among its convolutions that add and clamp by themselves.
        sizes: numbers of images to record graphs for, by default the powers of two up to `batch`. Fewer of them open
            sooner; without 1 among them, a number of images that they do not add up to is an EngineError.
        early_exit, screen_only: as for `open_engine`; with a screen there are as many graphs of it as of the network.
    Attributes:
        graphs: the recorded graphs by their number of images.
    Raises:
        EngineError: no usable CUDA device or no Triton; a device that cannot do this precision, or has too little
            memory for this batch.
    """

    scores_carry_nan: ClassVar[bool] = True

    def __init__(
        self,
        package: "Package | PRN",
        precision: str = "fp16",
        batch: int = 32,
        device: str = "cuda",
        tune: bool = True,
        sizes: Sequence[int] | None = None,
        early_exit: bool = False,
        screen_only: bool = False,
    ) -> None:
        config = package.config
        dtype = DTYPES[precision]
        self.device = require_device(device, dtype)
        super().__init__(
            f"fused:{precision}",
            config.image_size,
            config.image_channels,
            batch,
            gpu=self.device.index,
            thresholds=Thresholds() if isinstance(package, PRN) else Thresholds.of(package),
            screening=None
            if isinstance(package, PRN)
            else Screening.of(package, early_exit=early_exit, screen_only=screen_only),
        )
        sizes = powers_of_two(batch) if sizes is None else sizes
        if not sizes or not all(1 <= size <= batch for size in sizes):
            raise EngineError(f"{self.name}: sizes must be one or more numbers from 1 to the batch, {batch}")
        model = package if isinstance(package, PRN) else package.model()
        try:
            with torch.cuda.device(self.device):
                graph = EngineGraph(model, FUSED, dtype, torch.channels_last).to(self.device)
                screen = None
                if self.screening is not None and not isinstance(package, PRN):
                    screen = ScreenGraph(graph, package.screen())
                self._open(graph, screen, tune, sizes)
        except torch.OutOfMemoryError:
            raise EngineError(
                f"{self.name}: {device} has too little free memory for {batch} images at a time; choose a smaller batch"
            ) from None

    def _open(self, network: EngineGraph, screen: ScreenGraph | None, tune: bool, sizes: Sequence[int]) -> None:
        """Record the graphs of the network, and those of the screen; both read the same static input."""
        shape = self.batch, self.image_size, self.image_size, self.image_channels
        images = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        self._network, self._tune, self._compute = network, tune, torch.cuda.Stream()
        self._families: dict[str, Family] = {}
        self._strips: dict[tuple[int, int], RecordedStrip] = {}
        self._results: tuple[Tensor, Tensor] | None = None
        self._gathering: Gathering | None = None
        # Tiles that leave early would have to be told on the host.
        self.takes_strips = screen is None
        with convolution_settings(tune):
            if self.screening is None or not self.screening.alone:
                self._families["network"] = Family(network, images, sizes, self.image_size, self._compute)
            if screen is not None and self.screening is not None:
                if self.screening.alone:
                    side = self.image_size // SCREEN_STRIDE
                    self._families["screen"] = Family(screen, images, sizes, side, self._compute)
                else:
                    self._gathering = Gathering(screen, self.graphs, images, self.screening, self._compute)

    @property
    def graphs(self) -> dict[int, RecordedGraph]:
        """See the class."""
        return self._families["network"].graphs

    def check(self, images: Any) -> Any:
        """See `Engine.check`; images on a GPU stay there."""
        self.check_gpu(images)
        if gpu_of(images) is None:
            return super().check(images)
        on_device = images.detach() if isinstance(images, Tensor) else torch.from_dlpack(images)
        self.check_shape(on_device)
        return on_device

    def answers(self, images: Any) -> Answers:
        """See `Engine.answers`; with early exit, images that stay are gathered on the device."""
        if self._gathering is None:
            return super().answers(images)
        with torch.cuda.device(self.device):
            return self._gathering.answers(images)

    def prepare(self, images: NDArray[np.uint8]) -> None:
        """See `Engine.prepare`: all was recorded when the engine was opened."""

    def infer_on_gpu(self, images: Any) -> tuple[Tensor, Tensor]:
        """Raw scores (N,) and maps (N, S, S) of images, as `infer_whole` computes them, left on the engine's GPU.

        The tensors are the caller's, float32, and ready on the current stream: nothing here waits for them. So
        nothing is checked: the score of a map that holds a NaN is NaN, and must not be taken for good.

        Args:
            images: as for `infer`; on the GPU or in pinned memory they must stay as they are until the GPU is through.
        Raises:
            EngineError: as `infer`, but for an output that is not finite.
        """
        with self._used_alone(), torch.cuda.device(self.device):
            self.require_network()
            checked = self.check(images)
            scores = torch.empty(len(checked), device=self.device)
            maps = torch.empty(len(checked), self.image_size, self.image_size, device=self.device)
            self._families["network"].fill_on_device(checked, scores, maps)
        return scores, maps

    def lent(self, images: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.lent`; the GPU writes to these arrays by itself."""
        count = len(images)
        if self._results is None or len(self._results[0]) < count:
            count = max(count, self.batch)
            self._results = pinned((count,)), pinned((count, self.image_size, self.image_size))
        scores, maps = (one[: len(images)].numpy() for one in self._results)
        self.fill(images, scores, maps)
        return scores, maps

    def strip_answers(self, strip: NDArray[np.uint8], overlap: int) -> StripDetections:
        """See `Engine.strip_answers`."""
        key = strip.shape[1], overlap
        with torch.cuda.device(self.device):
            if key not in self._strips:
                graph = StripGraph(self._network, strip.shape[1], overlap, self.batch)
                pool = self.graphs[max(self.graphs)].graph.pool()
                with convolution_settings(self._tune):
                    self._strips[key] = RecordedStrip(graph, strip.shape, self._compute, pool)
            return StripDetections(*self._strips[key](strip))

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        return self._run("network", self.image_size, images)

    def screen(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.screen`."""
        return self._run("screen", self.image_size // SCREEN_STRIDE, images)

    def _run(
        self, family: str, side: int, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        scores, maps = np.empty(len(images), np.float32), np.empty((len(images), side, side), np.float32)
        with torch.cuda.device(self.device):
            self._families[family].fill(images, scores, maps)
        return scores, maps

    def fill(self, images: NDArray[np.uint8], scores: NDArray[np.float32], maps: NDArray[np.float32]) -> None:
        """See `Engine.fill`."""
        with torch.cuda.device(self.device):
            self._families["network"].fill(images, scores, maps)

    def release(self) -> None:
        """See `Engine.release`."""
        torch.cuda.synchronize(self.device)
        self._families.clear()
        self._strips.clear()
        self._results = self._gathering = None


def require_device(name: str, dtype: torch.dtype) -> torch.device:
    """A CUDA device by its name, with its index; an EngineError, in one line, where the fused engine cannot run."""
    if name == "cpu" or not torch.cuda.is_available():
        raise EngineError(f"the fused engine needs a CUDA device, and {name!r} is none that PyTorch can use here")
    device = find_device(name)
    if find_spec("triton") is None:
        raise EngineError("Triton is not installed: pip install 'prn-fast[triton]'")
    try:
        tile_for("distance", torch.cuda.get_device_capability(device), dtype)
    except RuntimeError as error:
        raise EngineError(f"the fused engine cannot run on {device}: {error}") from None
    return device
