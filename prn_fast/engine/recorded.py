"""Graphs of a network that are recorded on a GPU, and the memory that images pass through to them and back."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prn_fast.engine.cuda_graph import RecordedCall
from prn_fast.errors import EngineError

# One piece is computed while the next is copied in and the one before copied out.
LANES = 2
# The first run compiles kernels and lets cuDNN choose, the second shows that nothing is left to do.
WARM_UP_RUNS = 2

T = TypeVar("T")


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`."""
    return [1 << exponent for exponent in range(most.bit_length())]


def pieces(count: int, sizes: Iterable[int]) -> Iterator[slice]:
    """Cut `count` images into pieces of the given sizes, largest first: 13 = 8 + 4 + 1.

    Raises:
        EngineError: what is left is smaller than each of the sizes.
    """
    start = 0
    ordered = sorted(sizes, reverse=True)
    while start < count:
        size = next((size for size in ordered if size <= count - start), None)
        if size is None:
            raise EngineError(
                f"{count} images do not divide into the recorded sizes {', '.join(map(str, reversed(ordered)))}; "
                "record a graph for 1 image, too"
            )
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


class RecordedGraph(RecordedCall):
    """The network for one number of images as a CUDA graph with static input and outputs.

    Args:
        network: on the device.
        images: (n, S, S, C) uint8 on the device: the static input, read again by every replay.
        stream, pool: as there.
    """

    def __init__(self, network: nn.Module, images: Tensor, stream: torch.cuda.Stream, pool: Any) -> None:
        super().__init__(lambda: network(images), stream, pool, WARM_UP_RUNS)
        self.images = images
        self.scores, self.maps = self.outputs


def pinned(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Host memory that the device reads and writes by itself."""
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)


def is_pinned(array: NDArray[Any]) -> bool:
    """Whether an array lies in such memory, so that nothing need be copied on the way to and from the device."""
    return bool(array.flags.writeable) and torch.from_numpy(array).is_pinned()


def source_of(images: NDArray[np.uint8] | Tensor, staging: Tensor) -> Tensor:
    """Images for a copy to the device: read where they lie if they are there or pinned, else copied to `staging`."""
    if isinstance(images, Tensor):
        return images
    if is_pinned(images):
        return torch.from_numpy(images)
    np.copyto(staging.numpy(), images)
    return staging


class ResultLane:
    """Memory that scores and maps of one piece pass through on their way back to the host; host memory is pinned.

    Args:
        batch: most images of a piece.
        map_side: of the maps.
        device: of the graphs.
    """

    def __init__(self, batch: int, map_side: int, device: torch.device) -> None:
        self.scores = torch.empty(batch, device=device)
        self.maps = torch.empty(batch, map_side, map_side, device=device)
        self.host_scores, self.host_maps = pinned((batch,)), pinned((batch, map_side, map_side))
        self.computed, self.returned = torch.cuda.Event(), torch.cuda.Event()

    def send(
        self,
        graph: RecordedGraph,
        compute: torch.cuda.Stream,
        download: torch.cuda.Stream,
        to: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Start the outputs of a graph, replayed on `compute`, on their way; `returned` tells when they are there.

        Args:
            to: pinned memory for the scores and maps, by default the lane's own.
        """
        count = len(graph.scores)
        to_scores, to_maps = (self.host_scores[:count], self.host_maps[:count]) if to is None else to
        with torch.cuda.stream(compute):
            self.scores[:count].copy_(graph.scores)
            self.maps[:count].copy_(graph.maps)
            self.computed.record()
        with torch.cuda.stream(download):
            self.computed.wait()
            to_scores.copy_(self.scores[:count], non_blocking=True)
            to_maps.copy_(self.maps[:count], non_blocking=True)
            self.returned.record()


class Lane(ResultLane):
    """Memory that one piece passes through on its way to the device and back; host memory is pinned.

    Args:
        images: on the device; pieces have at most as many.
        map_side: of the maps.
    """

    def __init__(self, images: Tensor, map_side: int) -> None:
        super().__init__(len(images), map_side, images.device)
        self.host_images, self.images = pinned(images.shape, torch.uint8), torch.empty_like(images)
        self.arrived = torch.cuda.Event()


class Family:
    """The recorded graphs of one network for several numbers of images, and the lanes to and from them.

    Args:
        network: on the current device; uint8 (n, S, S, C) to scores (n,) and maps (n, map_side, map_side).
        images: (batch, S, S, C) uint8 on the device: the graphs' static input.
        sizes: numbers of images to record; the largest comes first, so that the others fit into its memory.
        map_side: of the maps.
        compute: the stream to record and replay on.
    """

    def __init__(
        self, network: nn.Module, images: Tensor, sizes: Iterable[int], map_side: int, compute: torch.cuda.Stream
    ) -> None:
        self._network = network  # the graphs read its weights
        self._compute = compute
        self._upload, self._download = torch.cuda.Stream(), torch.cuda.Stream()
        self._lanes = [Lane(images, map_side) for _ in range(LANES)]
        self.graphs: dict[int, RecordedGraph] = {}
        pool = None
        for size in sorted(set(sizes), reverse=True):
            self.graphs[size] = RecordedGraph(network, images[:size], compute, pool)
            pool = self.graphs[size].graph.pool()

    def fill(self, images: NDArray[np.uint8] | Tensor, scores: NDArray[np.float32], maps: NDArray[np.float32]) -> None:
        """Write scores and maps of images; while a piece is computed, the next is copied in and the last one out.

        Nothing is copied on the host on the way from images, and to maps, that are pinned; nor do images on the device
        pass through it.
        """
        direct = is_pinned(scores) and is_pinned(maps)

        def submit(lane: Lane, part: slice) -> None:
            self._compute_piece(lane, images[part])
            to = (torch.from_numpy(scores[part]), torch.from_numpy(maps[part])) if direct else None
            lane.send(self.graphs[part.stop - part.start], self._compute, self._download, to)

        def collect(lane: Lane, part: slice) -> None:
            lane.returned.synchronize()
            if not direct:
                count = part.stop - part.start
                scores[part], maps[part] = lane.host_scores[:count].numpy(), lane.host_maps[:count].numpy()

        self._wait_for_caller(images)
        take_turns(list(pieces(len(images), self.graphs)), self._lanes, submit, collect)

    def fill_on_device(self, images: NDArray[np.uint8] | Tensor, scores: Tensor, maps: Tensor) -> None:
        """Put on the current stream that scores (N,) and maps (N, map_side, map_side) on the device are written."""
        caller = torch.cuda.current_stream()

        def submit(lane: Lane, part: slice) -> None:
            self._compute_piece(lane, images[part])
            graph = self.graphs[part.stop - part.start]
            with torch.cuda.stream(self._compute):
                scores[part].copy_(graph.scores)
                maps[part].copy_(graph.maps)
                lane.returned.record()

        # What was allocated for the results may still be in use on the caller's stream.
        self._compute.wait_stream(caller)
        self._wait_for_caller(images)
        take_turns(list(pieces(len(images), self.graphs)), self._lanes, submit, lambda lane, part: None)
        caller.wait_stream(self._compute)

    def _wait_for_caller(self, images: NDArray[np.uint8] | Tensor) -> None:
        if isinstance(images, Tensor):
            self._upload.wait_stream(torch.cuda.current_stream())

    def _compute_piece(self, lane: Lane, images: NDArray[np.uint8] | Tensor) -> None:
        """Start a piece on its way; the graph's outputs are there when the stream `compute` comes to it."""
        count, graph = len(images), self.graphs[len(images)]
        # Free already, unless an earlier call was interrupted, or its results stayed on the device.
        lane.returned.synchronize()
        source = source_of(images, lane.host_images[:count])
        with torch.cuda.stream(self._upload):
            lane.images[:count].copy_(source, non_blocking=True)
            lane.arrived.record()
        with torch.cuda.stream(self._compute):
            lane.arrived.wait()
            graph.images.copy_(lane.images[:count])
            graph.graph.replay()


class RecordedStrip:
    """A strip's way through the network as one CUDA graph: lines in, tile scores and the strip's map out.

    Args:
        network: on the current device; uint8 (S, W, C) to scores (N,) and a map (S, W).
        shape: (S, W, C).
        compute: the stream to record and replay on.
        pool: of memory shared with other graphs of the same stream.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, int, int], compute: torch.cuda.Stream, pool: Any) -> None:
        self._network = network  # the graph reads its weights
        self._compute = compute
        self._lines = torch.zeros(shape, dtype=torch.uint8, device=next(network.parameters()).device)
        self._recorded = RecordedCall(lambda: network(self._lines), compute, pool, WARM_UP_RUNS)
        self._host_lines = pinned(shape, torch.uint8)
        self._host_outputs = [pinned(one.shape) for one in self._recorded.outputs]
        self._returned = torch.cuda.Event()

    def __call__(self, lines: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Tile scores (N,) and the map (S, W) of a strip, in arrays of their own."""
        source = source_of(lines, self._host_lines)
        with torch.cuda.stream(self._compute):
            self._lines.copy_(source, non_blocking=True)
            self._recorded()
            for host, output in zip(self._host_outputs, self._recorded.outputs, strict=True):
                host.copy_(output, non_blocking=True)
            self._returned.record()
        self._returned.synchronize()
        scores, strip_map = (host.numpy().copy() for host in self._host_outputs)
        return scores, strip_map
