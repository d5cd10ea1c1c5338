"""A trained PRN as engines run it: bytes in, scores and maps out, with nothing in it that need not be computed.

Relative to the published formulation (PRN.md, "What breaks on the way to an engine"): batch norm is folded into the
convolution before it, query and key into one projection, and the operations are a formulation without waste. Each of
these is exact; only rounding differs.
"""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from prn_fast.kernels import LEAN, Ops
from prn_fast.kernels.multi_size_attention.lean import fold_query_key
from prn_fast.model.attention import ElementwiseAttention
from prn_fast.model.prn import PRN

Network = TypeVar("Network", bound=nn.Module)


class EngineGraph(nn.Module):
    """uint8 images (N, S, S, C) to scores (N,) and maps (N, S, S); normalising and scoring are inside.

    Args:
        model: trained; it is copied and left as it is.
        ops: the formulation of the operations.
        dtype: of weights and arithmetic; None keeps the model's. Weights are folded before they are rounded to it.
        memory_format: of weights and maps.

    Scores and maps are float32 where `dtype` is shorter, otherwise of `dtype`.
    """

    def __init__(
        self,
        model: PRN,
        ops: Ops = LEAN,
        dtype: torch.dtype | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        super().__init__()
        self.model: PRN = fold_attention(fold_batch_norm(with_ops(model, ops))).requires_grad_(False)
        self.to(dtype=dtype, memory_format=memory_format)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        return self.model.detect(images)


def with_ops(model: PRN, ops: Ops) -> PRN:
    """The same network in eval mode, sharing the weights, built from another formulation of the operations."""
    with torch.device("meta"):
        other = PRN(model.config, ops)
    other.load_state_dict(model.state_dict(), assign=True)
    return other.eval().requires_grad_(False)


def fold_batch_norm(model: Network) -> Network:
    """Fold every batch norm into the convolution that feeds it, in a copy; for eval mode.

    A batch norm follows the convolution registered just before it in the same module, as all blocks here are written.
    """
    model = copy.deepcopy(model).eval()
    for parent in model.modules():
        convolution: tuple[str, nn.Conv2d] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                convolution = name, child
            elif isinstance(child, nn.BatchNorm2d):
                if convolution is None:
                    raise TypeError(f"{type(parent).__name__}.{name} follows no convolution")
                setattr(parent, convolution[0], fuse_conv_bn_eval(convolution[1], child))
                setattr(parent, name, nn.Identity())
                convolution = None
    return model


def fold_attention(model: PRN) -> PRN:
    """Put one projection in the place of every query and key (see `fold_query_key`), in the model itself."""
    for module in model.modules():
        if isinstance(module, ElementwiseAttention):
            module.query_key = nn.ParameterList(
                nn.Parameter(fold_query_key(one), requires_grad=False) for one in module.query_key
            )
    return model
