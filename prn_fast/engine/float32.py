"""Float32 that is float32, whatever the process has allowed PyTorch elsewhere."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

# PyTorch keeps two sets of switches, and refuses to read the older one where the two disagree.
_backends: Any = torch.backends
_SWITCHES = (
    _backends.cuda.matmul,
    _backends.cudnn.conv,
    _backends.cudnn.rnn,
    _backends.mkldnn.matmul,
    _backends.mkldnn.conv,
)
_lock = threading.Lock()
_inside = 0
_put_back: Callable[[], None] = lambda: None  # noqa: E731


def _switch_off() -> Callable[[], None]:
    """Allow nothing less than float32; returns what puts the settings back."""
    older: list[Callable[[], None]] = []
    with contextlib.suppress(RuntimeError):
        older.append(partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()))
    with contextlib.suppress(RuntimeError):
        older.append(partial(setattr, _backends.cudnn, "allow_tf32", _backends.cudnn.allow_tf32))
    newer: list[Callable[[], None]] = [
        partial(setattr, switch, "fp32_precision", switch.fp32_precision) for switch in _SWITCHES
    ]
    torch.set_float32_matmul_precision("highest")
    _backends.cudnn.allow_tf32 = False
    for switch in _SWITCHES:
        switch.fp32_precision = "ieee"

    def put_back() -> None:
        for setting in (*older, *newer):
            setting()

    return put_back


@contextmanager
def float32_arithmetic() -> Iterator[None]:
    """Matrix products and convolutions of float32 in float32: no TF32 on a GPU, no bfloat16 on a CPU.

    The switches are the process's: they stay as they are until the last thread inside has left, and are then put back.
    """
    global _inside, _put_back
    with _lock:
        if _inside == 0:
            _put_back = _switch_off()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _put_back()
