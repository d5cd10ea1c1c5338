"""A memory of normal patches: how far an image lies from what normal images look like, place by place, untrained.

PatchCore's idea (Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022), kept small. A patch
is a place of the backbone's map at stride 8, with the 3 x 3 places around it averaged, and what the map at stride 16
holds there. The memory keeps patches of normal images that lie as far apart as possible. A place is as anomalous as it
is far from the nearest patch in the memory:

    a(x) = min over m in memory of || f(x) - m ||
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from prn_fast.model.config import PRNConfig

# Candidates, drawn at random, and the width that they are projected to while the memory is chosen among them.
CANDIDATES, PROJECTED = 40_000, 32


def memory_size(wanted: int, images: int, config: PRNConfig) -> int:
    """How many patches a memory can hold, given the number of normal images; at most as many as wanted."""
    return min(wanted, CANDIDATES, images * config.sides[1] ** 2)


class PatchMemory(nn.Module):
    """M patches (M, D) as the buffer `patches`; D the channels at strides 8 and 16."""

    patches: Tensor

    def __init__(self, count: int, config: PRNConfig) -> None:
        super().__init__()
        self.register_buffer("patches", torch.zeros(count, config.channels[1] + config.channels[2]))

    def forward(self, fine: Tensor, coarse: Tensor, most: int | None = None) -> Tensor:
        """Distances (B, h, w) of maps at strides 8 and 16, (B, C2, h, w) and (B, C3, h / 2, w / 2); float32 at least.

        Of more patches than `most`, the first ones are taken, which cover the memory. Distances stay the same if one
        vector is taken from all patches: with the memory's mean off, little cancels.
        """
        dtype = torch.promote_types(fine.dtype, torch.float32)
        memory = self.patches[:most].to(dtype)
        centre = memory.mean(0)
        memory = memory - centre
        points = _patch_maps(fine.to(dtype), coarse.to(dtype)) - centre[:, None, None]
        # ||f - m||^2 without ||f||^2, which is the same for every m: one convolution, and the least of its values. Some
        # devices of TensorRT-RTX have no matrix product in float32.
        least = functional.conv2d(points, -2 * memory[:, :, None, None], memory.square().sum(1)).amin(1)
        return (least + points.square().sum(1)).clamp_min(0).sqrt()


def patches_of(fine: Tensor, coarse: Tensor) -> Tensor:
    """Patches (B, h, w, D) of maps at strides 8 and 16."""
    return _patch_maps(fine, coarse).permute(0, 2, 3, 1)


def _patch_maps(fine: Tensor, coarse: Tensor) -> Tensor:
    """The same as maps (B, D, h, w)."""
    pooled = [functional.avg_pool2d(maps, 3, 1, 1, count_include_pad=False) for maps in (fine, coarse)]
    size = (fine.shape[2], fine.shape[3])
    coarse = functional.interpolate(pooled[1], size, mode="bilinear", align_corners=True)
    return torch.cat([pooled[0], coarse], dim=1)


def squared_distances(points: Tensor, others: Tensor) -> Tensor:
    """(..., P, D) and (Q, D) to (..., P, Q)."""
    squares = points.square().sum(-1, keepdim=True) + others.square().sum(-1)
    return (squares - 2 * (points @ others.T)).clamp_min(0)


def farthest_points(points: Tensor, count: int) -> Tensor:
    """Indices of points that cover the others: each is the one farthest from all before it; the first is the first.

    Args:
        points: (N, D).
        count: of points to choose, all if there are no more.
    Returns:
        (min(count, N),) int64.
    """
    chosen = torch.zeros(min(count, len(points)), dtype=torch.int64, device=points.device)
    squares = points.square().sum(1)
    distances = torch.full_like(squares, torch.inf)
    for index in range(1, len(chosen)):
        last = chosen[index - 1]
        to_last = squares + squares[last] - 2 * (points @ points[last])
        torch.minimum(distances, to_last, out=distances)
        chosen[index] = distances.argmax()
    return chosen


@torch.no_grad()
def remember_more(
    patches: Tensor, backbone: nn.Module, batches: Iterable[Tensor], images: int, seed: int = 0
) -> Tensor:
    """As many patches (M, D) as before, of those that are there and of more normal images; arguments as `remember`."""
    pool = torch.cat([patches, remember(backbone, batches, images, len(patches), seed)])
    return _spread_out(pool, len(patches), torch.Generator().manual_seed(seed))


@torch.no_grad()
def remember(backbone: nn.Module, batches: Iterable[Tensor], images: int, count: int, seed: int = 0) -> Tensor:
    """Patches (M, D) that cover those of normal images, M = count or all that there are; the same for the same seed.

    Args:
        backbone: in eval mode.
        batches: normalised normal images (B, 3, S, S).
        images: how many there are in all.
        count: of patches to keep.
    """
    generator = torch.Generator().manual_seed(seed)
    each = -(-CANDIDATES // images)
    candidates: list[Tensor] = []
    for batch in batches:
        _, fine, coarse, *_ = backbone(batch)
        for patches in patches_of(fine, coarse).flatten(1, 2):
            drawn = torch.randperm(len(patches), generator=generator)[:each]
            candidates.append(patches[drawn.to(patches.device)].float())
    return _spread_out(torch.cat(candidates), count, generator)


def _spread_out(pool: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Patches of a pool (N, D) that cover it."""
    projection = torch.randn(pool.shape[1], PROJECTED, generator=generator).to(pool.device)
    return pool[farthest_points(pool @ projection, count)]
