"""What training uses of the machine that it runs on."""

import os

import torch

from prn_fast.environment import cpu_name
from prn_fast.training.settings import Precision

MAX_WORKERS = 8


def training_precision() -> Precision:
    """bfloat16 where its products have instructions of their own; elsewhere they are slower than float32."""
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if fast else "32-true"


def loader_workers(wanted: int | None, device: torch.device) -> int:
    """Processes that generate anomalies: as wanted, or none on a CPU, and on a GPU one for each of 8 cores at most."""
    if wanted is not None:
        return wanted
    return min(MAX_WORKERS, len(os.sched_getaffinity(0))) if device.type == "cuda" else 0


def device_name(device: torch.device) -> str:
    """Name of the hardware behind a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
