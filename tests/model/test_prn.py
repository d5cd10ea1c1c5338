import dataclasses

import numpy as np
import pytest
import torch

from prn_fast.errors import ConfigError
from prn_fast.kernels import FUSED, OPTIMIZED, REFERENCE
from prn_fast.model.config import PRNConfig
from prn_fast.model.prn import PRN
from tests.small_package import small_config, small_model, textured_images


@pytest.mark.parametrize(
    "config",
    [
        small_config(),
        small_config(channels=3, image_size=192),
        small_config(attention_layers=2, patch_divisors=(1, 4)),
        small_config(projection="pointwise"),
        pytest.param(PRNConfig(image_size=64, prototypes=(2, 1, 4), attention_layers=1), marks=pytest.mark.long),
    ],
    ids=["lite0", "colour-192", "two-layers-two-sizes", "pointwise", "resnet18"],
)
def test_published_and_optimized_formulations_agree(config):
    model = small_model(config).double()
    published = PRN(config, REFERENCE).double().eval()
    published.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, config.image_size, config.image_size, dtype=torch.float64)
    with torch.no_grad():
        expected, found = published.logits(images), model.logits(images)
    assert expected.shape == (2, 1, config.image_size, config.image_size)
    assert float((found - expected).norm() / expected.norm()) < 1e-10


def test_detect_is_sigmoid_and_mean_of_the_hundred_largest():
    config = small_config()
    model = small_model(config)
    images = torch.from_numpy(textured_images(3, 1, 5))
    with torch.no_grad():
        scores, maps = model.detect(images)
        pixels = images.double().permute(0, 3, 1, 2).expand(-1, 3, -1, -1) / 255
        mean = torch.tensor(config.spec.mean).double()[:, None, None]
        std = torch.tensor(config.spec.std).double()[:, None, None]
        expected = torch.sigmoid(model.logits(((pixels - mean) / std).float()))[:, 0]
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-4)
    top = np.sort(maps.numpy().reshape(3, -1), axis=1)[:, -100:].mean(1)
    np.testing.assert_allclose(scores.numpy(), top, rtol=1e-5)


def test_a_normal_image_equal_to_a_prototype_has_no_residual():
    config = small_config()
    model = small_model(config)
    images = torch.from_numpy(textured_images(8, 1, 0)[:3])
    with torch.no_grad():
        features = model.backbone(model.normalize(images))[:3]
    for maps, prototypes in zip(features, model.prototypes(), strict=True):
        assert float(OPTIMIZED.prototype_residual(maps, prototypes).max()) == 0.0


def test_absolute_residuals_are_the_differences_themselves(monkeypatch):
    config = small_config(residual="absolute")
    model = small_model(config).double()
    images = torch.randn(2, 3, config.image_size, config.image_size, dtype=torch.float64)
    seen = []
    fuse = model.fusion1.forward
    monkeypatch.setattr(model.fusion1, "forward", lambda *maps: seen.append(maps) or fuse(*maps))
    with torch.no_grad():
        model.logits(images)
    for (feature, found), prototypes in zip(seen[0], model.prototypes(), strict=True):
        nearest = torch.cdist(feature.flatten(1), prototypes.flatten(1)).argmin(1)
        torch.testing.assert_close(found, (feature - prototypes[nearest]).abs())


@pytest.mark.parametrize("changes", [{}, {"residual": "absolute", "projection": "pointwise"}], ids=str)
def test_training_reaches_everything_but_the_backbone(changes):
    model = small_model(small_config(**changes)).train()
    before = [buffer.clone() for buffer in model.backbone.buffers()]
    model.logits(torch.randn(2, 3, 64, 64)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("backbone."), name
    for old, new in zip(before, model.backbone.buffers(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0)


def test_the_fused_formulation_trains_no_less_exactly_than_the_optimized_one():
    config = small_config()
    optimized = small_model(config).train()
    images = torch.randn(3, 3, config.image_size, config.image_size)

    def gradients(ops, half):
        model = PRN(config, ops).train()
        model.load_state_dict(optimized.state_dict())
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = model.logits(images).float().square().mean()
        loss.backward()
        return {name: one.grad for name, one in model.named_parameters() if one.requires_grad}

    expected, half = gradients(REFERENCE, half=False), gradients(OPTIMIZED, half=True)
    fused, half_fused = gradients(FUSED, half=False), gradients(FUSED, half=True)
    compared = 0
    for name, exact in expected.items():
        scale = float(exact.norm())
        allowed = float((half[name] - exact).norm())
        # Some gradients are sums that cancel, of which half precision leaves nothing.
        if scale < 1e-6 or allowed > scale / 2:
            continue
        compared += 1
        assert float((fused[name] - exact).norm()) < 0.01 * scale, name
        assert float((half_fused[name] - exact).norm()) < 2 * allowed + 0.02 * scale, name
    assert compared > len(expected) / 2


@pytest.mark.parametrize("shape", [(1, 1, 64, 64), (1, 3, 64, 128), (3, 64, 64)], ids=str)
def test_other_shapes_are_refused(shape):
    with pytest.raises(ConfigError, match=r"takes \(B, 3, 64, 64\)"):
        small_model(small_config()).logits(torch.zeros(shape))


def test_prototypes_of_another_shape_are_refused():
    model = small_model(small_config())
    other = PRN(dataclasses.replace(small_config(), prototypes=(4, 3, 3)))
    with pytest.raises(ConfigError, match="prototypes"):
        other.set_prototypes(list(model.prototypes()))
