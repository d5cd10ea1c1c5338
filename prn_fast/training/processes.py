"""Training by several processes, which torchrun starts: who they are, and what they have to agree on.

Each trains on its share of every step's images. What one of them has to do or to decide, the first one does.
"""

import logging
import os
import time
import warnings

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, distributed

from prn_fast.training.settings import Precision


def is_first() -> bool:
    """Whether this process is the one that prints and writes; true where it is the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def launch(precision: Precision) -> Fabric:
    """Join the processes that torchrun started; without it, one process on one device.

    Several processes each take a GPU, or share the processor.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # Prototypes never change, and joint batch norms have the same statistics on all processes.
    strategy = DDPStrategy(broadcast_buffers=False) if processes > 1 else "auto"
    if processes > 1:
        # Each process would say that it is there, that this argument will have another name, and that some gradients
        # lie otherwise in memory than they are sent.
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    fabric = Fabric(precision=precision, devices=local, num_nodes=processes // local, strategy=strategy)
    fabric.launch()
    return fabric


def take_from_first(fabric: Fabric, values: Tensor) -> Tensor:
    """Overwrite a tensor, of the same shape on all processes, with the first one's; returns it."""
    if fabric.world_size > 1:
        distributed.broadcast(values, src=0)
    return values


def sum_over_processes(fabric: Fabric, values: Tensor) -> Tensor:
    """Overwrite a tensor, of the same shape on all processes, with the sum of them; returns it."""
    if fabric.world_size > 1:
        distributed.all_reduce(values)
    return values


class Clock:
    """Seconds of work, those before an interruption included; all processes read the first one's clock.

    Decisions that depend on time are taken by `now`, which is the same on all processes: if one decided otherwise,
    they would wait for one another for ever.
    """

    def __init__(self, fabric: Fabric, before: float = 0.0) -> None:
        self._fabric = fabric
        self._start = time.monotonic() - before
        self.now = before

    def tick(self) -> float:
        """Read the clock, together with all other processes; returns `now`."""
        self.now = time.monotonic() - self._start
        # A tensor on a GPU would wait for all that is queued there.
        if self._fabric.world_size > 1:
            seconds = torch.tensor(self.now, dtype=torch.float64, device=self._fabric.device)
            self.now = float(take_from_first(self._fabric, seconds))
        return self.now
