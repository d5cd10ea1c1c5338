import pytest
import torch

from prn_fast.training.losses import focal_loss, hardest, prn_losses


@pytest.mark.parametrize(("focal_weight", "smooth_l1"), [(5.0, True), (0.0, True), (2.0, False)], ids=str)
def test_the_loss_is_its_formula(focal_weight, smooth_l1):
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 1, 9, 7, dtype=torch.float64)
    masks = (torch.rand(2, 9, 7) < 0.3).double()
    p = torch.sigmoid(logits[:, 0])
    pt = torch.where(masks == 1, p, 1 - p)
    focal = (-0.5 * (1 - pt) ** 4 * torch.log(pt)).mean((1, 2))
    smooth = (0.5 * (p - masks) ** 2).mean((1, 2))
    expected = smooth_l1 * smooth + focal_weight * focal
    found = prn_losses(logits, masks, focal_weight, smooth_l1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("value", [-1e4, 1e4])
def test_sure_and_wrong_is_finite(value):
    logits = torch.full((1, 4, 4), value, requires_grad=True)
    loss = focal_loss(logits, torch.full((1, 4, 4), float(value < 0))).mean()
    loss.backward()
    assert torch.isfinite(loss.detach())
    assert torch.isfinite(logits.grad).all()
    assert float(loss.detach()) > 1000


def test_half_precision_logits_are_computed_in_float32():
    logits = torch.randn(1, 1, 8, 8)
    assert prn_losses(logits.bfloat16(), torch.zeros(1, 8, 8), 5.0, True).dtype == torch.float32


@pytest.mark.parametrize(
    ("share", "expected"),
    [(1.0, [1, 1, 1, 1, 1, 1]), (0.5, [1, 1, 1, 0, 1, 0]), (0.01, [1, 0, 1, 0, 1, 0])],
    ids=["all", "half", "at-least-one"],
)
def test_normals_and_the_hardest_anomalies_count(share, expected):
    losses = torch.tensor([0.9, 0.4, 0.0, 0.4, 0.7, 0.1])
    anomalous = torch.tensor([False, True, False, True, True, True])
    # Of the two that are equally hard, the first counts.
    assert hardest(losses, anomalous, share).int().tolist() == expected


def test_a_step_without_anomalies_counts_whole():
    assert hardest(torch.rand(4), torch.zeros(4, dtype=torch.bool), 0.5).all()
