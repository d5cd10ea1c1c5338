"""The whole network on a GPU: the fused engine beside what PyTorch offers, all with the same weights.

Baselines: the published formulation in eager float32, with and without TF32 convolutions, in eager half precision with
channels-last maps, and through torch.compile with max-autotune in half precision. Every output is compared with eager
float32 in the same run, which is itself compared with float64; what is wrong, or faster than the device can multiply,
gets no speed. cuDNN times its algorithms for all of them, baselines too.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prn_fast.bench.ceilings import ceiling_fault, flop_per_image, matrix_rates
from prn_fast.bench.gpu_timing import latencies, mean_difference, summary
from prn_fast.bench.kernels import Report, Rows
from prn_fast.bench.seeded import seeded_model, textured_images
from prn_fast.engine.fused import DTYPES, FusedEngine, convolution_settings
from prn_fast.errors import PRNError
from prn_fast.kernels import FUSED, PUBLISHED
from prn_fast.model.config import PRNConfig
from prn_fast.model.engine_graph import EngineGraph, with_ops
from prn_fast.model.prn import PRN
from prn_fast.model.weights import one_line

# Largest mean difference of maps (0..1) from eager float32, by the precision's name.
ALLOWED_DIFFERENCE = {"fp32": 1e-4, "tf32": 0.02, "fp16": 0.02, "bf16": 0.1}
# Of eager float32 from float64.
ALLOWED_OF_REFERENCE = 1e-4
# The reference is computed in parts, whatever the batch.
REFERENCE_BATCH = 8

# Parts of a stream, for the engine to overlap copying and computing.
STREAM_PARTS = 4

Run = Callable[[], tuple[Any, Any]]


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
    run: Run


@dataclass(frozen=True)
class Setting:
    """What is run, and on what."""

    config: PRNConfig
    device: torch.device
    seconds: float  # of timing, for each formulation and batch
    rounds: int = 5  # in which all take turns


@dataclass
class Subject:
    """One network, the images of the largest batch, and what eager float32 finds in them."""

    setting: Setting
    model: PRN
    images: NDArray[np.uint8]
    maps: Tensor
    rates: dict[str, float]
    flop: float

    @classmethod
    def prepare(cls, setting: Setting, most: int) -> "Subject":
        """Seeded weights, `most` images and their reference maps; ceilings are measured."""
        config, device = setting.config, setting.device
        model = with_ops(seeded_model(config), PUBLISHED).to(device)
        images = textured_images(most, config.image_channels, 1, config.image_size)
        on_device = torch.from_numpy(images).to(device)
        with tf32(False), torch.inference_mode():
            maps = torch.cat([model.detect(part)[1] for part in on_device.split(REFERENCE_BATCH)])
        # On a CPU, where only the procedure is tried, nothing is held against a ceiling.
        rates = matrix_rates(device=device.type) if device.type == "cuda" else {}
        return cls(setting, model, images, maps, rates, flop_per_image(config))

    def batch(self, count: int) -> Tensor:
        """The first images, on the device."""
        return torch.from_numpy(self.images[:count]).to(self.setting.device)

    def published(self, precision: str) -> PRN:
        """The published formulation in another precision; channels-last where that is half."""
        dtype = DTYPES[precision]
        layout = torch.contiguous_format if dtype == torch.float32 else torch.channels_last
        return deepcopy(self.model).to(dtype=dtype, memory_format=layout)  # type: ignore[call-overload]

    def check(self, contender: Contender) -> dict[str, Any]:
        """What is recorded of a contender before it is timed: is its output right?"""
        row: dict[str, Any] = {
            "name": contender.name,
            "precision": contender.precision,
            "batch": contender.count,
            "right": False,
        }
        try:
            maps = contender.run()[1]
        except RuntimeError as error:
            return row | {"refused": f"{type(error).__name__}: {one_line(error)}"}
        difference = mean_difference(maps, self.maps[: contender.count])
        if not difference <= ALLOWED_DIFFERENCE[contender.precision]:
            return row | {"map_difference": difference, "refused": "the output is wrong"}
        return row | {"map_difference": difference, "right": True}

    def measure(self, contenders: Sequence[Contender]) -> Rows:
        """Check all, then time those that are right, side by side."""
        rows = {one.name: self.check(one) for one in contenders}
        right = [one for one in contenders if rows[one.name]["right"]]
        setting = self.setting
        times = latencies({one.name: one.run for one in right}, setting.device, setting.seconds, setting.rounds)
        for one in right:
            rows[one.name] |= self.speed(one, times[one.name])
        return list(rows.values())

    def speed(self, contender: Contender, times: list[float]) -> dict[str, Any]:
        """Times of a contender and what follows from them, or why they cannot be true."""
        found = summary(times)
        assert found["p50_ms"] is not None
        rate = 1000 * contender.count / found["p50_ms"]
        # TF32 multiplies faster than float32, but no faster than half precision.
        precision = "fp16" if contender.precision == "tf32" else contender.precision
        fault = ceiling_fault(precision, rate * self.flop, self.rates)
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


def under_tf32(run: Run, allowed: bool) -> Run:
    """`run` with or without TF32."""

    def wrapped() -> tuple[Any, Any]:
        with tf32(allowed):
            return run()

    return wrapped


def check_reference(setting: Setting, report: Report) -> None:
    """Eager float32, which all others are compared with, against float64."""
    subject = Subject.prepare(setting, REFERENCE_BATCH)
    with torch.inference_mode():
        exact = deepcopy(subject.model).double().detect(subject.batch(REFERENCE_BATCH))[1]
    difference = mean_difference(subject.maps, exact)
    report(
        [
            {
                "name": "eager float32 against float64",
                "map_difference": difference,
                "right": bool(difference <= ALLOWED_OF_REFERENCE),
                # How much there is to differ in: maps that are all alike would agree with anything.
                "map_spread": float(exact.std().item()),
                "flop_per_image": subject.flop,
                "matrix_flop_per_second": subject.rates,
            }
        ]
    )


def fused_contenders(subject: Subject, precision: str, batch: int) -> Iterator[Contender]:
    """The fused network on images on the device, launch by launch and from a graph, and the engine from host to host.

    A CPU has the first alone.
    """
    device, name = subject.setting.device, f"fused {precision}"
    network = EngineGraph(subject.model, FUSED, DTYPES[precision], torch.channels_last).to(device)
    yield Contender(f"{name}, launch by launch", precision, batch, partial(network, subject.batch(batch)))
    if device.type != "cuda":
        return
    engine = FusedEngine(subject.model, precision, batch)
    recorded = engine.graphs[batch]
    recorded.images.copy_(subject.batch(batch))

    def replay() -> tuple[Any, Any]:
        recorded.graph.replay()
        return recorded.scores, recorded.maps

    def infer(count: int) -> tuple[Any, Any]:
        found = engine.infer(subject.images[:count])
        return found.scores, found.maps

    yield Contender(name, precision, batch, replay)
    yield Contender(f"{name}, host to host", precision, batch, partial(infer, batch))
    count = STREAM_PARTS * batch
    if count <= len(subject.images):
        yield Contender(f"{name}, host to host, {STREAM_PARTS} batches", precision, count, partial(infer, count))


def eager_contenders(subject: Subject, batch: int) -> list[Contender]:
    """The published formulation as PyTorch runs it; in bfloat16 too, since its sums over a token can overflow fp16."""
    images = subject.batch(batch)
    exact = partial(subject.model.detect, images)
    return [
        Contender("eager float32", "fp32", batch, under_tf32(exact, False)),
        Contender("eager float32, TF32 convolutions", "tf32", batch, under_tf32(exact, True)),
        *(
            Contender(f"eager {half}, channels-last", half, batch, partial(subject.published(half).detect, images))
            for half in ("fp16", "bf16")
        ),
    ]


def compare_formulations(setting: Setting, batches: tuple[int, ...], report: Report) -> None:
    """Fused and eager, side by side, at every batch, and the share of each kernel in the fused network's time."""
    subject = Subject.prepare(setting, max(batches))
    rows: Rows = []
    with torch.inference_mode(), convolution_settings(tune=True):
        for batch in batches:
            contenders, faults = opened(subject, batch)
            found = subject.measure([*contenders, *eager_contenders(subject, batch)])
            rows += [*found, *faults]
            report(rows)
            if found[0]["right"]:
                shares = kernel_shares(contenders[0].run, setting.device)
                rows.append({"name": contenders[0].name, "batch": batch, "kernel_shares": shares})
                report(rows)


def opened(subject: Subject, batch: int) -> tuple[list[Contender], Rows]:
    """The fused contenders that could be opened, and what kept the others from it."""
    contenders: list[Contender] = []
    try:
        for contender in fused_contenders(subject, "fp16", batch):
            contenders.append(contender)
    except (RuntimeError, PRNError) as error:
        fault = f"{type(error).__name__}: {one_line(error)}"
        return contenders, [{"name": "fused fp16", "batch": batch, "right": False, "refused": fault}]
    return contenders, []


def compile_published(setting: Setting, batch: int, report: Report) -> None:
    """torch.compile with max-autotune of the published formulation, beside the fused network."""
    subject = Subject.prepare(setting, batch)
    images = subject.batch(batch)
    on_gpu = setting.device.type == "cuda"
    options = {"mode": "max-autotune"} if on_gpu else {"backend": "aot_eager"}
    with torch.inference_mode(), convolution_settings(tune=True):
        halves = [one for one in eager_contenders(subject, batch) if one.precision in ("fp16", "bf16")]
        usable = next((one for one in halves if subject.check(one)["right"]), None)
        name = "torch.compile max-autotune"
        if usable is None:
            report(
                [{"name": name, "batch": batch, "refused": "the published formulation is right in no half precision"}]
            )
            return
        detect = subject.published(usable.precision).detect
        compiled = torch.compile(detect, dynamic=False, **options)  # type: ignore[call-overload]
        run = partial(compiled, images)
        contenders, faults = opened(subject, batch)
        measured = subject.measure([Contender(f"{name} {usable.precision}", usable.precision, batch, run), *contenders])
        report([*measured, *faults])


def kernel_shares(run: Callable[[], object], device: torch.device, most: int = 40) -> list[dict[str, Any]]:
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
