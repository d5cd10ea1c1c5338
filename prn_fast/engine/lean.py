"""The engine that needs nothing but PyTorch: the lean formulation with folded batch norms, float32, on any device."""

import numpy as np
import torch
from numpy.typing import NDArray

from prn_fast.engine.base import Engine
from prn_fast.engine.eager import torch_device
from prn_fast.errors import EngineError
from prn_fast.kernels import LEAN
from prn_fast.model.engine_graph import EngineGraph
from prn_fast.package import Package


class LeanEngine(Engine):
    """The graph that engines are built of, run by PyTorch itself: the best of a package that none was built of."""

    def __init__(self, package: Package, precision: str = "fp32", batch: int = 8, device: str = "cpu") -> None:
        if precision != "fp32":
            raise EngineError(f"the lean engine computes in fp32 only, not {precision}")
        config = package.config
        super().__init__("lean", config.image_size, config.image_channels, batch)
        self.device = torch_device(device)
        self.model = EngineGraph(package.model(), LEAN).model.to(self.device)

    @torch.inference_mode()
    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        scores, maps = self.model.detect(torch.tensor(images, device=self.device))
        return scores.cpu().numpy(), maps.cpu().numpy()
