import pytest
import torch

from prn_fast.training.losses import focal_loss, prn_loss


def test_the_loss_is_its_formula():
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 1, 9, 7, dtype=torch.float64)
    masks = (torch.rand(2, 9, 7) < 0.3).double()
    p = torch.sigmoid(logits[:, 0])
    pt = torch.where(masks == 1, p, 1 - p)
    focal = (-0.5 * (1 - pt) ** 4 * torch.log(pt)).mean()
    smooth = (0.5 * (p - masks) ** 2).mean()
    torch.testing.assert_close(prn_loss(logits, masks).double(), smooth + 5 * focal, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("value", [-1e4, 1e4])
def test_sure_and_wrong_is_finite(value):
    logits = torch.full((1, 4, 4), value, requires_grad=True)
    loss = focal_loss(logits, torch.full((1, 4, 4), float(value < 0)))
    loss.backward()
    assert torch.isfinite(loss.detach())
    assert torch.isfinite(logits.grad).all()
    assert float(loss.detach()) > 1000


def test_half_precision_logits_are_computed_in_float32():
    logits = torch.randn(1, 1, 8, 8)
    assert prn_loss(logits.bfloat16(), torch.zeros(1, 8, 8)).dtype == torch.float32
