"""The lock of the base class: what it keeps apart, and who waits for whom, in threads, signals and forks."""

import contextlib
import os
import queue
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from prn_fast.engine import BACKENDS, Engine, open_engine
from prn_fast.errors import EngineError
from tests.engine.host_gpu import open_on_host
from tests.engine.sharing import IMAGES_EACH, said_by_a_fork, wrong_answers
from tests.small_package import SIDE, textured_images


class OneBuffer(Engine):
    """Keeps its images in one buffer, as a request of a library does, and waits there for another thread to come."""

    def __init__(self, patience: float) -> None:
        super().__init__("one buffer", SIDE, 1, IMAGES_EACH)
        self.buffer = np.empty((IMAGES_EACH, SIDE, SIDE), np.float32)
        self.meeting = threading.Barrier(2, timeout=patience)

    def run(self, images):
        self.buffer[: len(images)] = images[..., 0] / np.float32(255)
        with contextlib.suppress(threading.BrokenBarrierError):
            self.meeting.wait()
        maps = self.buffer[: len(images)]
        return maps.mean(axis=(1, 2)), maps


class OneBufferWithoutLock(OneBuffer):
    """The planted fault."""

    @contextmanager
    def _used_alone(self):
        yield


def test_a_lock_is_what_keeps_the_answers_apart():
    alone = OneBuffer(patience=0.0)
    assert wrong_answers(OneBuffer(patience=0.05), alone) == 0
    assert wrong_answers(OneBufferWithoutLock(patience=10.0), alone, threads=2, rounds=1) > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_backend_has_a_way_past_the_lock(backend):
    """Also those that need a GPU: `infer` and `close` are the base's, which lets one thread at a time at the lanes."""
    runner = BACKENDS[backend].runner()
    for name in ("infer", "close", "_used_alone", "__reduce__"):
        assert getattr(runner, name) is getattr(Engine, name), name


class Waiting(Engine):
    """An inference that begins when told, and ends when told."""

    def __init__(self) -> None:
        super().__init__("waiting", SIDE, 1, 4)
        self.begun, self.may_end, self.released = threading.Event(), threading.Event(), 0

    def run(self, images):
        self.begun.set()
        assert self.may_end.wait(30)
        assert not self.released
        return np.zeros(len(images), np.float32), np.zeros((len(images), SIDE, SIDE), np.float32)

    def release(self):
        self.released += 1


@pytest.fixture
def busy():
    """An engine in the middle of another thread's inference, and what that inference gives."""
    engine, results = Waiting(), queue.SimpleQueue()
    worker = threading.Thread(target=lambda: results.put(engine.infer(textured_images(2, 1, 0))), daemon=True)
    worker.start()
    assert engine.begun.wait(30)
    yield engine, results
    engine.may_end.set()
    worker.join()


def test_close_waits_for_the_inference_under_way(busy):
    engine, results = busy
    closing = threading.Thread(target=engine.close, daemon=True)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    assert not engine.released
    engine.may_end.set()
    closing.join(30)
    assert engine.released == 1
    assert len(results.get(timeout=30).scores) == 2
    with pytest.raises(EngineError, match="waiting is closed; open it again"):
        engine.infer(textured_images(1, 1, 0))
    engine.close()
    assert engine.released == 1


@pytest.mark.parametrize(
    "action", [lambda engine: engine.close(), lambda engine: engine.infer(textured_images(1, 1, 0))]
)
def test_a_signal_handler_is_refused_in_the_middle_of_its_own_thread(action):
    """It would wait for itself; a handler runs as `run` does here, in the thread that holds the engine."""

    class Interrupted(Engine):
        def run(self, images):
            action(self)

    engine = Interrupted("interrupted", SIDE, 1, 1)
    with pytest.raises(EngineError, match="interrupted is in the middle of an inference of this thread"):
        engine.infer(textured_images(1, 1, 0))
    engine.close()


def test_a_lock_that_was_held_at_the_fork_holds_up_nobody(busy):
    engine, _ = busy
    assert "was opened by process" in said_by_a_fork(lambda: engine.infer(textured_images(1, 1, 0)))
    assert said_by_a_fork(engine.close) == "None"
    assert not engine.released


def test_pytorch_in_a_fork_says_that_its_threads_are_gone(built_package_path):
    """It would wait for them for ever."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with open_engine(built_package_path, "optimized") as engine:
            engine.infer(textured_images(1, 1, 0))

        def alone():
            torch.set_num_threads(1)
            with open_engine(built_package_path, "optimized") as engine:
                return len(engine.infer(textured_images(1, 1, 0)).scores)

        said = said_by_a_fork(lambda: open_engine(built_package_path, "optimized"))
        assert "is a fork of one in which PyTorch has run, and has none of its threads; start processes by" in said
        assert said_by_a_fork(alone) == "1"
    finally:
        torch.set_num_threads(before)


def test_tensorrt_engines_that_share_weights_share_no_lock_and_no_end(rtx_package_path):
    images = textured_images(3, 1, 0)
    with open_on_host(rtx_package_path, batch=2) as first:
        second = first.share()
        with first._used_alone():
            other = threading.Thread(target=second.infer, args=(images,), daemon=True)
            other.start()
            other.join(30)
            assert not other.is_alive()
    assert len(second.infer(images).scores) == 3
    with pytest.raises(EngineError, match="is closed"):
        first.share()
    second.close()


def test_an_engine_of_one_thread_stays_on_no_core(built_package_path):
    """Two of them, in processes of their own, would otherwise share the first core."""
    caller, before, seen, ended = threading.get_native_id(), os.sched_getaffinity(0), [], threading.Event()

    def look():
        while not ended.is_set():
            seen.append(os.sched_getaffinity(caller))

    with open_engine(built_package_path, "openvino:fp32", threads=1) as engine:
        images = textured_images(8, 1, seed=1)
        engine.infer(images)
        looking = threading.Thread(target=look)
        looking.start()
        for _ in range(20):
            engine.infer(images)
        ended.set()
        looking.join()
    assert len(seen) > 20
    assert all(cores == before for cores in seen)
