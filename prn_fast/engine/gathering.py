"""Early exit on a GPU from recorded graphs: the screen on all images, the network on those that stay, gathered there.

    compute stream    screen 0 | screen 1 | gather 0 | screen 2 | gather 1 | network of what has been gathered | ...
    host                                  ^ how many of piece 0 stay, while screen 1 runs

The graph of the screen also sorts its images, those that stay first, and counts them. Count, scores and maps come back
through pinned memory; the host waits for those of one piece while the next is screened. It then starts one index
kernel, which puts the images that stay behind those of the pieces before. The network runs when there are as many as
its largest graph takes, and at the end.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prn_fast.engine.cuda_graph import RecordedCall
from prn_fast.engine.early_exit import Screening
from prn_fast.engine.recorded import LANES, WARM_UP_RUNS, RecordedGraph, ResultLane, pieces, pinned, source_of
from prn_fast.engine.streams import Answers
from prn_fast.errors import EngineError


class StayingFirst(nn.Module):
    """A screen that also says which images stay.

    uint8 images (n, S, S, C) to screen scores (n,) and maps (n, h, h); the indices of all images, int64 (n,), those
    that stay first and otherwise in order; and how many stay, int64 (1,). An image whose score is not a number stays.

    Args:
        screen: images to scores and maps.
        cut: an image leaves where its score, in float32, lies below it.
    """

    def __init__(self, screen: nn.Module, cut: float) -> None:
        super().__init__()
        self.screen, self.cut = screen, float(np.float32(cut))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See the class."""
        scores, maps = self.screen(images)
        leaves = scores < self.cut
        order = torch.argsort(leaves.to(torch.uint8), stable=True)
        return scores, maps, order, (~leaves).sum().reshape(1)


@dataclass
class ScreenLane:
    """What one piece needs from its upload until its images have been gathered; host memory is pinned."""

    host_images: Tensor
    images: Tensor
    outputs: tuple[Tensor, ...]
    host_outputs: tuple[Tensor, ...]
    order: Tensor
    arrived: Any
    returned: Any
    gathered: Any


class Gathering:
    """Screen and network, recorded, with the images that stay gathered in between.

    Args:
        screen: on the current device; uint8 (n, S, S, C) to scores (n,) and maps (n, h, h).
        network: recorded graphs by their number of images, on the stream `compute`.
        images: (batch, S, S, C) uint8 on the device: the static input of all graphs.
        screening: when images leave.
        compute: the stream to record and replay on.
    """

    def __init__(
        self,
        screen: nn.Module,
        network: Mapping[int, RecordedGraph],
        images: Tensor,
        screening: Screening,
        compute: Any,
    ) -> None:
        self._network, self._images, self._screening = network, images, screening
        self._staying = StayingFirst(screen, screening.cut)  # the graphs read its weights
        self._compute, self._upload, self._download = compute, torch.cuda.Stream(), torch.cuda.Stream()
        self._sizes = sorted(network, reverse=True)
        self._screens: dict[int, RecordedCall] = {}
        pool = None
        for size in self._sizes:
            run = partial(self._staying, images[:size])
            self._screens[size] = RecordedCall(run, compute, pool, WARM_UP_RUNS)
            pool = self._screens[size].graph.pool()
        most = self._sizes[0]
        scores, maps, order, count = self._screens[most].outputs
        self._lanes = [
            ScreenLane(
                host_images=pinned(images[:most].shape, torch.uint8),
                images=torch.empty_like(images[:most]),
                outputs=(torch.empty_like(scores), torch.empty_like(maps), torch.empty_like(count)),
                host_outputs=tuple(pinned(one.shape, one.dtype) for one in (scores, maps, count)),
                order=torch.empty_like(order),
                arrived=torch.cuda.Event(),
                returned=torch.cuda.Event(),
                gathered=torch.cuda.Event(),
            )
            for _ in range(LANES)
        ]
        self._results = [ResultLane(most, images.shape[1], images.device) for _ in range(LANES)]
        # Fewer than `most` wait when a piece of at most as many comes.
        self._waiting = torch.empty((2 * most, *images.shape[1:]), dtype=torch.uint8, device=images.device)

    def answers(self, images: NDArray[np.uint8] | Tensor) -> Answers:
        """Raw scores (N,), maps (N, S, S) and which images left, (N,), of uint8 images (N, S, S, C).

        Raises:
            EngineError: the device counts other images than the host as staying.
        """
        count, side = images.shape[:2]
        answers = np.empty(count, np.float32), np.empty((count, side, side), np.float32), np.zeros(count, bool)
        run = _Run(self, images, answers)
        screened: deque[tuple[ScreenLane, slice]] = deque()
        for number, part in enumerate(pieces(count, self._sizes)):
            if len(screened) == LANES:
                run.gather(*screened.popleft())
            lane = self._lanes[number % LANES]
            self._start_screen(lane, images[part])
            screened.append((lane, part))
        while screened:
            run.gather(*screened.popleft())
        run.end()
        return answers

    def _start_screen(self, lane: ScreenLane, images: NDArray[np.uint8] | Tensor) -> None:
        """Start a piece on its way; `lane.returned` tells when scores, maps and count are in host memory."""
        count = len(images)
        if isinstance(images, Tensor):
            self._upload.wait_stream(torch.cuda.current_stream())
        # The copy from here has ended, unless an earlier call was interrupted.
        lane.returned.synchronize()
        source = source_of(images, lane.host_images[:count])
        with torch.cuda.stream(self._upload):
            lane.gathered.wait()
            lane.images[:count].copy_(source, non_blocking=True)
            lane.arrived.record()
        screen = self._screens[count]
        scores, maps, order, staying = screen.outputs
        with torch.cuda.stream(self._compute):
            lane.arrived.wait()
            self._images[:count].copy_(lane.images[:count])
            screen.graph.replay()
            lane.order[:count].copy_(order)
            for kept, found in zip(lane.outputs, (scores, maps, staying), strict=True):
                kept[: len(found)].copy_(found)
            lane.gathered.record()
        with torch.cuda.stream(self._download):
            lane.gathered.wait()
            for host, kept in zip(lane.host_outputs, lane.outputs, strict=True):
                host[: min(count, len(host))].copy_(kept[: min(count, len(kept))], non_blocking=True)
            lane.returned.record()


class _Run:
    """One call of `Gathering.answers`: what has been gathered, and what the network has under way."""

    def __init__(self, gathering: Gathering, images: NDArray[np.uint8] | Tensor, answers: Answers) -> None:
        self._owner, self._images = gathering, images
        self._scores, self._maps, self._exited = answers
        self._rows: list[int] = []
        self._under_way: deque[tuple[ResultLane, list[int]]] = deque()
        self._started = 0

    def gather(self, lane: ScreenLane, part: slice) -> None:
        """Take the screen's answers to a piece, put what stays behind the images that wait, and run a full batch."""
        owner = self._owner
        lane.returned.synchronize()
        count = part.stop - part.start
        scores, maps, staying = (host.numpy() for host in lane.host_outputs)
        self._exited[part] = owner._screening.answer(scores[:count], maps[:count], self._scores[part], self._maps[part])
        rows = part.start + np.flatnonzero(~self._exited[part])
        if len(rows) != staying[0]:
            left = count - staying[0], count - len(rows)
            raise EngineError(
                f"the GPU lets {left[0]} of {count} images leave early, and by their scores {left[1]} do; do not use "
                "this engine, or open it with early_exit=False"
            )
        if len(rows):
            start = len(self._rows)
            with torch.cuda.stream(owner._compute):
                gathered = owner._waiting[start : start + len(rows)]
                torch.index_select(lane.images[:count], 0, lane.order[: len(rows)], out=gathered)
                lane.gathered.record()
            self._rows += rows.tolist()
        most = owner._sizes[0]
        if len(self._rows) >= most:
            self._start(most)
            rest = len(self._rows) - most
            if rest:
                with torch.cuda.stream(owner._compute):
                    owner._waiting[:rest].copy_(owner._waiting[most : most + rest])
            self._rows = self._rows[most:]

    def end(self) -> None:
        """Run what still waits, and take all answers."""
        self._start(len(self._rows))
        while self._under_way:
            self._take()

    def _start(self, count: int) -> None:
        """Start the network on the first of the images that wait."""
        owner = self._owner
        for part in pieces(count, owner._sizes):
            if len(self._under_way) == LANES:
                self._take()
            lane, graph = owner._results[self._started % LANES], owner._network[part.stop - part.start]
            with torch.cuda.stream(owner._compute):
                graph.images.copy_(owner._waiting[part])
                graph()
            lane.send(graph, owner._compute, owner._download)
            self._under_way.append((lane, self._rows[part]))
            self._started += 1

    def _take(self) -> None:
        """Take the network's oldest answers."""
        lane, rows = self._under_way.popleft()
        lane.returned.synchronize()
        self._scores[rows] = lane.host_scores[: len(rows)].numpy()
        self._maps[rows] = lane.host_maps[: len(rows)].numpy()
