"""What the machine can do at most, measured in the same run, and what an engine claims to do.

An engine that is faster than the processor can multiply has left work out, or works in a lower precision than its
name says; its speed is refused.
"""

import time
from collections.abc import Callable

from prn_fast.model.config import PRNConfig

MATRIX_SIDE = 2048
SECONDS_PER_PRECISION = 0.5
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

    from prn_fast.kernels import LEAN
    from prn_fast.model.prn import PRN

    # Fake tensors have shapes and no numbers, so nothing is computed.
    with FakeTensorMode(), FlopCounterMode(display=False) as counter, torch.no_grad():
        network = PRN(config, LEAN).eval()
        network.logits(torch.empty(1, 3, config.image_size, config.image_size))
    return float(counter.get_total_flops())


def matrix_rates(seconds: float = SECONDS_PER_PRECISION) -> dict[str, float]:
    """Best rate of a large matrix product on this machine's CPU, FLOP/s (int8: operations/s), by precision.

    A precision that torch cannot multiply here is left out.
    """
    import torch

    def rate(product: Callable[[], object]) -> float:
        product()
        best, end = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            product()
            best = min(best, time.perf_counter() - start)
        return 2 * MATRIX_SIDE**3 / best

    shape = (MATRIX_SIDE, MATRIX_SIDE)
    generator = torch.Generator().manual_seed(0)
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        a, b = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
        rates[name] = rate(lambda a=a, b=b: torch.mm(a, b))  # type: ignore[misc]
    c, d = (torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8) for _ in range(2))
    try:
        rates["int8"] = rate(lambda: torch._int_mm(c, d))
    except RuntimeError:
        # Not every processor has it in torch; then int8 is held against nothing, see `ceiling_of`.
        return rates
    return rates


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
