"""The reference engine: the published formulation in eager PyTorch, float32, on the CPU or a CUDA device."""

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from prn_fast.engine.base import Engine
from prn_fast.errors import EngineError
from prn_fast.kernels import PUBLISHED
from prn_fast.model.prn import PRN
from prn_fast.package import Package


class EagerEngine(Engine):
    """PRN as it is published, unfused: what other engines are compared with."""

    backend: ClassVar[str] = "eager"

    def __init__(self, package: Package, precision: str = "fp32", batch: int = 8, device: str = "cpu") -> None:
        if precision != "fp32":
            raise EngineError(f"the {self.backend} engine computes in fp32 only, not {precision}")
        config = package.config
        super().__init__(self.backend, config.image_size, config.image_channels, batch)
        if device != "cpu" and not torch.cuda.is_available():
            raise EngineError(f"device {device} was asked for, but this machine has no usable CUDA device")
        self.device = torch.device(device)
        self.model = self.network(package).to(self.device)

    def network(self, package: Package) -> PRN:
        """The package's network in the formulation of this engine."""
        return package.model(PUBLISHED)

    @torch.inference_mode()
    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        scores, maps = self.model.detect(torch.tensor(images, device=self.device))
        return scores.cpu().numpy(), maps.cpu().numpy()
