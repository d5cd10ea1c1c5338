"""Times of single calls on a GPU or a CPU: the one stopwatch of ceilings, networks and operations."""

import time
from collections.abc import Callable

import torch

# Of each of the two buffers that empty the L2 cache, several times the largest.
FLUSH_BYTES = 256 << 20


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def call_milliseconds(run: Callable[[], object], device: torch.device) -> float:
    """Time of one call; on a GPU between CUDA events, so that work queued before it is excluded."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - start)
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    run()
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after))


class ColdCache:
    """Empties a GPU's L2 cache of everything that a timed run might find there, or would have to write back.

    Lines that were written lie in the cache until others take their place, and are written to memory only then: after
    writing one buffer another one is read, so that this happens before the clock starts.
    """

    def __init__(self, device: torch.device, size: int = FLUSH_BYTES) -> None:
        self.written = torch.empty(size, dtype=torch.uint8, device=device)
        self.read = torch.zeros(size // 4, dtype=torch.float32, device=device)
        self.total = torch.empty((), dtype=torch.float32, device=device)

    def empty(self) -> None:
        """Replace the cache's contents by values that were read."""
        self.written.zero_()
        torch.sum(self.read, dim=0, out=self.total)
