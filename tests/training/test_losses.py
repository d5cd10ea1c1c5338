import pytest
import torch

from prn_fast.kernels.anomaly_score.reference import TOP_PIXELS
from prn_fast.training.losses import focal_loss, hardest, prn_losses, score_losses


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


@pytest.mark.parametrize("defective", [0, 7, 300], ids=["none", "fewer than the score takes", "many"])
def test_the_largest_pixels_inside_and_outside_of_the_mask_make_the_score_loss(defective):
    torch.manual_seed(1)
    logits = 3 * torch.randn(3, 1, 33, 29)
    masks = torch.zeros(3, 33, 29)
    places = torch.randperm(33 * 29)[:defective]
    masks[1].view(-1)[places] = 1
    found = score_losses(logits, masks)
    for values, mask, loss in zip(logits.double().view(3, -1), masks.view(3, -1) > 0, found, strict=True):
        outside = values[~mask].sort(descending=True).values[:TOP_PIXELS]
        expected = -torch.log(1 - torch.sigmoid(outside)).mean()
        if mask.any():
            inside = values[mask].sort(descending=True).values[:TOP_PIXELS]
            expected = expected - torch.log(torch.sigmoid(inside)).mean()
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("covered", [0.0, 1.0], ids=["no mask", "all masked"])
@pytest.mark.parametrize("value", [-1e4, 1e4])
def test_the_score_loss_and_its_gradient_are_finite(value, covered):
    logits = torch.full((2, 1, 12, 12), value, requires_grad=True)
    score_losses(logits, torch.full((2, 12, 12), covered)).sum().backward()
    gradient = logits.grad
    assert torch.isfinite(gradient).all()
    wrong = (value > 0) != (covered == 1.0)
    assert float(gradient.abs().sum()) == pytest.approx(2.0 if wrong else 0.0)


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
