"""A stream of images through OpenVINO: asynchronous requests of one image each, of screen and network side by side.

On a CPU, several images at a time on a core each take less time than a batch of them on all cores.
"""

import queue
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine.early_exit import Screening
from prn_fast.engine.openvino_graph import Graph, refusals_named
from prn_fast.engine.streams import Answers, Stream

# In requests: images under way or waiting before an answer is taken.
WAITING = 2
# In requests: most that may be held, even if answered, behind one that takes long.
HELD = 8


@dataclass
class _Batch:
    """A batch on its way, and its answers as they come.

    Attributes:
        left: how many images have no answer yet.
    """

    images: NDArray[np.uint8]
    answers: Answers
    left: int


@dataclass(frozen=True)
class _Job:
    """One image of a batch, for one of the two graphs."""

    batch: _Batch
    row: int
    screens: bool


class RequestStream(Stream):
    """An image that stays after the screen waits for a request of the network, while the screen goes on with the next.

    Args:
        network: the whole network; None where the screen is alone.
        screen: None where all images run whole.
        screening: of the engine.
        on_close: takes the stream, once nothing is under way, for another use.
    """

    def __init__(
        self,
        network: Graph | None,
        screen: Graph | None,
        screening: Screening | None,
        on_close: Callable[["RequestStream"], None],
    ) -> None:
        self._screening, self._on_close = screening, on_close
        self._graphs = {True: screen, False: network}
        self._idle = {screens: graph.requests() if graph else [] for screens, graph in self._graphs.items()}
        self._ended: queue.SimpleQueue[tuple[_Job, Any]] = queue.SimpleQueue()
        for request in (*self._idle[True], *self._idle[False]):
            # Called in a thread of OpenVINO's: it says no more than which one has ended.
            request.set_callback(lambda job, request=request: self._ended.put((job, request)), None)
        self._todo: dict[bool, deque[_Job]] = {True: deque(), False: deque()}
        self._requests = max(map(len, self._idle.values()))
        self._running = 0
        self._batches: deque[_Batch] = deque()

    def put(self, images: NDArray[np.uint8]) -> None:
        """See `Stream`."""
        count, side = images.shape[:2]
        answers = np.empty(count, np.float32), np.empty((count, side, side), np.float32), np.zeros(count, bool)
        batch = _Batch(images, answers, count)
        self._batches.append(batch)
        screens = self._graphs[True] is not None
        self._todo[screens].extend(_Job(batch, row, screens) for row in range(count))
        self._start()

    def take(self) -> Answers:
        """See `Stream`."""
        while self._batches[0].left:
            self._settle(*self._ended.get())
        return self._batches.popleft().answers

    def wait(self) -> bool:
        """See `Stream`: to take a batch before another is put would let all requests but the slowest run dry."""
        while self._batches[0].left and self.full:
            self._settle(*self._ended.get())
        return not self._batches[0].left

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def full(self) -> bool:
        """See `Stream`: enough waits to keep all requests at work, or much is held up behind the oldest batch."""
        return (
            sum(batch.left for batch in self._batches) >= WAITING * self._requests
            or sum(len(batch.images) for batch in self._batches) >= HELD * self._requests
        )

    def run_each(self, images: NDArray[np.uint8]) -> None:
        """Run one image (1, S, S, C) through every request, so that none has its first run when it matters."""
        for request in (*self._idle[True], *self._idle[False]):
            request.infer({0: images}, share_inputs=True)

    def close(self) -> None:
        """See `Stream`."""
        for jobs in self._todo.values():
            jobs.clear()
        while self._running:
            self._settled(*self._ended.get())
        self._batches.clear()
        self._on_close(self)

    def _start(self) -> None:
        """Start what has a request; what stays after the screen first, since its batch waits for it."""
        for screens in (False, True):
            while self._todo[screens] and self._idle[screens]:
                job, graph = self._todo[screens].popleft(), self._graphs[screens]
                assert graph is not None
                with refusals_named(graph.source):
                    self._idle[screens][-1].start_async(
                        {0: job.batch.images[job.row : job.row + 1]}, job, share_inputs=True
                    )
                self._idle[screens].pop()
                self._running += 1

    def _settled(self, job: _Job, request: Any) -> None:
        self._running -= 1
        self._idle[job.screens].append(request)

    def _settle(self, job: _Job, request: Any) -> None:
        """Take the answer of a request that has ended, and start what may follow."""
        self._settled(job, request)
        graph = self._graphs[job.screens]
        assert graph is not None
        with refusals_named(graph.source):
            request.wait()  # raises what went wrong in it
            found = graph.answer(request)
        scores, maps, exited = job.batch.answers
        row, goes_on = slice(job.row, job.row + 1), False
        if job.screens:
            assert self._screening is not None
            exited[row] = self._screening.answer(*found, scores[row], maps[row])
            goes_on = not (exited[job.row] or self._screening.alone)
        else:
            scores[row], maps[row] = found
        if goes_on:
            self._todo[False].append(_Job(job.batch, job.row, screens=False))
        else:
            job.batch.left -= 1
        self._start()
