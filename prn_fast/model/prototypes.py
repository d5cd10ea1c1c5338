"""The prototypes of a PRN, and how they are made: centres of the normal images' feature maps."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from prn_fast.errors import ConfigError
from prn_fast.model.config import PROTOTYPE_SHARE, PRNConfig


class Prototypes(nn.Module):
    """K_s prototypes (K_s, C_s, h_s, h_s) of each scale, as buffers `scale1`, `scale2`, `scale3`."""

    scale1: Tensor
    scale2: Tensor
    scale3: Tensor

    def __init__(self, config: PRNConfig) -> None:
        super().__init__()
        for index, (count, channels, side) in enumerate(
            zip(config.prototypes, config.channels, config.sides, strict=True), start=1
        ):
            self.register_buffer(f"scale{index}", torch.zeros(count, channels, side, side))

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """The prototypes of the three scales."""
        return self.scale1, self.scale2, self.scale3


def prototype_count(normals: int, share: float = PROTOTYPE_SHARE) -> int:
    """K for a number of normal images: their share, rounded down, at least one."""
    if not 0.0 < share <= 1.0:
        raise ConfigError(f"the share of prototypes must be above 0 and at most 1, not {share}")
    return max(1, int(normals * share))


@torch.no_grad()
def cluster_prototypes(
    backbone: nn.Module,
    batches: Iterable[Tensor],
    count: int,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[Tensor]:
    """K-means centres of whole feature maps, for each scale on its own (PRN.md, step 2).

    Args:
        backbone: in eval mode.
        batches: normalised normal images (B, 3, S, S).
        count: K, at most the number of images.
        seed: of the clustering.
        progress: called with a line before each slow step.
    Returns:
        Three tensors (K, C_s, h_s, h_s), float32.
    """
    import numpy as np
    from sklearn.cluster import KMeans

    scales: Sequence[list[Tensor]] = ([], [], [])
    for images in batches:
        for maps, feature in zip(scales, backbone(images)[:3], strict=True):
            maps.append(feature.float().cpu())
    centres = []
    for index, maps in enumerate(scales, start=1):
        features = torch.cat(maps)
        maps.clear()
        if progress is not None:
            progress(f"clustering {len(features)} normal images into {count} prototypes, scale {index} of 3")
        # Distances between images are all that K-means needs of a map with up to a million values: the maps are
        # turned into their coordinates in the space that the N images span, exactly, and clustered there.
        coordinates = spanned_coordinates(features.flatten(1))
        labels = KMeans(n_clusters=count, random_state=seed, n_init=1).fit(coordinates.numpy()).labels_
        members = torch.nn.functional.one_hot(torch.from_numpy(labels.astype(np.int64)), count).T.float()
        means = (members @ features.flatten(1)) / members.sum(1, keepdim=True)
        centres.append(means.reshape(count, *features.shape[1:]))
    return centres


def spanned_coordinates(points: Tensor) -> Tensor:
    """Coordinates of N points (N, D) in the space that they span: (N, N) with the same mutual distances.

    From the eigenvectors V and eigenvalues L of the Gram matrix of the centred points: V sqrt(L).
    """
    centred = points - points.mean(0)
    # Summed in float64 over slices, so that near-equal images keep their distance.
    gram = torch.zeros(len(points), len(points), dtype=torch.float64)
    for block in centred.split(65536, dim=1):
        gram += (block @ block.T).double()
    values, vectors = torch.linalg.eigh(gram)
    return (vectors * values.clamp_min(0).sqrt()).float()
