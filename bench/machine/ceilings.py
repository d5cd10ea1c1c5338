"""What the machine can do at most, measured in the same run, and what an engine asks of it.

An engine that is faster than the processor can multiply has left work out, or works in a lower precision than its
name says; its speed is refused.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from prn_fast.model.config import PRNConfig

if TYPE_CHECKING:
    from torch import Tensor

    from prn_fast.package import Package

MATRIX_SIDES = {"cpu": (512, 2048), "cuda": (2048, 8192)}
SLOW_PRODUCT = 2  # a large product that would take this many times the given time is left out
CONVOLVED_CHANNELS, CONVOLVED_SIDE = 256, 64
COPY_BYTES = 1 << 28
SECONDS_PER_PRECISION = 0.4
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
# Slack for a ceiling that was itself measured on a busy machine.
OVER_CEILING = 1.15
# An engine may use any precision that is at least as wide as the one in its name.
WIDER = {
    "fp32": ("fp32",),
    "fp16": ("fp32", "fp16"),
    "bf16": ("fp32", "bf16"),
    "int8": ("fp32", "fp16", "bf16", "int8"),
}


def flop_per_image(config: PRNConfig) -> float:
    """Floating-point operations of one image, multiply and add counted apart.

    Counted by torch on the formulation without waste, which is the least that an engine has to do: convolutions and
    matrix products, without elementwise work.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    from prn_fast.kernels import OPTIMIZED
    from prn_fast.model.prn import PRN

    # Fake tensors have shapes and no numbers, so nothing is computed.
    with FakeTensorMode(), FlopCounterMode(display=False) as counter, torch.no_grad():
        network = PRN(config, OPTIMIZED).eval()
        network.logits(torch.empty(1, 3, config.image_size, config.image_size))
    return float(counter.get_total_flops())


def screen_flop_per_image(package: "Package") -> float:
    """As `flop_per_image`, of a package's screen: what it does for every image, whether the image leaves or not."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from prn_fast.engine import open_engine

    with open_engine(package, "optimized", screen_only=True) as engine:
        image = np.zeros((1, engine.image_size, engine.image_size, engine.image_channels), np.uint8)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            engine.infer(image)
    return float(counter.get_total_flops())


@dataclass(frozen=True)
class NetworkTraffic:
    """Values that convolutions and matrix products read and write, each operand once: of an image, and once a call.

    Elementwise work counts as merged into them, and caches as absent: real traffic may be lower or higher.
    """

    values_per_image: int
    values_per_call: int

    def bytes_per_image(self, batch: int, precision: str) -> float:
        """Bytes an image at a batch size, all values in the precision's width."""
        return BYTES[precision] * (self.values_per_image + self.values_per_call / batch)


def traffic_of(config: PRNConfig) -> NetworkTraffic:
    """Bytes that the optimized formulation moves; weights and prototypes count once for a call."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry

    from prn_fast.kernels import OPTIMIZED
    from prn_fast.model.prn import PRN

    class Counter(TorchDispatchMode):
        values = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            if function.overloadpacket in flop_registry:
                self.values += sum(leaf.numel() for leaf in tree_leaves((args, out)) if isinstance(leaf, torch.Tensor))
            return out

    counted = []
    for batch in (1, 2):
        with FakeTensorMode(), torch.no_grad():
            network = PRN(config, OPTIMIZED).eval()
            images = torch.empty(batch, 3, config.image_size, config.image_size)
            with Counter() as counter:
                network.logits(images)
        counted.append(counter.values)
    return NetworkTraffic(counted[1] - counted[0], 2 * counted[0] - counted[1])


def matrix_rates(seconds: float = SECONDS_PER_PRECISION, device: str = "cpu") -> dict[str, float]:
    """Best rate of a large matrix product, FLOP/s (int8: operations/s), by precision.

    On a CPU also of a convolution, which is a matrix product to oneDNN: PyTorch's own products come from a library that
    is not at its best on every processor; in int8 without VNNI it takes one number at a time. A precision that torch
    cannot multiply here is left out.
    """
    import torch

    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        rates[name] = _product_rate(torch.mm, dtype, seconds, device)
        if device == "cpu" and _convolution_flop() < SLOW_PRODUCT * seconds * rates[name]:
            rates[name] = max(rates[name], _convolution_rate(dtype, seconds))
    with suppress(RuntimeError):  # not every processor has it in torch
        rates["int8"] = _product_rate(torch._int_mm, torch.int8, seconds, device)
    if device == "cpu" and (rate := _int8_convolution_rate(seconds)):
        rates["int8"] = max(rates.get("int8", 0.0), rate)
    # Without either, int8 has no ceiling, see `ceiling_of`.
    return rates


def _product_rate(product: Callable[[Any, Any], object], dtype: Any, seconds: float, device: str) -> float:
    """Rate of a product of square matrices."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def timed(side: int) -> float:
        a, b = ((16 * torch.randn(side, side, generator=generator)).to(device, dtype) for _ in range(2))
        return best_seconds(partial(product, a, b), seconds, device)

    # A precision that the processor lacks may be a thousand times slower: a small product shows it soon.
    small, large = MATRIX_SIDES[device]
    best, side = timed(small), small
    if best * (large / small) ** 3 < SLOW_PRODUCT * seconds:
        best, side = timed(large), large
    return 2 * side**3 / best


def _convolution_flop() -> float:
    return 2.0 * 9 * CONVOLVED_CHANNELS**2 * CONVOLVED_SIDE**2


def _convolved() -> tuple["Tensor", "Tensor"]:
    """Maps and weights of a 3x3 convolution, float32, channels last."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shapes = (1, CONVOLVED_CHANNELS, CONVOLVED_SIDE, CONVOLVED_SIDE), (CONVOLVED_CHANNELS, CONVOLVED_CHANNELS, 3, 3)
    maps, weight = (torch.randn(shape, generator=generator) for shape in shapes)
    return maps.to(memory_format=torch.channels_last), weight.to(memory_format=torch.channels_last)


def _convolution_rate(dtype: Any, seconds: float) -> float:
    """Rate of a 3x3 convolution on the CPU."""
    from torch.nn import functional

    maps, weight = (values.to(dtype) for values in _convolved())
    return _convolution_flop() / best_seconds(lambda: functional.conv2d(maps, weight, padding=1), seconds)


def _int8_convolution_rate(seconds: float) -> float:
    """Rate of the same convolution of integers of eight bits, by oneDNN; 0 where torch comes without it."""
    import torch

    maps, weights = _convolved()
    pixels, weight = (16 * maps + 128).clamp(0, 255).to(torch.uint8), (16 * weights).clamp(-64, 63).to(torch.int8)
    channels, ones = len(weight), [1, 1]
    scales, zeros = torch.ones(channels), torch.zeros(channels, dtype=torch.int64)
    onednn = torch.ops.onednn
    try:
        packed = onednn.qconv_prepack(weight.contiguous(), scales, 1.0, 128, ones, ones, ones, 1, list(pixels.shape))
        convolve = partial(
            onednn.qconv2d_pointwise,
            *(pixels, 1.0, 128, packed, scales, zeros, None, ones, ones, ones, 1),
            *(256.0, 128, torch.uint8, "none", [], ""),
        )
        return _convolution_flop() / best_seconds(convolve, seconds)
    except (AttributeError, RuntimeError):
        return 0.0


@dataclass(frozen=True)
class Ceilings:
    """What a device was measured to do at most.

    Attributes:
        copy: bytes/s, read and written; see `copy_rate`.
        matrix: FLOP/s by precision; see `matrix_rates`. A precision that is missing has no ceiling.
    """

    copy: float
    matrix: dict[str, float]

    @classmethod
    def measure(cls, device: str, seconds: float = SECONDS_PER_PRECISION) -> "Ceilings":
        """Of the machine at hand."""
        return cls(copy_rate(seconds, device), matrix_rates(seconds, device))


def copy_rate(seconds: float = SECONDS_PER_PRECISION, device: str = "cpu") -> float:
    """Best rate of copying memory much larger than the caches, bytes/s, read and written."""
    import torch

    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / best_seconds(partial(target.copy_, source), seconds, device)


def best_seconds(function: Callable[[], object], seconds: float, device: str = "cpu") -> float:
    """Shortest time of a call within this many seconds; on a GPU between CUDA events, work before it excluded."""
    import torch

    from prn_fast.bench.machine.timing import call_milliseconds

    where = torch.device(device)
    function()
    best, stop = call_milliseconds(function, where), time.perf_counter() + seconds
    while time.perf_counter() < stop:
        best = min(best, call_milliseconds(function, where))
    return best / 1000


def ceiling_of(precision: str, rates: dict[str, float]) -> float | None:
    """The highest rate that an engine of this precision can reach, or None where that was not measured."""
    if precision not in rates:
        return None
    return max(rates[name] for name in WIDER[precision] if name in rates)


def ceiling_fault(precision: str, rate: float, rates: dict[str, float]) -> str | None:
    """Why a rate (FLOP/s) cannot be true, or None."""
    ceiling = ceiling_of(precision, rates)
    if ceiling is None or rate <= OVER_CEILING * ceiling:
        return None
    return (
        f"{rate / 1e9:.0f} GFLOP/s is over the machine's measured {ceiling / 1e9:.0f} GFLOP/s in {precision}: "
        "work is left out, or done in a lower precision"
    )
