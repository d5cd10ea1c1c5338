"""The operations of PRN, one folder each, and the sets of formulations that a network can be built from.

Every folder holds `reference.py`, the published formulation in plain PyTorch and the definition of correct, and,
where that one is wasteful, `lean.py`: the same function, also in plain PyTorch, without the waste. `PUBLISHED` is
what a user of the public implementation has today; `LEAN` is what training on the CPU and the exported graph use.
`FUSED` runs Triton kernels on a GPU (Triton is imported at the first such call) and is `LEAN` on the CPU; its
operations are registered with PyTorch, so that a compiled or exported graph keeps them whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from prn_fast.kernels import anomaly_score as scoring
from prn_fast.kernels import multi_scale_fusion as fusion
from prn_fast.kernels import multi_size_attention as attention
from prn_fast.kernels import prototype_residual as residual
from prn_fast.kernels import tile_normalize as normalizing
from prn_fast.kernels.anomaly_score.reference import anomaly_score
from prn_fast.kernels.multi_scale_fusion import lean as fusion_lean
from prn_fast.kernels.multi_scale_fusion import reference as fusion_reference
from prn_fast.kernels.multi_size_attention import lean as attention_lean
from prn_fast.kernels.multi_size_attention import reference as attention_reference
from prn_fast.kernels.prototype_residual import lean as residual_lean
from prn_fast.kernels.prototype_residual import reference as residual_reference
from prn_fast.kernels.tile_normalize.reference import normalize_images


@dataclass(frozen=True)
class Ops:
    """One formulation of each operation; see the `reference.py` files for arguments and shapes."""

    prototype_residual: Callable[[Tensor, Tensor], Tensor]
    multi_scale_fusion: Callable[..., tuple[Tensor, Tensor, Tensor]]
    multi_size_attention: Callable[..., Tensor]
    normalize_images: Callable[..., Tensor]
    anomaly_score: Callable[[Tensor], tuple[Tensor, Tensor]]

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Itself: copies of a network share their formulation, which is constant (and cannot be pickled)."""
        return self


PUBLISHED = Ops(
    prototype_residual=residual_reference.prototype_residual,
    multi_scale_fusion=fusion_reference.multi_scale_fusion,
    multi_size_attention=attention_reference.multi_size_attention,
    normalize_images=normalize_images,
    anomaly_score=anomaly_score,
)
LEAN = Ops(
    prototype_residual=residual_lean.prototype_residual,
    multi_scale_fusion=fusion_lean.multi_scale_fusion,
    multi_size_attention=attention_lean.multi_size_attention,
    normalize_images=normalize_images,
    anomaly_score=anomaly_score,
)
FUSED = Ops(
    prototype_residual=residual.prototype_residual,
    multi_scale_fusion=fusion.multi_scale_fusion,
    multi_size_attention=attention.multi_size_attention,
    normalize_images=normalizing.normalize_images,
    anomaly_score=scoring.anomaly_score,
)

__all__ = ["FUSED", "LEAN", "PUBLISHED", "Ops"]
