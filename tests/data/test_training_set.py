"""What the training loop reads."""

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from prn_fast.data.anomalies import AnomalyGenerator
from prn_fast.data.textures import generate_textures
from prn_fast.data.training_set import EpochBatches, TrainingSet, relit, use_one_thread
from prn_fast.errors import ConfigError, DataError


def make_set(channels: int = 1, seed: int = 0, flips: bool = False) -> TrainingSet:
    normals = np.random.default_rng(5).integers(80, 140, (4, 64, 64, channels), np.uint8)
    return TrainingSet(normals, AnomalyGenerator(generate_textures(4, channels, seed=0)), seed, flips)


def all_items(dataset: TrainingSet) -> tuple[torch.Tensor, torch.Tensor]:
    images, masks = zip(*(dataset[i] for i in range(len(dataset))), strict=True)
    return torch.stack(images), torch.stack(masks)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_normal_comes_plain_and_with_an_anomaly(channels):
    dataset = make_set(channels)
    images, masks = all_items(dataset)
    assert images.shape == (8, 64, 64, channels)
    assert images.dtype == torch.uint8
    assert masks.shape == (8, 64, 64)
    assert masks.dtype == torch.float32
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert masks.flatten(1).any(1).tolist() == [False, True] * 4
    changed = (images[0::2] != images[1::2]).any(-1)
    assert changed[masks[1::2] > 0].float().mean() > 0.9


def test_items_follow_seed_epoch_and_index_alone():
    first, second = make_set(), make_set()
    forward = all_items(first)
    for index in reversed(range(len(second))):
        image, mask = second[index]
        assert torch.equal(image, forward[0][index])
        assert torch.equal(mask, forward[1][index])
    assert not torch.equal(all_items(make_set(seed=1))[1], forward[1])


def test_epochs_differ_and_come_again():
    dataset = make_set()
    epochs = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        epochs.append(all_items(dataset)[1])
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize("init", [None, use_one_thread], ids=["plain", "one-thread"])
def test_worker_processes_that_live_on_see_the_next_epoch(init):
    # Large enough that OpenCV starts its threads, which a forked worker does not have.
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (0, 0), 5)
    threads = cv2.getNumThreads()
    dataset = make_set(channels=3)
    loader = DataLoader(dataset, batch_size=4, num_workers=2, persistent_workers=True, worker_init_fn=init, timeout=60)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        images, masks = (torch.cat(parts) for parts in zip(*loader, strict=True))
        expected = all_items(dataset)
        assert torch.equal(images, expected[0])
        assert torch.equal(masks, expected[1])
    assert cv2.getNumThreads() == threads


def test_flips_mirror_the_plain_and_the_anomalous_item_alike():
    plain, flipped = make_set(), make_set(flips=True)
    kinds = set()
    for epoch in range(6):
        flipped.set_epoch(epoch)
        for index in range(0, len(plain), 2):
            original = plain[index][0]
            (image, _), (anomalous, mask) = flipped[index], flipped[index + 1]
            matches = [dims for dims in ((), (0,), (1,), (0, 1)) if torch.equal(image, original.flip(dims))]
            assert len(matches) == 1
            kinds.add(matches[0])
            outside = torch.nn.functional.max_pool2d(mask[None, None], 33, 1, 16)[0, 0] == 0
            assert torch.equal(anomalous[outside], image[outside])
    assert kinds == {(), (0,), (1,), (0, 1)}


def test_several_anomalies_of_each_normal():
    normals = np.random.default_rng(5).integers(80, 140, (3, 64, 64, 1), np.uint8)
    generator = AnomalyGenerator(generate_textures(4, 1, seed=0))
    one, three = (TrainingSet(normals, generator, 0, flips=True, anomaly_ratio=ratio) for ratio in (1, 3))
    assert len(three) == 12
    for normal in range(3):
        # The plain image and the first anomaly are those of the usual set, with the same flips; the others differ.
        for item in (0, 1):
            for ours, usual in zip(three[4 * normal + item], one[2 * normal + item], strict=True):
                assert torch.equal(ours, usual)
        masks = [three[4 * normal + item][1] for item in range(4)]
        assert [bool(mask.any()) for mask in masks] == [False, True, True, True]
        assert not any(torch.equal(masks[a], masks[b]) for a, b in ((1, 2), (1, 3), (2, 3)))


def test_steps_of_an_epoch_are_drawn_once_and_shared_evenly():
    batches = EpochBatches(22, 6, seed=3)
    shares = [EpochBatches(22, 6, seed=3, share=(process, 3)) for process in range(3)]
    for epoch in (0, 1):
        batches.start_epoch(epoch)
        whole = list(batches)
        assert len(whole) == len(batches) == 3
        assert len({item for step in whole for item in step}) == 18
        for process, share in enumerate(shares):
            share.start_epoch(epoch)
            assert list(share) == [step[process::3] for step in whole]
        batches.start_epoch(epoch, done=2)
        assert list(batches) == whole[2:]
    batches.start_epoch(0)
    assert list(batches) != whole


def test_fewer_items_than_a_batch_are_one_step():
    assert [sorted(step) for step in EpochBatches(4, 16, seed=0)] == [[0, 1, 2, 3]]


def test_a_step_that_cannot_be_shared_is_refused():
    with pytest.raises(ConfigError, match="16 images per step cannot be shared evenly by 3"):
        EpochBatches(100, 16, seed=0, share=(0, 3))


def test_normals_are_left_as_they_are():
    normals = np.random.default_rng(5).integers(80, 140, (2, 64, 64, 1), np.uint8)
    before = normals.copy()
    dataset = TrainingSet(normals, AnomalyGenerator(generate_textures(4, 1, seed=0)), 0, flips=True)
    for index in range(4):
        dataset[index][0].fill_(0)
    np.testing.assert_array_equal(normals, before)


@pytest.mark.parametrize(
    "normals",
    [np.zeros((0, 64, 64, 1), np.uint8), np.zeros((2, 64, 64), np.uint8), np.zeros((2, 64, 64, 1), np.float32)],
    ids=["none", "no-channels", "float"],
)
def test_unusable_normals(normals):
    with pytest.raises(DataError, match="training normals must be uint8"):
        TrainingSet(normals, AnomalyGenerator(generate_textures(1, 1, seed=0)), 0)


@pytest.mark.parametrize("index", [-1, 8])
def test_index_out_of_range(index):
    with pytest.raises(IndexError):
        make_set()[index]


def test_light_varies_between_images_and_epochs_and_is_one_for_an_image_and_its_anomaly():
    normals = np.random.default_rng(5).integers(80, 140, (4, 64, 64, 1), np.uint8)
    generator = AnomalyGenerator(generate_textures(4, 1, seed=0))
    dataset = TrainingSet(normals, generator, 0, light=0.2)
    first, _ = all_items(dataset)
    dataset.set_epoch(1)
    second, _ = all_items(dataset)
    levels = torch.cat([first[0::2], second[0::2]]).float().mean((1, 2, 3))
    assert levels.std() > 5
    # What the anomaly does not reach is lit as the plain image is.
    same = (first[0::2] == first[1::2]).float().mean((1, 2, 3))
    assert same.median() > 0.5


def test_light_keeps_the_order_of_values_and_their_range():
    ramp = np.arange(256, dtype=np.uint8)[None, :, None]
    for seed in range(50):
        lit = relit(ramp, 0.3, np.random.default_rng(seed)).astype(int)
        assert (np.diff(lit[0, :, 0]) >= 0).all()
        assert lit[0, 0, 0] == 0
    gain, gamma = np.exp(np.random.default_rng(3).normal(0, 0.3, 2))
    expected = min(255, round(255 * gain * (100 / 255) ** gamma))
    assert abs(int(relit(ramp, 0.3, np.random.default_rng(3))[0, 100, 0]) - expected) <= 1
