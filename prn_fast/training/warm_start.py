"""Starting from a trained package: of another product, or of smaller images."""

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from prn_fast.errors import ConfigError
from prn_fast.model.prn import PRN
from prn_fast.package import Package

# What may differ for a new data set or image size; everything else must agree.
_OWN = ("image_size", "image_channels", "prototypes", "map", "score", "memory", "screen_width")


def warm_start(model: PRN, package: Package) -> None:
    """Give a network the weights of a package; its prototypes and what is learned beside it stay as they are.

    Convolutions fit images of any size. The attention's scales and biases, one for each value of a patch, are
    interpolated (bilinear, corners not aligned) where the patch has another size.

    Raises:
        ConfigError: the package's network differs in more than image size, channels, prototypes, map and score.
    """
    theirs, ours = (dataclasses.asdict(config) for config in (package.config, model.config))
    different = [name for name in ours if name not in _OWN and ours[name] != theirs[name]]
    if different:
        name = different[0]
        raise ConfigError(
            f"{package.path}: cannot be started from: its {name} is {theirs[name]} and this network's {ours[name]}"
        )
    own = model.state_dict()
    trained = {
        name: value
        for name, value in package.model().state_dict().items()
        if not name.startswith(("prototypes.", "learned_map.", "learned_score."))
    }
    state = {name: resized(value, own[name]) for name, value in trained.items()}
    model.load_state_dict({**own, **state})


def resized(value: Tensor, target: Tensor) -> Tensor:
    """A weight as it is, or the projection of a patch (n, C, r, r) at the target's patch size."""
    if value.shape == target.shape:
        return value
    return functional.interpolate(value, size=target.shape[2:], mode="bilinear", align_corners=False).to(torch.float32)
