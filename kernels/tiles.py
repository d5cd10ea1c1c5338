"""Block shapes of every kernel for every compute capability, checked in: nothing is tuned at run time.

Capabilities with similar hardware share one table. The block shapes come from calculation and from the
compiler's resource report. They have not been timed on a GPU; `bench/gpu/tune.py` searches for better ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

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

# Half precision on tensor cores that a warp group of four warps feeds together.
_WARP_GROUP: dict[str, Tile] = {
    "distance": Tile({"BLOCK_B": 8, "BLOCK_K": 8, "BLOCK_D": 128, "STEPS": 16}),
    "residual": Tile({"BLOCK_D": 1024, "STEPS": 8}),
    "order": Tile({"BLOCK_B": 32, "BLOCK_D": 128, "STEPS": 16}, stages=2),
    "second_look": Tile({"BLOCK_D": 1024, "STEPS": 8}),
    "candidate_residual": Tile({"BLOCK_D": 1024, "STEPS": 8}),
    # At 126 registers two blocks of eight warps fit a multiprocessor; 64 values and four warps take 227.
    "logits": Tile({"BLOCK_D": 32, "STEPS": 32}, warps=8, stages=2),
    "softmax": Tile({"BLOCK_ROWS": 4}),
    "mixing": Tile({"BLOCK_D": 64, "STEPS": 4, "BLOCK_B": 4}),
    "logits_gradient": Tile({"BLOCK_D": 64, "STEPS": 16}),
    "softmax_gradient": Tile({}, warps=8),
    "input_gradient": Tile({"BLOCK_D": 64, "BLOCK_N": 64}),
    "weight_gradient": Tile({"BLOCK_D": 64}, warps=8),
    "project_upsample_add": Tile({"TILE_H": 8, "TILE_W": 16, "BLOCK_C": 64, "BLOCK_K": 64}, 8, 3),
    "convolve_add_relu": Tile({"BLOCK_N": 128, "BLOCK_C": 128, "BLOCK_K": 64}, 8, 3),
    "bias_add_relu": Tile({"BLOCK": 1024}),
    "tap_logits": Tile({"TILE_H": 8, "TILE_W": 16, "BLOCK_C": 64, "BLOCK_K": 64}, 8, 2),
    "sum_taps": Tile({"BLOCK": 512}),
    "tile_normalize": Tile({"BLOCK": 1024}),
    "top_pixels": Tile({"BLOCK": 2048}, warps=8),
    "score": Tile({"BLOCK": 4096}, warps=8),
    "top_logits": Tile({"BLOCK": 2048}, warps=8),
    "learned_score": Tile({"BLOCK": 4096}, warps=8),
    "stitch": Tile({"BLOCK": 512}),
}

# Half precision on tensor cores that take operands from registers: a narrower tile beside the three sums of the logits.
_WARP: dict[str, Tile] = {
    **_WARP_GROUP,
    "logits": Tile({"BLOCK_D": 32, "STEPS": 32}),
    "logits_gradient": Tile({"BLOCK_D": 32, "STEPS": 32}),
    "input_gradient": Tile({"BLOCK_D": 64, "BLOCK_N": 32}),
    "weight_gradient": Tile({"BLOCK_D": 32}, warps=8),
    "project_upsample_add": Tile({"TILE_H": 8, "TILE_W": 16, "BLOCK_C": 64, "BLOCK_K": 32}, stages=3),
    "convolve_add_relu": Tile({"BLOCK_N": 128, "BLOCK_C": 64, "BLOCK_K": 32}, 8, 3),
}

# Without tensor cores a product keeps its operands in registers: narrower tiles, spread over more warps.
_NARROW: dict[str, Tile] = {
    **_WARP_GROUP,
    "logits": Tile({"BLOCK_D": 16, "STEPS": 64}, warps=8),
    "mixing": Tile({"BLOCK_D": 16, "STEPS": 16, "BLOCK_B": 4}, warps=8),
    "logits_gradient": Tile({"BLOCK_D": 16, "STEPS": 64}, warps=8),
    "input_gradient": Tile({"BLOCK_D": 16, "BLOCK_N": 16}, warps=8),
    "weight_gradient": Tile({"BLOCK_D": 16}, warps=8),
    "project_upsample_add": Tile({"TILE_H": 8, "TILE_W": 4, "BLOCK_C": 32, "BLOCK_K": 16}, warps=8),
    "convolve_add_relu": Tile({"BLOCK_N": 64, "BLOCK_C": 64, "BLOCK_K": 16}, warps=8),
    "tap_logits": Tile({"TILE_H": 8, "TILE_W": 8, "BLOCK_C": 32, "BLOCK_K": 16}, warps=8),
    "learned_score": Tile({"BLOCK": 4096}, warps=16),
    "order": Tile({"BLOCK_B": 16, "BLOCK_D": 16, "STEPS": 64}, warps=8),
}

# Triton multiplies on Turing's ordinary cores; bfloat16 came with the same generation as its tensor core support.
_FIRST_WITH_TENSOR_CORES = (8, 0)
_WITH_WARP_GROUPS = ((9, 0), (10, 0))


def listed_capability(capability: Capability) -> Capability:
    """The highest listed capability that a device has.

    Raises:
        RuntimeError: a device below the lowest.
    """
    if capability < CAPABILITIES[0]:
        raise RuntimeError(f"compute capability {capability} is below {CAPABILITIES[0]}")
    return max(one for one in CAPABILITIES if one <= capability)


def has_dtype(capability: Capability, dtype: torch.dtype) -> bool:
    """Whether kernels for maps of a dtype run on a device."""
    return dtype != torch.bfloat16 or capability >= _FIRST_WITH_TENSOR_CORES


# Tiles that the offline search tries instead of the table's.
_TRIED: dict[str, Tile] = {}


@contextmanager
def trying(kernel: str, tile: Tile) -> Iterator[None]:
    """Inside, `tile_for` gives this tile for the kernel on every device: for the offline search, in one thread."""
    _TRIED[kernel] = tile
    try:
        yield
    finally:
        del _TRIED[kernel]


def tile_for(kernel: str, capability: Capability, dtype: torch.dtype) -> Tile:
    """The kernel's tile on a device for maps of a dtype.

    Raises:
        RuntimeError: a device below the lowest listed capability, or bfloat16 on one that has none.
    """
    listed = listed_capability(capability)
    tensor_cores = capability >= _FIRST_WITH_TENSOR_CORES
    if not has_dtype(capability, dtype):
        raise RuntimeError(f"compute capability {capability} has no bfloat16; use float16")
    if kernel in _TRIED:
        return _TRIED[kernel]
    if dtype == torch.float32 or not tensor_cores:
        return _NARROW[kernel]
    return (_WARP_GROUP if listed in _WITH_WARP_GROUPS else _WARP)[kernel]
