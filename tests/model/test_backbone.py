import pytest
import torch

from prn_fast.model.backbone import make_backbone
from prn_fast.model.config import BACKBONES


@pytest.mark.parametrize("name", BACKBONES)
def test_maps_have_the_channels_and_strides_of_the_configuration(name):
    features = make_backbone(name)(torch.randn(2, 3, 64, 64))
    shapes = [tuple(maps.shape) for maps in features]
    assert shapes == [
        (2, channels, 64 // stride, 64 // stride)
        for channels, stride in zip(BACKBONES[name].channels, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_train_on_any_part_changes_nothing(name):
    torch.manual_seed(0)
    backbone = make_backbone(name)
    images = torch.randn(2, 3, 64, 64)
    before = [maps.clone() for maps in backbone(images)]
    state = {key: value.clone() for key, value in backbone.state_dict().items()}
    for module in backbone.modules():
        module.train()
        backbone(images)
    assert not backbone.training
    for old, new in zip(before, backbone(images), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0)
    for key, value in backbone.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0, msg=key)


@pytest.mark.parametrize("size", [0, 1, 2])
def test_lite_networks_compute_what_their_publisher_computes(size):
    """Against the network definition that its authors ship, on the published weights, up to the head."""
    from efficientnet_lite_pytorch import EfficientNet

    from prn_fast.model.weights import load_backbone_weights, pretrained_state

    name = f"efficientnet_lite{size}"
    state = pretrained_state(name)
    # Its padding is that of one size of image.
    published = EfficientNet.from_name(f"efficientnet-lite{size}", image_size=(128, 192)).eval()
    published.load_state_dict(state)
    backbone = make_backbone(name)
    assert load_backbone_weights(backbone, state, "package") == []
    images = torch.randn(1, 3, 128, 192).clamp(-1, 1)
    with torch.no_grad():
        expected = published.extract_features(images)
        head = published._bn1(published._conv_head(backbone(images)[3]))
    found = torch.nn.functional.relu6(head)
    assert float((found - expected).norm() / expected.norm()) < 1e-5
