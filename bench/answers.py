"""Asking an engine: one call from camera bytes to scores and maps in host memory, and its answers to many images."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Clock = Callable[[], int]

# Enough that the same copy never comes twice, even of a small image.
MARKED_BYTES = 8


class SupportsInfer(Protocol):
    """What the bench needs of an engine: uint8 images (N, S, S, C) to `.scores` (N,) and `.maps` (N, S, S)."""

    def infer(self, images: NDArray[np.uint8], /) -> Any: ...


@dataclass(frozen=True)
class Answers:
    """Scores (N,) and maps (N, S, S) of N images, as the engine gave them."""

    scores: NDArray[Any]
    maps: NDArray[Any]


def ask(engine: SupportsInfer, images: NDArray[np.uint8]) -> Answers:
    """One call, its answer copied: what an engine writes into its buffers afterwards does not reach the copy."""
    return timed_ask(engine, images)[1]


def timed_ask(
    engine: SupportsInfer, images: NDArray[np.uint8], clock: Clock = time.perf_counter_ns
) -> tuple[int, Answers]:
    """One call and its latency in nanoseconds.

    The clock stops when scores and maps are arrays in host memory, which also waits for a GPU. The copy comes right
    after it: an engine that returns before its work is done hands over an unfinished answer, and is found out.
    """
    start = clock()
    answers = ask_without_copy(engine, images)
    elapsed = clock() - start
    return elapsed, Answers(np.array(answers.scores), np.array(answers.maps))


def ask_without_copy(engine: SupportsInfer, images: NDArray[np.uint8]) -> Answers:
    """One call; its answer as arrays in host memory, which may be the engine's own buffers."""
    detections = engine.infer(images)
    return Answers(_in_host_memory(detections.scores), _in_host_memory(detections.maps))


def answers_to(
    engine: SupportsInfer, images: NDArray[np.uint8], batch: int, on_batch: Callable[[], None] = lambda: None
) -> Answers:
    """Answers to all images, asked `batch` at a time."""
    parts = []
    for start in range(0, len(images), batch):
        parts.append(ask(engine, images[start : start + batch]))
        on_batch()
    return Answers(np.concatenate([p.scores for p in parts]), np.concatenate([p.maps for p in parts]))


def copied(detections: Any) -> Answers:
    """A copy of what an engine handed out, in host memory."""
    return Answers(np.array(_in_host_memory(detections.scores)), np.array(_in_host_memory(detections.maps)))


def marked_copies(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Copies of images with the lowest bit of a few random bytes of each flipped.

    For a detector they are the same images; an engine that looks answers up by content has never seen them.
    """
    copies = np.ascontiguousarray(images).copy()
    flat = copies.reshape(len(copies), -1)
    flat[np.arange(len(flat))[:, None], rng.integers(flat.shape[1], size=(len(flat), MARKED_BYTES))] ^= 1
    return copies


def _in_host_memory(values: Any) -> NDArray[Any]:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
