"""Loading checkpoints of the public implementation, PRNet (xcyao00/PRNet)."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from prn_fast.errors import WeightsError
from prn_fast.model.config import STRIDES, BackboneName, PRNConfig
from prn_fast.model.prn import PRN
from prn_fast.model.weights import require_finite

_PROTOTYPE_KEYS = ("layer1", "layer2", "layer3")
_SOURCE = "PRNet checkpoint"

# PRNet's name of each part, and ours. Positions in its nn.Sequential are 0, 1, ... .
_RENAMES = (
    (r"^encoder\.", "backbone."),
    (r"^ms_fuser([12])\.l(\d)_to_l(\d)\.(?:conv\.)?", r"fusion\1.from\2_to\3."),
    (r"^up(\d)_to_(\d)\.1\.", r"decoder.up\1_to\2.conv."),
    (r"^up(\d)_to_(\d)\.2\.", r"decoder.up\1_to\2.norm."),
    (r"^conv_block(\d)\.0\.", r"decoder.block\1.conv1."),
    (r"^conv_block(\d)\.1\.", r"decoder.block\1.norm1."),
    (r"^conv_block(\d)\.3\.", r"decoder.block\1.conv2."),
    (r"^conv_block(\d)\.4\.", r"decoder.block\1.norm2."),
    (r"^conv_out\.", "decoder.out."),
)
_LAYER = re.compile(r"^attn_module\.layer(\d)_msa\.(\d+)\.(.*)$")
_PROJECTION = re.compile(r"^([qkv])_proj(\d)\.(weight|bias)$")


def load_prnet(state_dict: Mapping[str, Tensor], prototypes: Mapping[str, Tensor]) -> PRN:
    """A PRN with the weights of a PRNet checkpoint, computing the same logits.

    Args:
        state_dict: as saved by PRNet with one class; the backbone, sizes and numbers of layers follow from it.
        prototypes: "layer1", "layer2", "layer3", each (K, C, h, w), from PRNet's .npy files.
    Returns:
        In eval mode, in the floating-point type of the checkpoint. The query and key of the largest patch size have
        no effect and are dropped.
    Raises:
        WeightsError: a key is missing or unknown, a shape does not fit, or a value is not finite.
    """
    if set(prototypes) != set(_PROTOTYPE_KEYS):
        raise WeightsError(f"prototypes need the keys {', '.join(_PROTOTYPE_KEYS)}; got {', '.join(prototypes)}")
    bank = [torch.as_tensor(prototypes[key]) for key in _PROTOTYPE_KEYS]
    require_finite(state_dict, _SOURCE)
    require_finite(dict(zip(_PROTOTYPE_KEYS, bank, strict=True)), "PRNet prototypes")
    config = read_structure(state_dict, bank)
    model = PRN(config).to(required(state_dict, "conv_out.weight").dtype)
    copy_weights(model, state_dict)
    with torch.no_grad():
        model.set_prototypes(bank)
    return model.eval()


def required(state_dict: Mapping[str, Tensor], key: str) -> Tensor:
    """The tensor of a key that every checkpoint has."""
    if key not in state_dict:
        raise WeightsError(f"{_SOURCE}: {key} is missing")
    return state_dict[key]


def read_structure(state_dict: Mapping[str, Tensor], bank: list[Tensor]) -> PRNConfig:
    """The configuration that a checkpoint and its prototypes imply."""
    classes = required(state_dict, "conv_out.weight").shape[0]
    if classes != 1:
        raise WeightsError(f"{_SOURCE}: has {classes} output classes; only one-class checkpoints can be loaded")
    if any(prototype.ndim != 4 for prototype in bank):
        raise WeightsError("PRNet prototypes: each scale must have four dimensions, (K, C, h, w)")
    backbone: BackboneName = "wide_resnet50_2" if "encoder.layer1.0.conv3.weight" in state_dict else "resnet18"
    first_scale = [match for key in state_dict if (match := _LAYER.match(key)) and match[1] == "1"]
    layers = 1 + max((int(match[2]) for match in first_scale), default=0)
    sizes = {int(found[2]) for match in first_scale if (found := _PROJECTION.match(match[3]))}
    return PRNConfig(
        backbone=backbone,
        image_size=bank[0].shape[2] * STRIDES[0],
        prototypes=(len(bank[0]), len(bank[1]), len(bank[2])),
        attention_layers=layers,
        # Patch sides of PRNet halve from one size to the next.
        patch_divisors=tuple(2**index for index in range(max(sizes, default=4))),
    )


def copy_weights(model: PRN, state_dict: Mapping[str, Tensor]) -> None:
    """Copy every tensor of the checkpoint to its place; all places must be filled and all keys used."""
    target = model.state_dict()
    filled = set()

    def put(name: str, key: str, value: Tensor, index: int | None = None) -> None:
        if name not in target:
            raise WeightsError(f"{_SOURCE}: {key} is unknown")
        place = target[name] if index is None else target[name][index]
        if place.numel() != value.numel() or (index is None and place.shape != value.shape):
            raise WeightsError(f"{_SOURCE}: {key} has shape {tuple(value.shape)}, {tuple(place.shape)} is needed")
        place.copy_(value.reshape(place.shape))
        filled.add((name, index))

    for key, value in state_dict.items():
        layer = _LAYER.match(key)
        if layer is None:
            put(rename(key), key, value)
            continue
        name = f"attention.{int(layer[1]) - 1}.{layer[2]}"
        projection = _PROJECTION.match(layer[3])
        if projection is None:
            put(
                f"{name}.{layer[3]}".replace("residual_block", "block").replace("downsample", "shortcut"),
                key,
                value,
            )
            continue
        size = int(projection[2]) - 1
        part = 0 if projection[3] == "weight" else 1
        if projection[1] == "v":
            put(f"{name}.attention.value.{size}", key, value, part)
        elif size > 0:
            offset = 0 if projection[1] == "q" else 2
            put(f"{name}.attention.query_key.{size - 1}", key, value, offset + part)
    for name, value in target.items():
        if name.startswith("prototypes."):
            continue
        parts = range(len(value)) if ".attention.value." in name or ".attention.query_key." in name else [None]
        if any((name, part) not in filled for part in parts):
            raise WeightsError(f"{_SOURCE}: nothing was given for {name}")


def rename(key: str) -> str:
    """Our name of a PRNet key outside the attention layers."""
    for pattern, replacement in _RENAMES:
        renamed, count = re.subn(pattern, replacement, key)
        if count:
            return renamed
    return key
