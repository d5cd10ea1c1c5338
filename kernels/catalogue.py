"""Every kernel at the shapes of the real network: what is compiled ahead of time, tabulated and benchmarked."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from prn_fast.kernels.launch import Launch
from prn_fast.kernels.tiles import Capability, tile_for

GRIDS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Scale:
    """One scale of a PRN with the ResNet-18 backbone and 256x256 images: C_s channels, side h_s, K prototypes."""

    channels: int
    side: int
    prototypes: int = 20

    @property
    def size(self) -> int:
        """Values of a feature map."""
        return self.channels * self.side**2


SCALES = (Scale(64, 64), Scale(128, 32), Scale(256, 16))


def launches(
    scale: Scale, batch: int, dtype: torch.dtype, capability: Capability, channels_last: bool = True
) -> Iterator[tuple[str, Launch]]:
    """Names and launches of all kernels at a scale; attention sees twice the channels. Needs triton."""
    from prn_fast.kernels.multi_scale_fusion import fused as fusion
    from prn_fast.kernels.multi_size_attention import fused as attention
    from prn_fast.kernels.prototype_residual import fused as residual

    distance = residual.plan_distance(
        batch, scale.prototypes, scale.size, dtype, tile_for("distance", capability, dtype)
    )
    yield "distance", distance
    yield (
        "residual",
        residual.plan_residual(
            batch, scale.prototypes, scale.size, distance.grid[0], dtype, tile_for("residual", capability, dtype)
        ),
    )
    shape = attention.AttentionShape(batch, 2 * scale.channels, scale.side, scale.side, GRIDS, dtype, channels_last)
    logits = attention.plan_logits(shape, tile_for("logits", capability, dtype))
    yield "logits", logits
    yield "softmax", attention.plan_softmax(shape, logits.grid[0], tile_for("softmax", capability, dtype))
    yield "mixing", attention.plan_mixing(shape, tile_for("mixing", capability, dtype))
    yield (
        "upsample_add",
        fusion.plan_upsample_add(
            batch,
            scale.channels,
            scale.side,
            scale.side,
            1,
            coarser(scale),
            dtype,
            channels_last,
            tile_for("upsample_add", capability, dtype),
        ),
    )


def coarser(scale: Scale) -> list[tuple[int, int]]:
    """Sizes of the two maps that come to the finest scale from the next ones."""
    return [(scale.side // 2, scale.side // 2), (scale.side // 4, scale.side // 4)]
