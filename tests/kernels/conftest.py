"""Triton kernels run in the interpreter here; fresh memory is poisoned, so that an unwritten value shows.

With PRN_FAST_TEST_DEVICE=cuda the same tests run compiled, on a GPU.
"""

import os

# Read when triton is first imported.
os.environ["TRITON_INTERPRET"] = "0" if os.environ.get("PRN_FAST_TEST_DEVICE") == "cuda" else "1"

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

DEVICE = os.environ.get("PRN_FAST_TEST_DEVICE", "cpu")


@pytest.fixture(autouse=True, scope="session")
def interpreted_kernels() -> None:
    """Fail with a reason where Triton was imported too early for the interpreter."""
    if DEVICE != "cpu":
        return
    from triton.runtime.interpreter import InterpretedFunction

    from prn_fast.kernels.prototype_residual.fused import distance_kernel

    assert isinstance(distance_kernel, InterpretedFunction), "triton was imported before; set TRITON_INTERPRET=1"


@pytest.fixture(autouse=True, scope="session")
def bfloat16_products(interpreted_kernels: None) -> Iterator[None]:
    """Products of bfloat16 tiles: the interpreter keeps such tiles as bit patterns and multiplies those as integers."""
    if DEVICE != "cpu":
        yield
        return
    import numpy as np
    from triton.language import bfloat16, float32
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    create_dot = InterpreterBuilder.create_dot

    def widened(tile: TensorHandle) -> TensorHandle:
        if tile.dtype.scalar != bfloat16:
            return tile
        return TensorHandle((tile.data.astype(np.uint32) << 16).view(np.float32), float32)

    def create_float_dot(self, a, b, *rest):  # type: ignore[no-untyped-def]
        return create_dot(self, widened(a), widened(b), *rest)

    InterpreterBuilder.create_dot = create_float_dot
    yield
    InterpreterBuilder.create_dot = create_dot


@pytest.fixture(autouse=True, scope="session")
def default_device() -> Iterator[None]:
    """Tensors are made on the device that the tests run on."""
    torch.set_default_device(DEVICE)
    yield
    torch.set_default_device(None)


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """`torch.empty` gives NaN."""
    # Not every backward has a deterministic kernel on a GPU.
    torch.use_deterministic_algorithms(True, warn_only=DEVICE != "cpu")
    assert torch.empty(4).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def normal() -> Callable[..., Tensor]:
    """Standard normal tensors from one seeded stream: `normal(2, 3, dtype=torch.float64)`."""
    generator = torch.Generator().manual_seed(20221203)

    def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        # The same values on every device.
        return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(DEVICE, dtype)

    return draw
