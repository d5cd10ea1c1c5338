"""The device that an engine of PyTorch computes on."""

import torch

from prn_fast.errors import EngineError


def find_device(name: str) -> torch.device:
    """A device of PyTorch by its name, a GPU with its index; an EngineError where this machine has none such."""
    if name == "cpu":
        return torch.device(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise EngineError(f"device {name} was asked for, but this machine has no usable CUDA device")
    known = {"cuda": torch.cuda.current_device(), **{f"cuda:{index}": index for index in range(count)}}
    if name not in known:
        raise EngineError(f"device {name} was asked for; choose one of cpu, {', '.join(known)}")
    return torch.device("cuda", known[name])
