"""The engine for NVIDIA GPUs: PRN with the fused operations, recorded in CUDA graphs and replayed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prn_fast.engine.base import Engine
from prn_fast.errors import EngineError
from prn_fast.kernels import FUSED
from prn_fast.kernels.tiles import tile_for
from prn_fast.model.engine_graph import EngineGraph
from prn_fast.model.prn import PRN

if TYPE_CHECKING:
    from prn_fast.package import Package

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# One piece is computed while the next is copied in and the one before copied out.
LANES = 2
# The first run compiles kernels and lets cuDNN choose, the second shows that nothing is left to do.
WARM_UP_RUNS = 2

T = TypeVar("T")


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`."""
    return [1 << exponent for exponent in range(most.bit_length())]


def pieces(count: int, most: int) -> Iterator[slice]:
    """Cut `count` images into pieces of powers of two not above `most`, largest first: 13 = 8 + 4 + 1."""
    start = 0
    while start < count:
        size = powers_of_two(min(most, count - start))[-1]
        yield slice(start, start + size)
        start += size


def take_turns(
    parts: Iterable[slice], lanes: Sequence[T], submit: Callable[[T, slice], None], collect: Callable[[T, slice], None]
) -> None:
    """Submit each part to the next lane in turn, after collecting what that lane still has; collect all, in order."""
    waiting: list[tuple[T, slice]] = []
    for number, part in enumerate(parts):
        if len(waiting) == len(lanes):
            collect(*waiting.pop(0))
        lane = lanes[number % len(lanes)]
        submit(lane, part)
        waiting.append((lane, part))
    for lane, part in waiting:
        collect(lane, part)


@contextmanager
def convolution_settings(tune: bool) -> Iterator[None]:
    """cuDNN timing its algorithms or not, and float32 that is float32, not TF32."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.allow_tf32
    cudnn.benchmark, cudnn.allow_tf32 = tune, False
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32 = before


class RecordedGraph:
    """The network for one number of images as a CUDA graph with static input and outputs.

    Args:
        network: on the device.
        images: (n, S, S, C) uint8 on the device: the static input, read again by every replay.
        stream: to record on.
        pool: of memory shared with other graphs of the same stream; outputs hold until any of them is replayed.
    """

    def __init__(self, network: EngineGraph, images: Tensor, stream: torch.cuda.Stream, pool: Any) -> None:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                network(images)
        stream.synchronize()
        self.images = images
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self.scores, self.maps = network(images)


@dataclass
class Lane:
    """Memory that one piece passes through on its way to the device and back; host memory is pinned."""

    host_images: Tensor
    images: Tensor
    scores: Tensor
    maps: Tensor
    host_scores: Tensor
    host_maps: Tensor
    arrived: torch.cuda.Event = field(default_factory=torch.cuda.Event)
    computed: torch.cuda.Event = field(default_factory=torch.cuda.Event)
    returned: torch.cuda.Event = field(default_factory=torch.cuda.Event)

    @classmethod
    def allocate(cls, batch: int, side: int, channels: int) -> "Lane":
        """A lane for up to `batch` images on the current device."""
        images = torch.empty(batch, side, side, channels, dtype=torch.uint8, pin_memory=True)
        scores = torch.empty(batch, pin_memory=True)
        maps = torch.empty(batch, side, side, pin_memory=True)
        return cls(
            host_images=images,
            images=torch.empty(images.shape, dtype=torch.uint8, device="cuda"),
            scores=torch.empty(scores.shape, device="cuda"),
            maps=torch.empty(maps.shape, device="cuda"),
            host_scores=scores,
            host_maps=maps,
        )


class FusedEngine(Engine):
    """PRN with Triton kernels, folded batch norm, channels-last, in half precision, bfloat16 or float32.

    A batch is run in pieces of powers of two (13 = 8 + 4 + 1), each a CUDA graph of its exact size. While one piece is
    computed, the next is copied to the device and the one before it back, each on a stream of its own.

    All graphs are recorded when the engine is opened, which takes seconds to minutes; from then on no inference
    compiles, tunes or allocates anything on the device.

    Args:
        package: trained; or its network.
        precision: "fp16", "bf16" or "fp32" (true float32, no TF32).
        batch: most images in one graph.
        device: "cuda", or "cuda:1" and so on.
        tune: let cuDNN time its convolution algorithms for every size while the engine is opened
            (`torch.backends.cudnn.benchmark`) and keep the fastest. The choice may differ from one opening to the next,
            and with it the last bits of the result; without it cuDNN's rules of thumb decide, always alike.
    Attributes:
        graphs: the recorded graphs by their number of images.
    Raises:
        EngineError: no usable CUDA device or no Triton; a device that cannot do this precision, or has too little
            memory for this batch.
    """

    def __init__(
        self,
        package: "Package | PRN",
        precision: str = "fp16",
        batch: int = 32,
        device: str = "cuda",
        tune: bool = True,
    ) -> None:
        config = package.config
        super().__init__(f"fused:{precision}", config.image_size, config.image_channels, batch)
        dtype = DTYPES[precision]
        require_device(device, dtype)
        self.device = torch.device(device)
        model = package if isinstance(package, PRN) else package.model()
        try:
            with torch.cuda.device(self.device):
                self._open(EngineGraph(model, FUSED, dtype, torch.channels_last).to(self.device), tune)
        except torch.OutOfMemoryError:
            raise EngineError(
                f"{self.name}: {device} has too little free memory for {batch} images at a time; choose a smaller batch"
            ) from None

    def _open(self, network: EngineGraph, tune: bool) -> None:
        """Record the graphs, the largest first: the others then fit into its memory."""
        self._upload, self._compute, self._download = (torch.cuda.Stream() for _ in range(3))
        self._lanes = [Lane.allocate(self.batch, self.image_size, self.image_channels) for _ in range(LANES)]
        images = torch.zeros_like(self._lanes[0].images)
        self.graphs: dict[int, RecordedGraph] = {}
        pool = None
        with convolution_settings(tune):
            for size in reversed(powers_of_two(self.batch)):
                self.graphs[size] = RecordedGraph(network, images[:size], self._compute, pool)
                pool = self.graphs[size].graph.pool()
        # The graphs read its weights.
        self._network: EngineGraph | None = network

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        scores = np.empty(len(images), np.float32)
        maps = np.empty((len(images), self.image_size, self.image_size), np.float32)
        self.fill(images, scores, maps)
        return scores, maps

    def fill(self, images: NDArray[np.uint8], scores: NDArray[np.float32], maps: NDArray[np.float32]) -> None:
        """See `Engine.fill`."""
        if self._network is None:
            raise EngineError(f"{self.name} is closed; open it again")

        def submit(lane: Lane, part: slice) -> None:
            self._submit(lane, images[part])

        def collect(lane: Lane, part: slice) -> None:
            lane.returned.synchronize()
            count = part.stop - part.start
            scores[part], maps[part] = lane.host_scores[:count].numpy(), lane.host_maps[:count].numpy()

        with torch.cuda.device(self.device):
            take_turns(pieces(len(images), self.batch), self._lanes, submit, collect)

    def _submit(self, lane: Lane, images: NDArray[np.uint8]) -> None:
        """Start a piece on its way; `lane.returned` tells when its results are in host memory."""
        count, graph = len(images), self.graphs[len(images)]
        # Free already, unless an earlier call was interrupted.
        lane.returned.synchronize()
        np.copyto(lane.host_images[:count].numpy(), images)
        with torch.cuda.stream(self._upload):
            lane.images[:count].copy_(lane.host_images[:count], non_blocking=True)
            lane.arrived.record()
        with torch.cuda.stream(self._compute):
            lane.arrived.wait()
            graph.images.copy_(lane.images[:count])
            graph.graph.replay()
            lane.scores[:count].copy_(graph.scores)
            lane.maps[:count].copy_(graph.maps)
            lane.computed.record()
        with torch.cuda.stream(self._download):
            lane.computed.wait()
            lane.host_scores[:count].copy_(lane.scores[:count], non_blocking=True)
            lane.host_maps[:count].copy_(lane.maps[:count], non_blocking=True)
            lane.returned.record()

    def close(self) -> None:
        """See `Engine.close`."""
        if self._network is not None:
            torch.cuda.synchronize(self.device)
        self.graphs.clear()
        self._lanes.clear()
        self._network = None


def require_device(device: str, dtype: torch.dtype) -> None:
    """Raise EngineError, in one line, where the fused engine cannot run."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device not in ("cuda", *(f"cuda:{index}" for index in range(count))) or count == 0:
        raise EngineError(
            f"the fused engine needs a CUDA device; PyTorch sees {count} of them here, and {device!r} was asked for"
        )
    if find_spec("triton") is None:
        raise EngineError("Triton is not installed: pip install 'prn-fast[triton]'")
    try:
        tile_for("distance", torch.cuda.get_device_capability(device), dtype)
    except RuntimeError as error:
        raise EngineError(f"the fused engine cannot run on {device}: {error}") from None
