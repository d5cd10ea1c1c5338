"""The reference engine: the published formulation in eager PyTorch, float32, on the CPU or a CUDA device."""

import os
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prn_fast.engine.base import Engine, Thresholds
from prn_fast.engine.device import find_device
from prn_fast.engine.early_exit import Screening
from prn_fast.engine.float32 import float32_arithmetic
from prn_fast.errors import EngineError
from prn_fast.kernels import REFERENCE
from prn_fast.model.engine_graph import fold_batch_norm, screen_images
from prn_fast.model.prn import PRN, full_precision
from prn_fast.package import Package

# The process in which PyTorch last ran an engine: a fork of it has none of its threads.
_ran_in: int | None = None


class EagerEngine(Engine):
    """PRN as it is published, unfused: what other engines are compared with.

    It computes in true float32, also inside of autocasting and where the process allows TF32 or bfloat16.

    Args:
        package: gives the weights; `precision`: "fp32".
        batch: most images in one run.
        device: "cpu", "cuda", or "cuda:1" and so on.
        early_exit, screen_only: as for `open_engine`.
    Raises:
        EngineError: no such device, or a fork of a process in which PyTorch has run with several threads: it would wait
            for them for ever.
    """

    backend: ClassVar[str] = "eager"
    scores_carry_nan: ClassVar[bool] = True

    def __init__(
        self,
        package: Package,
        precision: str = "fp32",
        batch: int = 8,
        device: str = "cpu",
        early_exit: bool = False,
        screen_only: bool = False,
    ) -> None:
        if precision != "fp32":
            raise EngineError(f"the {self.backend} engine computes in fp32 only, not {precision}")
        if _ran_in not in (None, os.getpid()) and torch.get_num_threads() > 1:
            raise EngineError(
                f"process {os.getpid()} is a fork of one in which PyTorch has run, and has none of its threads; start "
                "processes by spawn (multiprocessing.get_context), or call torch.set_num_threads(1) first"
            )
        self.device = find_device(device)
        config = package.config
        super().__init__(
            self.backend,
            config.image_size,
            config.image_channels,
            batch,
            self.device.index,
            Thresholds.of(package),
            Screening.of(package, early_exit=early_exit, screen_only=screen_only),
        )
        self.model = self.network(package).to(self.device)
        if self.screening is not None:
            self.screen_head = fold_batch_norm(package.screen()).to(self.device)

    def network(self, package: Package) -> PRN:
        """The package's network in the formulation of this engine."""
        return package.model(REFERENCE)

    @torch.inference_mode()
    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        return self._computed(self.model.detect, images)

    @torch.inference_mode()
    def screen(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.screen`."""
        return self.in_parts(partial(self._computed, self._screen), images)

    def _screen(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return screen_images(self.model, self.screen_head, images)

    def _computed(
        self, function: Callable[[Tensor], tuple[Tensor, Tensor]], images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        global _ran_in
        _ran_in = os.getpid()
        with float32_arithmetic(), full_precision(self.device):
            scores, maps = function(torch.tensor(images, device=self.device))
        return scores.cpu().numpy(), maps.cpu().numpy()
