"""What threads and forks of this process see of an engine."""

import os
import select
import signal
import threading
from collections.abc import Callable

import numpy as np

from prn_fast.engine import Engine
from tests.small_package import textured_images

THREADS, IMAGES_EACH, ROUNDS = 3, 3, 2


def wrong_answers(engine: Engine, alone: Engine | None = None, threads: int = THREADS, rounds: int = ROUNDS) -> int:
    """How many of the answers that threads got of a shared engine are not those to their own images; each asks twice.

    What is right, one thread asks `alone`, by default the same engine.
    """
    images = np.split(textured_images(threads * IMAGES_EACH, 1, 5), threads)
    expected = [(alone or engine).infer(own).maps for own in images]
    between = np.abs(np.diff(np.concatenate(expected), axis=0)).max(axis=(1, 2))
    assert between.min() > 1e-3, "answers to different images differ, so that a change of places shows"
    start = threading.Barrier(threads)
    found: list[list[np.ndarray]] = [[] for _ in range(threads)]
    errors: list[Exception] = []

    def work(number: int) -> None:
        try:
            start.wait()
            for _ in range(rounds):
                # Kept: a later call must not write into an earlier answer.
                found[number].append(engine.infer(images[number]).maps)
                found[number].append(np.concatenate([one.maps for one in engine.infer_many(images[number])]))
        except Exception as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert errors == []
    return sum(
        int((np.abs(maps - right).max(axis=(1, 2)) > 1e-4).sum())
        for answers, right in zip(found, expected, strict=True)
        for maps in answers
    )


def said_by_a_fork(act: Callable[[], object], seconds: float = 60) -> str:
    """What `act` returns or raises in a forked process, as text; the process is killed if it hangs."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = str(act())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], seconds)
        return os.read(reading, 65536).decode() if ready else "hangs"
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
