"""The memory of normal patches: what it keeps, and what it measures."""

import pytest
import torch

from prn_fast.model.memory import PatchMemory, farthest_points, memory_size, patches_of, remember, remember_more
from prn_fast.model.prn import PRN
from tests.small_package import small_config, small_model, textured_images


@pytest.fixture(scope="module")
def model() -> PRN:
    return small_model(small_config())


def test_the_points_kept_cover_the_others() -> None:
    clusters = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = (clusters[:, None] + 0.1 * torch.randn(3, 20, 2, generator=torch.Generator().manual_seed(0))).flatten(0, 1)
    chosen = farthest_points(points, 3)
    assert sorted((chosen // 20).tolist()) == [0, 1, 2]
    # Farthest points bound the distance of every point to the nearest kept one: it falls as more are kept.
    kept = [points[farthest_points(points, count)] for count in (3, 10, 60)]
    covered = [(points[:, None] - one).square().sum(2).amin(1).max() for one in kept]
    assert covered[0] > covered[1] > covered[2] == 0


def test_a_memory_holds_the_patches_of_its_images_and_measures_to_the_nearest(model: PRN) -> None:
    images = model.normalize(torch.from_numpy(textured_images(2, 1, 4)))
    _, fine, coarse, _ = model.backbone(images)
    patches = patches_of(fine, coarse)
    assert patches.shape == (2, 8, 8, 152)
    # The middle of the stride-8 channels is a plain mean of 3 x 3.
    torch.testing.assert_close(patches[1, 3, 5, :40], fine[1, :, 2:5, 4:7].mean((1, 2)))
    memory = PatchMemory(64, model.config)
    memory.patches = patches[0].flatten(0, 1)
    found = memory(fine, coarse)
    assert found[0].max() < 0.01 * found[1].mean()
    distances = (patches[1].flatten(0, 1)[:, None] - memory.patches).square().sum(2).sqrt()
    torch.testing.assert_close(found[1].flatten(), distances.amin(1), rtol=1e-3, atol=1e-3)
    by_some = memory(fine, coarse, most=20)[1]
    torch.testing.assert_close(by_some.flatten(), distances[:, :20].amin(1), rtol=1e-3, atol=1e-3)
    assert by_some.sum() > found[1].sum()
    again = [remember(model.backbone, [images], 2, 20, seed) for seed in (3, 3, 4)]
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])
    assert [memory_size(wanted, 2, model.config) for wanted in (20, 1000)] == [20, 128]


def test_a_memory_that_learns_more_covers_old_and_new_images(model: PRN) -> None:
    batches = [model.normalize(torch.from_numpy(textured_images(4, 1, seed))) for seed in (0, 1)]
    batches[1] = batches[1] + 2.0  # of another product
    before = remember(model.backbone, batches[:1], 4, 60)
    after = remember_more(before, model.backbone, batches[1:], 4)
    assert after.shape == before.shape

    def farthest(patches: torch.Tensor, batch: torch.Tensor) -> float:
        memory = PatchMemory(60, model.config)
        memory.patches = patches
        with torch.no_grad():
            _, fine, coarse, _ = model.backbone(batch)
            return float(memory(fine, coarse).max())

    assert farthest(after, batches[1]) < 0.8 * farthest(before, batches[1])
    assert farthest(after, batches[0]) < farthest(before, batches[1])
