"""Asking an engine: one call from camera bytes to scores and maps in host memory, and its answers to many images."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prn_fast.bench.machine.clock import Clock
from prn_fast.engine.base import Detections


class SupportsInfer(Protocol):
    """What the bench needs of an engine: uint8 images (N, S, S, C) to `.raw_scores` (N,) and `.maps` (N, S, S)."""

    def infer(self, images: NDArray[np.uint8], /) -> Any: ...


def ask(engine: SupportsInfer, images: NDArray[np.uint8]) -> Detections:
    """One call, its answer copied: what an engine writes into its buffers afterwards does not reach the copy."""
    return timed_ask(engine, images)[1]


def timed_ask(
    engine: SupportsInfer, images: NDArray[np.uint8], clock: Clock = time.perf_counter_ns
) -> tuple[int, Detections]:
    """One call and its latency in nanoseconds.

    The clock stops when scores and maps are arrays in host memory, which also waits for a GPU. The copy comes right
    after it: an engine that returns before its work is done hands over an unfinished answer, and is found out.
    """
    start = clock()
    answers = ask_without_copy(engine, images)
    elapsed = clock() - start
    return elapsed, copied(answers)


def ask_without_copy(engine: SupportsInfer, images: NDArray[np.uint8]) -> Detections:
    """One call; its answer as arrays in host memory, which may be the engine's own buffers."""
    return _arrays(engine.infer(images), _in_host_memory)


def ask_many(engine: SupportsInfer, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Detections]:
    """As `ask_without_copy` for one batch after the other, as a stream where the engine has `infer_many`."""
    stream = engine.infer_many(batches) if hasattr(engine, "infer_many") else map(engine.infer, batches)
    return (_arrays(detections, _in_host_memory) for detections in stream)


def answers_to(
    engine: SupportsInfer, images: NDArray[np.uint8], batch: int, on_batch: Callable[[], None] = lambda: None
) -> Detections:
    """Answers to all images, asked `batch` at a time."""
    parts = []
    for start in range(0, len(images), batch):
        parts.append(ask(engine, images[start : start + batch]))
        on_batch()
    return Detections(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(Detections)))


def copied(detections: Any) -> Detections:
    """A copy of what an engine handed out, in host memory."""
    return _arrays(detections, lambda values: np.array(_in_host_memory(values)))


def _arrays(detections: Any, take: Callable[[Any], NDArray[Any]]) -> Detections:
    return Detections(*(take(getattr(detections, one.name)) for one in fields(Detections)))


def _in_host_memory(values: Any) -> NDArray[Any]:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
