"""The network before the first step: pretrained backbone, prototypes, and the memory of a learned map."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from prn_fast.kernels import FUSED, OPTIMIZED
from prn_fast.model.config import PRNConfig
from prn_fast.model.memory import memory_size, remember
from prn_fast.model.prn import PRN
from prn_fast.model.prototypes import cluster_prototypes, prototype_count
from prn_fast.model.weights import load_backbone_weights, pretrained_state
from prn_fast.package import Package
from prn_fast.training.notes import say_note
from prn_fast.training.processes import take_from_first
from prn_fast.training.recipe import Recipe
from prn_fast.training.screen import EXTRACTION_BATCH
from prn_fast.training.settings import TrainingSettings
from prn_fast.training.split import Split
from prn_fast.training.warm_start import warm_start


def prepare_model(
    settings: TrainingSettings,
    recipe: Recipe,
    config: PRNConfig,
    split: Split,
    fabric: Fabric,
    console: Console,
    start: Package | None = None,
) -> tuple[PRN, list[str]]:
    """The network with its pretrained backbone and its prototypes; also the names of backbone weights it lacks.

    After a start, it has the weights of that package.
    """
    count = prototype_count(split.images, recipe.prototypes)
    # On a GPU the Triton kernels train too, as their backward is theirs.
    ops = FUSED if fabric.device.type == "cuda" and not settings.optimized else OPTIMIZED
    memory = memory_size(config.memory, len(split.normals), config)
    model = PRN(dataclasses.replace(config, prototypes=(count, count, count), memory=memory), ops)
    missing: list[str] = []
    if start is not None:
        warm_start(model, start)
    elif settings.warm_start is not None:
        warm_start(model, Package.open(settings.warm_start))
    else:
        source = str(settings.backbone_weights or "published weights")
        state = pretrained_state(config.backbone, settings.backbone_weights)
        missing = load_backbone_weights(model.backbone, state, source)
    if missing:
        say_note(
            f"{source} lacks {len(missing)} weights of the deepest stage (stride 32), "
            f"{missing[0]} the first: they start at random and are trained",
            console,
        )
    model.to(fabric.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # Every step takes a mean over prototypes, which is ten times slower in the other layout.
    model.prototypes.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with torch.no_grad():
        if fabric.is_global_zero:
            batches = (model.normalize(images.to(fabric.device)) for images in slices(split.normals, EXTRACTION_BATCH))
            centres = cluster_prototypes(
                model.backbone, batches, count, settings.seed, progress=lambda line: console.print(line, style="dim")
            )
            model.set_prototypes([centre.to(fabric.device) for centre in centres])
            if model.learned_map is not None and model.learned_map.memory is not None:
                batches = (model.normalize(part.to(fabric.device)) for part in slices(split.normals, EXTRACTION_BATCH))
                patches = remember(model.backbone, batches, len(split.normals), memory, settings.seed)
                model.learned_map.memory.patches.copy_(patches)
        for prototypes in model.prototypes():
            take_from_first(fabric, prototypes)
        if model.learned_map is not None and model.learned_map.memory is not None:
            take_from_first(fabric, model.learned_map.memory.patches)
    return model, missing


def slices(images: NDArray[np.uint8], size: int) -> Iterator[Tensor]:
    """Consecutive pieces of an array, as tensors."""
    for start in range(0, len(images), size):
        yield torch.from_numpy(images[start : start + size])
