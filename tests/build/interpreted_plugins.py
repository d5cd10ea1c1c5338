"""Plugins run as TensorRT would launch them, by Triton's interpreter, for tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from prn_fast.build.tensorrt_plugins.formulation import PluginGraph, maps_dtype
from prn_fast.kernels.launch import ceil_div
from prn_fast.kernels.plugin import Kind, Plugin, Use


def run_plugin(
    plugin: Plugin,
    inputs: Sequence[Tensor],
    attributes: Mapping[str, Any],
    optimum: int,
    tactic: int = 1,
    channels_last: bool = False,
) -> list[Tensor]:
    """Launch a tactic on a batch other than the one that it was settled for.

    Arguments go to the kernel in TensorRT's order: inputs, number of images, outputs; outputs are full of NaN before.
    """
    batch = inputs[0].shape[0]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    inputs = [
        one.contiguous(memory_format=layout if kind == Kind.MAP else torch.contiguous_format)
        for one, kind in zip(inputs, plugin.inputs.values(), strict=True)
    ]
    dtype = maps_dtype(plugin, [one.dtype for one in inputs], attributes)
    settled = tuple(
        (optimum, *one.shape[1:]) if carries_batch(plugin, name) else tuple(one.shape)
        for name, one in zip(plugin.inputs, inputs, strict=True)
    )
    use = Use(settled, dtype, channels_last, attributes)
    shapes = plugin.shapes([tuple(one.shape) for one in inputs], attributes)
    outputs = [
        torch.full(shape, torch.nan, dtype=torch.float32 if kind == Kind.FLOATS else dtype).contiguous(
            memory_format=layout if kind == Kind.MAP else torch.contiguous_format
        )
        for shape, kind in zip(shapes, plugin.outputs, strict=True)
    ]
    launch = plugin.tactics(use)[tactic - 1]
    replace(launch, grid=plugin.grid(launch, batch, ceil_div))(*grouped(launch, [*inputs, batch, *outputs]))
    return outputs


def carries_batch(plugin: Plugin, name: str) -> bool:
    """Whether an input has a dimension for the batch: weights and prototypes have none."""
    return not name.startswith(("prototypes", "projection", "value", "weight", "bias"))


def grouped(launch: Any, arguments: list[Any]) -> list[Any]:
    """A flat list of arguments with those together that the kernel takes as one tuple."""
    rest = iter(arguments)
    found = [
        next(rest) if isinstance(kind, str) else tuple(next(rest) for _ in kind) for kind in launch.signature.values()
    ]
    assert not list(rest)
    return found


@dataclass(frozen=True)
class InterpretedGraph(PluginGraph):
    """A graph with every node run at once."""

    tactic: int = 1
    channels_last: bool = False

    def node(self, plugin: Plugin, inputs: Sequence[Tensor], **attributes: Any) -> Sequence[Tensor]:
        attributes["capability"] = 10 * self.capability[0] + self.capability[1]
        return run_plugin(plugin, inputs, attributes, self.batch, self.tactic, self.channels_last)
