"""Joint batch norm in a group of one process; test_processes.py trains with two."""

import copy

import pytest
import torch
from torch import distributed, nn

from prn_fast.model.backbone import FrozenBatchNorm2d
from prn_fast.training.batch_norm import JointBatchNorm2d, join_batch_norms


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory):
    store = distributed.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), FrozenBatchNorm2d(5)).double()
    joint = copy.deepcopy(plain)
    join_batch_norms(joint, torch.device("cpu"))
    return plain, joint


@pytest.mark.parametrize("shape", [(2, 3, 9, 7), (5, 3, 4, 3)], ids=str)
def test_outputs_gradients_and_statistics_are_those_of_batch_norm(shape):
    plain, joint = pair()
    assert isinstance(joint[1], JointBatchNorm2d)
    for _ in range(3):
        # A mean that is large beside the deviation.
        images = 100 + torch.randn(shape, dtype=torch.float64)
        for model in (plain, joint):
            model.zero_grad()
            model(images).pow(3).mean().backward()
        torch.testing.assert_close(joint(images), plain(images))
        for ours, theirs in zip(joint.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-7)
    for name, value in joint.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name])
    torch.testing.assert_close(joint.eval()(images), plain.eval()(images))


def test_half_precision_keeps_its_dtype():
    _, joint = pair()
    assert joint.float()[1](torch.randn(2, 5, 4, 4).bfloat16()).dtype == torch.bfloat16


def test_frozen_batch_norms_are_left():
    _, joint = pair()
    assert type(joint[2]) is FrozenBatchNorm2d
