"""The operations of PRN formulated in plugins: a graph exported with them has one node for each kernel.

A node has its plugin's name, inputs and attributes. "plugin_namespace" tells TensorRT's ONNX parser where to look for
the name, and "aot" that the kernel is compiled already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prn_fast.kernels import OPERATIONS
from prn_fast.kernels.plugin import ELEMENT_TYPES, Kind, Plugin
from prn_fast.kernels.tiles import Capability

NAMESPACE = "prn_fast"
PLUGINS: dict[str, Plugin] = {plugin.name: plugin for operation in OPERATIONS for plugin in operation.plugins}


@dataclass(frozen=True)
class PluginGraph:
    """The graph that operations add plugin nodes to, for one capability and the batch that an engine is tuned for."""

    capability: Capability
    batch: int

    def node(self, plugin: Plugin, inputs: Sequence[Tensor], **attributes: Any) -> Sequence[Tensor]:
        """A node of the exported graph; without an export it gives tensors of the right shape and type, empty."""
        attributes["capability"] = 10 * self.capability[0] + self.capability[1]
        dtype = maps_dtype(plugin, [one.dtype for one in inputs], attributes)
        return torch.onnx.ops.symbolic_multi_out(
            f"{NAMESPACE}::{plugin.name}",
            inputs,
            {**attributes, "plugin_namespace": NAMESPACE, "aot": 1},
            dtypes=[torch.float32 if kind == Kind.FLOATS else dtype for kind in plugin.outputs],
            shapes=plugin.shapes([one.shape for one in inputs], attributes),
            version=1,
        )


def maps_dtype(plugin: Plugin, dtypes: Sequence[torch.dtype], attributes: Mapping[str, Any]) -> torch.dtype:
    """Type of a plugin's maps: that of its first input that has it, or what "element_type" says; else float32."""
    if "element_type" in attributes:
        return next(dtype for dtype, number in ELEMENT_TYPES.items() if number == attributes["element_type"])
    kinds = plugin.inputs.values()
    return next((dtype for dtype, kind in zip(dtypes, kinds, strict=True) if kind != Kind.FLOATS), torch.float32)
