import pytest
import torch
from sklearn.cluster import KMeans

from prn_fast.errors import ConfigError
from prn_fast.model.prototypes import cluster_prototypes, prototype_count, spanned_coordinates


class Scales(torch.nn.Module):
    """Stands for a backbone: three poolings of the image itself."""

    def forward(self, images):
        return [torch.nn.functional.avg_pool2d(images, size) for size in (1, 2, 4, 8)]


def grouped_images(groups: int, each: int) -> torch.Tensor:
    centres = 10 * torch.randn(groups, 1, 3, 8, 8)
    return (centres + 0.1 * torch.randn(groups, each, 3, 8, 8)).flatten(0, 1)


def test_centres_are_the_means_of_well_separated_groups():
    torch.manual_seed(0)
    images = grouped_images(4, 6)
    centres = cluster_prototypes(Scales(), images.split(5), 4)
    for maps, found in zip(Scales()(images)[:3], centres, strict=True):
        means = maps.reshape(4, 6, *maps.shape[1:]).mean(1)
        nearest = torch.cdist(means.flatten(1), found.flatten(1)).min(1).values
        assert found.shape == means.shape
        assert float(nearest.max()) < 1e-3


def test_clusters_are_those_of_the_full_maps():
    torch.manual_seed(1)
    points = torch.randn(30, 500)
    direct = KMeans(5, random_state=0, n_init=1).fit(points.numpy())
    spanned = KMeans(5, random_state=0, n_init=1).fit(spanned_coordinates(points).numpy())
    assert (direct.labels_ == spanned.labels_).all()


def test_coordinates_keep_distances():
    points = torch.randn(12, 400, dtype=torch.float64).float() * torch.logspace(-2, 1, 12)[:, None]
    torch.testing.assert_close(
        torch.cdist(spanned_coordinates(points), spanned_coordinates(points)),
        torch.cdist(points, points),
        rtol=1e-4,
        atol=1e-3,
    )


@pytest.mark.parametrize(("normals", "count"), [(762, 76), (19, 1), (3, 1)])
def test_a_tenth_of_the_normals(normals, count):
    assert prototype_count(normals) == count


def test_an_impossible_share_is_refused():
    with pytest.raises(ConfigError, match="share"):
        prototype_count(10, 0.0)
