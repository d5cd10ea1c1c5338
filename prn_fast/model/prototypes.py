"""The prototypes of a PRN, and how they are made: centres of the normal images' feature maps."""

from collections.abc import Callable, Iterable, Iterator, Sequence

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
    """K-means centres of whole feature maps, for each scale on its own.

    Args:
        backbone: in eval mode.
        batches: normalised normal images (B, 3, S, S).
        count: K, at most the number of images.
        seed: of the clustering.
        progress: called with a line before each slow step.
    Returns:
        Three tensors (K, C_s, h_s, h_s), float32.
    """
    centres = []
    for index, features in enumerate(_feature_maps(backbone, batches), start=1):
        if progress is not None:
            progress(f"clustering {len(features)} normal images into {count} prototypes, scale {index} of 3")
        centres.append(_centres(features, torch.ones(len(features)), count, seed))
    return centres


@torch.no_grad()
def extend_prototypes(
    backbone: nn.Module,
    prototypes: Sequence[Tensor],
    images_behind: int,
    batches: Iterable[Tensor],
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[Tensor]:
    """The prototypes of a trained network and new normal images, clustered again into as many prototypes.

    The images that prototypes were made of are gone. Each prototype stands for as many of them as any other.

    Args:
        backbone: in eval mode.
        prototypes: of the three scales, (K, C_s, h_s, h_s).
        images_behind: number of normal images that they were made of.
        batches: normalised new normal images (B, 3, S, S).
        seed: of the clustering.
        progress: called with a line before each slow step.
    Returns:
        Three tensors (K, C_s, h_s, h_s), float32.
    """
    centres = []
    for index, (old, new) in enumerate(zip(prototypes, _feature_maps(backbone, batches), strict=True), start=1):
        if progress is not None:
            progress(f"clustering {len(old)} prototypes and {len(new)} new normal images, scale {index} of 3")
        each = max(1.0, images_behind / len(old))
        weights = torch.cat([torch.full((len(old),), each), torch.ones(len(new))])
        centres.append(_centres(torch.cat([old.float().cpu(), new]), weights, len(old), seed))
    return centres


def _feature_maps(backbone: nn.Module, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The feature maps (N, C_s, h_s, h_s) of all images, scale by scale; each is freed when the next one comes."""
    scales: Sequence[list[Tensor]] = ([], [], [])
    for images in batches:
        for maps, feature in zip(scales, backbone(images)[:3], strict=True):
            maps.append(feature.float().cpu())
    for maps in scales:
        features = torch.cat(maps)
        maps.clear()
        yield features


def _centres(features: Tensor, weights: Tensor, count: int, seed: int) -> Tensor:
    """K-means centres (count, ...) of weighted feature maps (N, ...)."""
    import numpy as np
    from sklearn.cluster import KMeans

    # Distances between images are all that K-means needs of a map with up to a million values: the maps are turned
    # into their coordinates in the space that the N images span, exactly, and clustered there.
    coordinates = spanned_coordinates(features.flatten(1)).numpy()
    clustering = KMeans(n_clusters=count, random_state=seed, n_init=1).fit(coordinates, sample_weight=weights.numpy())
    labels = torch.from_numpy(clustering.labels_.astype(np.int64))
    members = torch.nn.functional.one_hot(labels, count).T.float() * weights
    means = (members @ features.flatten(1)) / members.sum(1, keepdim=True)
    return means.reshape(count, *features.shape[1:])


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
