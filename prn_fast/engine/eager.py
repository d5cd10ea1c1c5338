"""The reference engine: the published formulation in eager PyTorch, float32, on the CPU or a CUDA device."""

import numpy as np
import torch
from numpy.typing import NDArray

from prn_fast.engine.base import Engine
from prn_fast.errors import EngineError
from prn_fast.kernels import PUBLISHED
from prn_fast.package import Package


def torch_device(name: str) -> torch.device:
    """ "cpu" or a CUDA device. Errors: EngineError where there is none."""
    if name != "cpu" and not torch.cuda.is_available():
        raise EngineError(f"device {name} was asked for, but this machine has no usable CUDA device")
    return torch.device(name)


class EagerEngine(Engine):
    """PRN as it is published, unfused: what other engines are compared with."""

    def __init__(self, package: Package, precision: str = "fp32", batch: int = 8, device: str = "cpu") -> None:
        if precision != "fp32":
            raise EngineError(f"the eager engine computes in fp32 only, not {precision}")
        config = package.config
        super().__init__("eager", config.image_size, config.image_channels, batch)
        self.device = torch_device(device)
        self.model = package.model(PUBLISHED).to(self.device)

    @torch.inference_mode()
    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        scores, maps = self.model.detect(torch.tensor(images, device=self.device))
        return scores.cpu().numpy(), maps.cpu().numpy()
