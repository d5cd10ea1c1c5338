"""The operations of PRN, one folder each, and the sets of formulations that a network can be built from.

`operation.py` in a folder states what the rest of the project needs of it (`OPERATIONS`). Every folder holds
`reference.py`, the published formulation in plain PyTorch and the definition of correct, and, where that one is
wasteful, `optimized.py`: the same function in less wasteful plain PyTorch. `REFERENCE` is what a user of the
public implementation has today; `OPTIMIZED` is what training on the CPU and the exported graph use.
`FUSED` runs Triton kernels on a GPU (Triton is imported at the first such call) and is `OPTIMIZED` on the CPU; its
operations are registered with PyTorch, so that a compiled or exported graph keeps them whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from prn_fast.kernels.anomaly_score.operation import LEARNED_SCORE, STITCHING
from prn_fast.kernels.anomaly_score.operation import OPERATION as ANOMALY_SCORE
from prn_fast.kernels.convolution_relu.operation import OPERATION as CONVOLUTION_RELU
from prn_fast.kernels.logit_head.operation import OPERATION as LOGIT_HEAD
from prn_fast.kernels.multi_scale_fusion.operation import OPERATION as MULTI_SCALE_FUSION
from prn_fast.kernels.multi_size_attention.operation import BACKWARD
from prn_fast.kernels.multi_size_attention.operation import OPERATION as MULTI_SIZE_ATTENTION
from prn_fast.kernels.operation import Operation
from prn_fast.kernels.prototype_residual.operation import OPERATION as PROTOTYPE_RESIDUAL
from prn_fast.kernels.tile_normalize.operation import OPERATION as NORMALIZE_IMAGES


@dataclass(frozen=True)
class Ops:
    """One formulation of each operation; see the `reference.py` files for arguments and shapes."""

    prototype_residual: Callable[[Tensor, Tensor], Tensor]
    multi_scale_fusion: Callable[..., tuple[Tensor, Tensor, Tensor]]
    multi_size_attention: Callable[..., Tensor]
    normalize_images: Callable[..., Tensor]
    anomaly_score: Callable[[Tensor], tuple[Tensor, Tensor]]
    convolution_relu: Callable[..., Tensor]
    logit_head: Callable[..., Tensor]
    learned_score: Callable[[Tensor, Tensor, Tensor], Tensor]

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Itself: copies of a network share their formulation, which is constant (and cannot be pickled)."""
        return self


# What a network is built from: the fields of `Ops`.
NETWORK: tuple[Operation, ...] = (
    NORMALIZE_IMAGES,
    PROTOTYPE_RESIDUAL,
    MULTI_SCALE_FUSION,
    MULTI_SIZE_ATTENTION,
    CONVOLUTION_RELU,
    LOGIT_HEAD,
    ANOMALY_SCORE,
    LEARNED_SCORE,
)
OPERATIONS: tuple[Operation, ...] = (*NETWORK, STITCHING, BACKWARD)

REFERENCE = Ops(**{one.name: one.reference for one in NETWORK})
OPTIMIZED = Ops(**{one.name: one.optimized for one in NETWORK})
FUSED = Ops(**{one.name: one.fused for one in NETWORK})

__all__ = ["FUSED", "NETWORK", "OPERATIONS", "OPTIMIZED", "REFERENCE", "Ops"]
