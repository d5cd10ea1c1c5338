"""A section of the GPU run as steps: each gives rows, and an error in one of them costs no other.

An error on a GPU can make every later call of its process fail (an illegal memory access does), or later graphs wrong
(a capture that failed does). The process then ends, and whoever started it starts another one at the next step.
"""

import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from prn_fast.engine.cuda_graph import capture_has_failed
from prn_fast.errors import one_line

Row = dict[str, Any]
Rows = list[Row]
# Told the number of the step that is about to run, what it is, and the rows so far.
StepProgress = Callable[[int, Row, Rows], None]

# A process that ends with it can use its device no more.
DEVICE_LOST = 3


@dataclass(frozen=True)
class Step:
    """A part of a section.

    Attributes:
        label: what a row says of it if it fails.
        run: gives its rows; what it has given is kept if it fails or takes too long.
    """

    label: Row
    run: Callable[[], Iterable[Row]]


def failure(label: Row, error: Exception | str) -> Row:
    """The row of a step that failed."""
    told = error if isinstance(error, str) else f"{type(error).__name__}: {one_line(error)}"
    return {**label, "right": False, "refused": told}


def is_device_lost(device: torch.device) -> bool:
    """Whether the process can use the device no more, or not without a doubt."""
    if device.type != "cuda":
        return False
    if capture_has_failed():
        return True
    try:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    except Exception:
        return True
    return False


def run_steps(steps: Iterable[Step], first: int, device: torch.device, progress: StepProgress) -> int:
    """Run the steps from number `first` on; 0, or `DEVICE_LOST` where it had to end at one."""
    rows: Rows = []
    number = -1
    for number, step in enumerate(steps):
        if number < first:
            continue
        progress(number, step.label, rows)
        try:
            for row in step.run():
                rows.append(row)
                progress(number, step.label, rows)
        # Triton's and cuDNN's errors have no common class.
        except Exception as error:
            traceback.print_exc()
            rows.append(failure(step.label, error))
            progress(number, step.label, rows)
        if is_device_lost(device):
            print(f"the device is lost, or a capture has failed, after {step.label}", file=sys.stderr)
            return DEVICE_LOST
    progress(number + 1, {}, rows)
    return 0
