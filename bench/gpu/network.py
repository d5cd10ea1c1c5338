"""The whole network on a GPU: the fused engine beside what PyTorch offers, all with the same weights.

Baselines: the published formulation in eager float32, with and without TF32 convolutions, in eager half precision with
channels-last maps, and through torch.compile with max-autotune in half precision; each in a process apart from the
fused network, launch by launch and from a graph like that one. Every output is compared with what plain PyTorch
computes in float32 in the same process (the formulation without waste: cuDNN may refuse the published one, which has a
convolution of 524,288 groups), and that with the published formulation in float64; what is wrong, or faster than the
device can multiply, gets no speed.
cuDNN times its algorithms for all of them, baselines too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prn_fast.bench.engines.seeded import seeded_model, textured_images
from prn_fast.bench.gpu.steps import Row, Rows, Step, failure
from prn_fast.bench.gpu.timing import latencies, mean_difference, recorded, relative_error, summary
from prn_fast.bench.machine.ceilings import ceiling_fault, flop_per_image
from prn_fast.engine.fused import DTYPES, FusedEngine, convolution_settings
from prn_fast.engine.parity import TOLERANCES
from prn_fast.kernels import FUSED, OPTIMIZED, REFERENCE
from prn_fast.kernels.convolution_relu import choice, cudnn
from prn_fast.model.config import PRNConfig
from prn_fast.model.engine_graph import EngineGraph, with_ops
from prn_fast.model.prn import PRN

# Largest mean difference of maps (0..1) from float32, by the precision's name: an engine's tolerance, in half
# precision a few times what rounding makes of it; TF32 keeps as many digits as fp16. The published network in bfloat16
# is allowed more than an engine, and less than an attention without its logits differs (0.045).
_MEAN_MAP = {precision: TOLERANCES[precision].mean_map for precision in ("fp32", "fp16")}
ALLOWED_DIFFERENCE = {**_MEAN_MAP, "tf32": _MEAN_MAP["fp16"], "bf16": 0.03}
# Of float32 from float64.
ALLOWED_OF_REFERENCE = 1e-4
REFERENCE_CHECK = "float32 against published float64"
# The reference is computed in parts, whatever the batch.
REFERENCE_BATCH = 8
# Largest root mean square of the difference of all gradients, relative to theirs, between two float32 formulations.
ALLOWED_GRADIENT_ERROR = 0.01
BACKWARD_BATCH = 2

# Parts of a stream, for the engine to overlap copying and computing.
STREAM_PARTS = 4

NetworkCall = Callable[[], tuple[Any, Any]]


@dataclass(frozen=True)
class Contender:
    """A formulation that computes scores and maps of the subject's first images.

    Attributes:
        precision: key of `ALLOWED_DIFFERENCE`.
        count: of images a run.
    """

    name: str
    precision: str
    count: int
    run: NetworkCall


@dataclass(frozen=True)
class NetworkSettings:
    """What is run, and on what."""

    config: PRNConfig
    device: torch.device
    seconds: float  # of timing, for each formulation and batch
    rounds: int = 5  # in which all take turns
    # FLOP/s by precision that nothing can surpass; a precision that is missing here has no such bound.
    rates: Mapping[str, float] = field(default_factory=dict)


@dataclass
class NetworkUnderTest:
    """One network, the images of the largest batch, and what float32 finds in them."""

    setting: NetworkSettings
    model: PRN
    images: NDArray[np.uint8]
    maps: Tensor
    flop: float

    @classmethod
    def prepare(cls, setting: NetworkSettings, most: int) -> "NetworkUnderTest":
        """Seeded weights, `most` images and their reference maps."""
        config, device = setting.config, setting.device
        model = with_ops(seeded_model(config), REFERENCE).to(device)
        images = textured_images(most, config.image_channels, 1, config.image_size)
        on_device = torch.from_numpy(images).to(device)
        with tf32(False), torch.inference_mode():
            plain = with_ops(model, OPTIMIZED)
            maps = torch.cat([plain.detect(part)[1] for part in on_device.split(REFERENCE_BATCH)])
        return cls(setting, model, images, maps, flop_per_image(config))

    def batch(self, count: int) -> Tensor:
        """The first images, on the device."""
        return torch.from_numpy(self.images[:count]).to(self.setting.device)

    def published(self, precision: str) -> PRN:
        """The published formulation in another precision; channels-last where that is half."""
        dtype = DTYPES[precision]
        layout = torch.contiguous_format if dtype == torch.float32 else torch.channels_last
        return deepcopy(self.model).to(dtype=dtype, memory_format=layout)  # type: ignore[call-overload]

    def check(self, contender: Contender) -> Row:
        """What is recorded of a contender before it is timed: is its output right?"""
        row: Row = {"name": contender.name, "precision": contender.precision, "batch": contender.count, "right": False}
        try:
            maps = contender.run()[1]
        except Exception as error:
            return failure(row, error)
        difference = mean_difference(maps, self.maps[: contender.count])
        if not difference <= ALLOWED_DIFFERENCE[contender.precision]:
            return row | {"map_difference": difference, "refused": "the output is wrong"}
        return row | {"map_difference": difference, "right": True}

    def measure(self, contenders: Sequence[Contender]) -> Rows:
        """Check all, then time those that are right, side by side."""
        rows = {one.name: self.check(one) for one in contenders}
        right = [one for one in contenders if rows[one.name]["right"]]
        setting = self.setting
        try:
            times = latencies({one.name: one.run for one in right}, setting.device, setting.seconds, setting.rounds)
        except Exception as error:
            return [failure(row, error) if row["right"] else row for row in rows.values()]
        for one in right:
            rows[one.name] |= self.speed(one, times[one.name])
        return list(rows.values())

    def speed(self, contender: Contender, times: list[float]) -> Row:
        """Times of a contender and what follows from them, or why they cannot be true."""
        found = summary(times)
        assert found["p50_ms"] is not None
        rate = 1000 * contender.count / found["p50_ms"]
        # TF32 multiplies faster than float32, but no faster than half precision.
        precision = "fp16" if contender.precision == "tf32" else contender.precision
        fault = ceiling_fault(precision, rate * self.flop, dict(self.setting.rates))
        if fault is not None:
            return {"right": False, "refused": fault}
        return {**found, "images_per_second": rate, "teraflop_per_second": rate * self.flop / 1e12}


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether float32 convolutions may be computed as TF32, which is PyTorch's default; matrix products never are."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32, matmul.allow_tf32 = allowed, False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def under_tf32(run: NetworkCall, allowed: bool) -> NetworkCall:
    """`run` with or without TF32."""

    def wrapped() -> tuple[Any, Any]:
        with tf32(allowed):
            return run()

    return wrapped


def check_reference(subject: NetworkUnderTest) -> Rows:
    """Float32, which all others are compared with, against the published formulation in float64."""
    images = subject.batch(min(REFERENCE_BATCH, len(subject.images)))
    with torch.inference_mode():
        exact = deepcopy(subject.model).double().detect(images)[1]
    difference = mean_difference(subject.maps[: len(images)], exact)
    return [
        {
            "name": REFERENCE_CHECK,
            "map_difference": difference,
            "right": bool(difference <= ALLOWED_OF_REFERENCE),
            # How much there is to differ in: maps that are all alike would agree with anything.
            "map_spread": float(exact.std().item()),
            "flop_per_image": subject.flop,
        }
    ]


def fused_contenders(subject: NetworkUnderTest, precision: str, batch: int, tune: bool = True) -> Iterator[Contender]:
    """The fused network on images on the device, launch by launch and from a graph, and the engine from host to host.

    A CPU has the first alone.
    """
    device, name = subject.setting.device, f"fused {precision}"
    network = EngineGraph(subject.model, FUSED, DTYPES[precision], torch.channels_last).to(device)
    yield Contender(f"{name}, launch by launch", precision, batch, partial(network, subject.batch(batch)))
    if device.type != "cuda":
        return
    engine = FusedEngine(subject.model, precision, batch, tune=tune, sizes=(batch,))
    graph = engine.graphs[batch]
    graph.images.copy_(subject.batch(batch))

    def replay() -> tuple[Any, Any]:
        graph.graph.replay()
        return graph.scores, graph.maps

    def infer(count: int) -> tuple[Any, Any]:
        found = engine.infer(subject.images[:count])
        return found.raw_scores, found.maps

    side_by_side = np.concatenate(subject.images[:batch], axis=1)

    def lent() -> tuple[Any, Any]:
        found = engine.infer(subject.images[:batch], copy=False)
        return found.raw_scores, found.maps

    def strip() -> tuple[Any, Any]:
        found = engine.infer_strip(side_by_side, 0)
        side = engine.image_size
        return found.raw_scores, found.map.reshape(side, batch, side).transpose(1, 0, 2)

    yield Contender(name, precision, batch, replay)
    yield Contender(f"{name}, host to host", precision, batch, partial(infer, batch))
    yield Contender(f"{name}, host to host, results lent", precision, batch, lent)
    yield Contender(f"{name}, host to host, as a strip", precision, batch, strip)
    count = STREAM_PARTS * batch
    if count <= len(subject.images):
        yield Contender(f"{name}, host to host, {STREAM_PARTS} batches", precision, count, partial(infer, count))


def measure_fused(subject: NetworkUnderTest, precision: str, batch: int, tune: bool = True) -> Rows:
    """Every way to run the fused network that can be opened, side by side, and what kept the others from it."""
    contenders: list[Contender] = []
    faults: Rows = []
    trials = {"cudnn_epilogues": cudnn.trials, "convolutions": choice.trials}
    before = {name: count() for name, count in trials.items()}
    with torch.inference_mode(), convolution_settings(tune):
        try:
            for contender in fused_contenders(subject, precision, batch, tune):
                contenders.append(contender)
        except Exception as error:
            faults.append(failure({"name": f"fused {precision}", "batch": batch}, error))
        rows = [*subject.measure(contenders), *faults]
    # Convolutions by shape: how many cuDNN may compute with what follows, or what is against it; which way was fastest.
    tried = {name: dict(count() - before[name]) for name, count in trials.items()}
    return [row | {name: counts for name, counts in tried.items() if counts} for row in rows]


def fused_shares(subject: NetworkUnderTest, precision: str, batch: int) -> Rows:
    """The share of each kernel in the fused network's time, launch by launch."""
    with torch.inference_mode(), convolution_settings(tune=True):
        contender = next(fused_contenders(subject, precision, batch))
        shares = kernel_shares(contender.run, subject.setting.device)
    return [{"name": contender.name, "batch": batch, "kernel_shares": shares}]


def smoke_steps(setting: NetworkSettings) -> Iterator[Step]:
    """In seconds: does the fused network run and agree, and does its backward?"""
    subject = NetworkUnderTest.prepare(setting, 1)
    yield Step({"name": "fused fp16", "batch": 1}, partial(measure_fused, subject, "fp16", 1, tune=False))
    yield Step({"name": "fused backward"}, partial(check_training, setting))


def check_training(setting: NetworkSettings) -> Rows:
    """Gradients of all trained weights, fused against plain: in float32, which keeps enough of them to compare."""
    device = setting.device
    model = seeded_model(setting.config)
    images = torch.from_numpy(textured_images(BACKWARD_BATCH, model.config.image_channels, 1, model.config.image_size))
    found = []
    for ops in (OPTIMIZED, FUSED):
        network = with_ops(model, ops).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        trained = [one.requires_grad_() for name, one in network.named_parameters() if not name.startswith("backbone")]
        with tf32(False):
            normalized = network.normalize(images.to(device)).contiguous(memory_format=torch.channels_last)
            gradients = torch.autograd.grad(network.logits(normalized).square().mean(), trained)
        found.append(torch.cat([one.flatten() for one in gradients]))
    error = relative_error(found[1], found[0])
    return [
        {
            "name": "fused backward against plain PyTorch, float32",
            "batch": BACKWARD_BATCH,
            "gradient_error": error,
            "right": bool(error <= ALLOWED_GRADIENT_ERROR),
        }
    ]


def engine_steps(setting: NetworkSettings, batches: Sequence[int]) -> Iterator[Step]:
    """The fused engine at every batch, and the share of each kernel in its time."""
    subject = NetworkUnderTest.prepare(setting, max(batches))
    yield Step({"name": REFERENCE_CHECK}, partial(check_reference, subject))
    for batch in batches:
        yield Step({"name": "fused fp16", "batch": batch}, partial(measure_fused, subject, "fp16", batch))
    for batch in batches:
        yield Step({"name": "kernels of fused fp16", "batch": batch}, partial(fused_shares, subject, "fp16", batch))


# Of the published formulation: name, precision, and whether TF32 may be used. In bfloat16 too, since its sums over a
# token can overflow fp16.
EAGER = (
    ("eager float32", "fp32", False),
    ("eager float32, TF32 convolutions", "tf32", True),
    ("eager fp16, channels-last", "fp16", False),
    ("eager bf16, channels-last", "bf16", False),
)


def eager_run(subject: NetworkUnderTest, precision: str, allow_tf32: bool, batch: int) -> NetworkCall:
    """The published formulation as PyTorch runs it, on images on the device."""
    model = subject.published("fp32" if precision == "tf32" else precision)
    return under_tf32(partial(model.detect, subject.batch(batch)), allow_tf32)


def measure_eager(subject: NetworkUnderTest, name: str, precision: str, allow_tf32: bool, batch: int) -> Rows:
    """One published formulation, launch by launch and from a graph, side by side."""
    with torch.inference_mode(), convolution_settings(tune=True):
        run = eager_run(subject, precision, allow_tf32, batch)
        contenders = [Contender(f"{name}, launch by launch", precision, batch, run)]
        faults: Rows = []
        if subject.setting.device.type == "cuda":
            try:
                contenders.append(Contender(name, precision, batch, recorded(run, subject.setting.device)))
            except Exception as error:
                faults.append(failure({"name": name, "batch": batch}, error))
        return [*subject.measure(contenders), *faults]


def eager_steps(setting: NetworkSettings, batches: Sequence[int]) -> Iterator[Step]:
    """The published formulation at every batch; half precision, which may be refused, at the end."""
    subject = NetworkUnderTest.prepare(setting, max(batches))
    for half in (False, True):
        for batch in batches:
            for name, precision, allow_tf32 in EAGER:
                if (precision in ("fp16", "bf16")) == half:
                    run = partial(measure_eager, subject, name, precision, allow_tf32, batch)
                    yield Step({"name": name, "batch": batch}, run)


def compiled_steps(setting: NetworkSettings, batch: int) -> Iterator[Step]:
    """torch.compile of the published formulation at one batch."""
    yield Step({"name": COMPILED, "batch": batch}, partial(compile_published, setting, batch))


COMPILED = "torch.compile max-autotune"


def compile_published(setting: NetworkSettings, batch: int) -> Rows:
    """torch.compile with max-autotune of the published formulation in a half precision in which that one is right."""
    subject = NetworkUnderTest.prepare(setting, batch)
    options = {"mode": "max-autotune"} if setting.device.type == "cuda" else {"backend": "aot_eager"}
    refused: Rows = []
    with torch.inference_mode(), convolution_settings(tune=True):
        for precision in ("fp16", "bf16"):
            eager = Contender(f"eager {precision}", precision, batch, eager_run(subject, precision, False, batch))
            checked = subject.check(eager)
            if not checked["right"]:
                refused.append(checked)
                continue
            detect = subject.published(precision).detect
            compiled = torch.compile(detect, dynamic=False, **options)  # type: ignore[call-overload]
            run = partial(compiled, subject.batch(batch))
            return subject.measure([Contender(f"{COMPILED} {precision}", precision, batch, run)])
    told = "the published formulation is right in no half precision"
    return [*refused, failure({"name": COMPILED, "batch": batch}, told)]


def kernel_shares(run: Callable[[], object], device: torch.device, most: int = 40) -> Rows:
    """Share of device time of each kernel in one run, largest first (of each operator's CPU time on a CPU)."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    run()
    with profile(activities=[activity]) as profiler:
        run()
        if on_gpu:
            torch.cuda.synchronize()
    found = [
        (event.key, event.count, event.self_device_time_total if on_gpu else event.self_cpu_time_total)
        for event in profiler.key_averages()
    ]
    total = sum(time for _, _, time in found)
    found.sort(key=lambda row: -row[2])
    return [
        {"kernel": key, "calls": calls, "percent": 100 * time / total} for key, calls, time in found[:most] if time > 0
    ]
