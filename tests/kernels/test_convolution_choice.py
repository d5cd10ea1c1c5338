"""By which formulation a convolution is computed on a GPU: what may, what is fastest, and what is remembered."""

import pytest
import torch

from prn_fast.kernels.convolution_relu import choice, convolution_relu, cudnn
from prn_fast.kernels.convolution_relu.choice import AFTER, CUDNN, TRITON
from tests.kernels.test_convolution_relu import CASES, OnGpu, assert_right, draw


@pytest.fixture
def cudnn_is_sound(monkeypatch):
    monkeypatch.setattr(cudnn, "is_sound", lambda *arguments: True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_one_kernel_is_preferred_and_cudnn_s_before_triton_s(normal, monkeypatch, dtype):
    arguments = draw(normal, CASES["odd"], dtype, True)
    for sound, expected in ((False, [TRITON, AFTER]), (True, [CUDNN, TRITON, AFTER])):
        monkeypatch.setattr(cudnn, "is_sound", lambda *arguments, sound=sound: sound)
        assert choice.sound(*arguments) == expected


def test_what_one_kernel_cannot_do_is_left_to_those_that_can(normal, cudnn_is_sound):
    maps, weight, bias, *rest = draw(normal, CASES["odd"], torch.float16, False)
    assert choice.sound(maps, weight, None, *rest) == [TRITON, AFTER]
    assert choice.sound(maps.contiguous(), weight, bias, *rest) == [CUDNN, AFTER]
    assert choice.sound(maps, weight[:, :1], bias, *rest) == [CUDNN, AFTER]


def test_float32_is_left_to_cudnn_s_convolution(normal):
    assert choice.sound(*draw(normal, CASES["odd"], torch.float32, True)) == [AFTER]


@pytest.mark.parametrize("way", [None, TRITON, AFTER])
def test_the_operation_for_cuda_is_right_whatever_computes_it(normal, way):
    arguments = draw(normal, CASES["odd"], torch.float16, True)
    compute = convolution_relu._backend_fns["cuda"]
    if way is None:
        assert_right(compute(*arguments), arguments)
        return
    with choice.only(way):
        assert_right(compute(*arguments), arguments)


class Gpu:
    """Stands for a device: work takes the time that it is given, and events read the clock."""

    def __init__(self):
        self.clock, self.calls, self.captured = 0.0, [], False

    def work(self, name, milliseconds, fault=None):
        """A formulation."""
        times = iter(milliseconds) if isinstance(milliseconds, list) else None

        def run(*arguments):
            if fault is not None:
                raise RuntimeError(fault)
            self.calls.append(name)
            self.clock += next(times) if times else milliseconds
            return name

        return run

    def event(self, enable_timing):
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, gpu):
        self.gpu, self.at = gpu, None

    def record(self):
        self.at = self.gpu.clock

    def synchronize(self):
        assert self.at is not None

    def elapsed_time(self, later):
        return later.at - self.at


@pytest.fixture
def gpu(monkeypatch):
    gpu = Gpu()
    monkeypatch.setattr(choice, "_chosen", {})
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: gpu.captured)
    for name in ("_exchange_device", "_maybe_exchange_device"):
        monkeypatch.setattr(torch.cuda, name, lambda index: 0)

    def head_start(cycles):
        gpu.clock += 1.0

    monkeypatch.setattr(torch.cuda, "_sleep", head_start)
    return gpu


DEVICE = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("times", "best"),
    [
        ((3.0, 2.0, 1.0), AFTER),
        ((2.0, 1.0, 3.0), TRITON),
        ((1.0, 2.0, 3.0), CUDNN),
        # Ties, and what timing cannot tell apart, go to the earlier.
        ((1.0, 1.0, 1.0), CUDNN),
        ((1.0, 0.99, 0.99), CUDNN),
        ((2.0, 1.0, 0.99), TRITON),
    ],
)
def test_the_fastest_is_chosen(gpu, times, best):
    runs = {name: gpu.work(name, taken) for name, taken in zip((CUDNN, TRITON, AFTER), times, strict=True)}
    assert choice.fastest(runs, DEVICE) == (best, ())


def test_all_are_warmed_up_and_take_turns(gpu):
    # Compiling and choosing an algorithm take long, and one round is disturbed.
    slow_start = [1000.0] * choice.WARM_UP_CALLS
    first = gpu.work("first", [*slow_start, *[50.0] * choice.CALLS, *[1.0] * choice.CALLS * (choice.ROUNDS - 1)])
    second = gpu.work("second", 2.0)
    assert choice.fastest({"first": first, "second": second}, DEVICE) == ("first", ())
    names = iter(gpu.calls)
    for count, rounds in ((choice.WARM_UP_CALLS, 1), (choice.CALLS, choice.ROUNDS)):
        for _ in range(rounds):
            for name in ("first", "second"):
                assert [next(names) for _ in range(count)] == [name] * count


def test_what_fails_is_not_chosen_and_says_why(gpu):
    runs = {TRITON: gpu.work(TRITON, 1.0, "out of shared memory\nmore"), AFTER: gpu.work(AFTER, 9.0)}
    name, faults = choice.fastest(runs, DEVICE)
    assert name == AFTER
    assert [fault.splitlines() for fault in faults] == [[fault] for fault in faults]
    assert "out of shared memory" in faults[0]
    with pytest.raises(RuntimeError, match="no memory"):
        choice.fastest({name: gpu.work(name, 1.0, "no memory") for name in (TRITON, AFTER)}, DEVICE)


@pytest.fixture
def on_gpu(gpu, normal, monkeypatch):
    """Calls the operation with maps that say they lie on a GPU, where formulations take the given times."""
    times = {TRITON: 1.0, AFTER: 2.0}
    monkeypatch.setattr(choice, "_formulation", lambda name: gpu.work(name, times[name]))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(cudnn, "is_sound", lambda *arguments: False)

    def call(case="odd", dtype=torch.float16):
        maps, *rest = draw(normal, CASES[case], dtype, False)
        gpu.calls.clear()
        return choice.convolution_relu(maps.as_subclass(OnGpu), *rest)

    return times, call


def test_each_shape_is_timed_once(gpu, on_gpu):
    times, call = on_gpu
    assert call("odd") == TRITON
    assert len(gpu.calls) > 10
    times[AFTER] = 0.5
    assert call("square") == AFTER
    # What was chosen stays, and the others are not called any more.
    assert call("odd") == TRITON
    assert gpu.calls == [TRITON]
    assert choice.trials() == {TRITON: 1, AFTER: 1}


def test_nothing_is_timed_while_a_graph_is_captured(gpu, on_gpu):
    times, call = on_gpu
    times[AFTER], gpu.captured = 0.5, True
    assert call() == TRITON
    assert gpu.calls == [TRITON]
    assert not choice.trials()
    gpu.captured = False
    assert call() == AFTER
    gpu.captured = True
    assert call() == AFTER


def test_without_tuning_times_decide_nothing(gpu, on_gpu, monkeypatch):
    times, call = on_gpu
    times[AFTER] = 0.5
    assert call() == AFTER
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    assert call() == TRITON
    assert gpu.calls == [TRITON]
    assert call(dtype=torch.float32) == AFTER


def test_a_trial_s_failure_is_told(gpu, on_gpu, monkeypatch):
    _, call = on_gpu
    runs = {TRITON: gpu.work(TRITON, 1.0, "out of shared memory"), AFTER: gpu.work(AFTER, 1.0)}
    monkeypatch.setattr(choice, "_formulation", runs.get)
    assert call() == AFTER
    assert choice.trials() == {f"{AFTER}; {TRITON}: out of shared memory": 1}


def test_one_formulation_is_put_in_the_place_of_another_for_a_while(on_gpu):
    _, call = on_gpu
    with choice.only(AFTER):
        assert call() == AFTER
        with choice.only(TRITON):
            assert call() == TRITON
        assert call() == AFTER
    assert not choice.trials()
    assert call() == TRITON
