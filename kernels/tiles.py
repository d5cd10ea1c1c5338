"""Block shapes of every kernel for every compute capability, checked in: nothing is tuned at run time.

A device uses the entry of the highest listed capability that is not above its own. The figures come from reckoning and
from the compiler's resource report, and have not been timed on a GPU yet; `bench/kernels.py` searches for better ones.
"""

from prn_fast.kernels.launch import Tile

Capability = tuple[int, int]

CAPABILITIES: tuple[Capability, ...] = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))

# Most shared memory of one block, bytes (CUDA programming guide, table of compute capabilities).
SHARED_MEMORY = {
    (7, 5): 64 << 10,
    (8, 0): 163 << 10,
    (8, 6): 99 << 10,
    (8, 9): 99 << 10,
    (9, 0): 227 << 10,
    (10, 0): 227 << 10,
    (12, 0): 99 << 10,
}

_COMMON: dict[str, Tile] = {
    "distance": Tile({"BLOCK_B": 4, "BLOCK_K": 4, "BLOCK_D": 256, "STEPS": 8}),
    "residual": Tile({"BLOCK_D": 1024, "STEPS": 8}),
    "logits": Tile({"BLOCK_D": 64, "STEPS": 16}),
    "softmax": Tile({"BLOCK_ROWS": 4}),
    "mixing": Tile({"BLOCK_D": 64, "STEPS": 4, "BLOCK_B": 4}),
}

_OWN: dict[Capability, dict[str, Tile]] = {}


def tile_for(kernel: str, capability: Capability) -> Tile:
    """The kernel's tile on a device; a RuntimeError below the lowest listed capability."""
    if capability < CAPABILITIES[0]:
        raise RuntimeError(f"compute capability {capability} is below {CAPABILITIES[0]}")
    listed = max(one for one in CAPABILITIES if one <= capability)
    return _OWN.get(listed, {}).get(kernel, _COMMON[kernel])
