"""The operations of PRN formulated in plugins: a graph exported with them has one node for each kernel.

A node has its plugin's name, inputs and attributes. "plugin_namespace" tells TensorRT's ONNX parser where to look for
the name, and "aot" that the kernel comes compiled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prn_fast.build.tensorrt_plugins.plugins import (
    DISTANCE,
    ELEMENT_TYPES,
    MOST_GRIDS,
    NAMESPACE,
    PLUGINS,
    RESIDUAL,
    SCORE,
    SOFTMAX,
    TOP_PIXELS_OF_MAP,
    Kind,
    Plugin,
    values_of,
)
from prn_fast.errors import EngineError
from prn_fast.kernels.multi_size_attention.lean import fold_query_key
from prn_fast.kernels.tiles import Capability, tile_for


@dataclass(frozen=True)
class PluginFormulation:
    """The operations for one capability and the batch that an engine is to be fastest at."""

    capability: Capability
    batch: int

    def prototype_residual(self, features: Tensor, prototypes: Tensor) -> Tensor:
        """`prototype_residual.reference`: distances, then residuals."""
        from prn_fast.kernels.prototype_residual.fused import plan_distance

        tile = tile_for("distance", self.capability, features.dtype)
        size = values_of(features.shape)
        splits = plan_distance(self.batch, prototypes.shape[0], size, features.dtype, tile).grid[0]
        (partials,) = self.node(DISTANCE, [features, prototypes], splits=splits)
        return self.node(RESIDUAL, [features, prototypes, partials])[0]

    def multi_size_attention(
        self, maps: Tensor, grids: Sequence[int], query_key: Sequence[Tensor], value: Sequence[Tensor]
    ) -> Tensor:
        """`multi_size_attention.reference`: partial logits, their softmax, mixing."""
        from prn_fast.kernels.multi_size_attention.fused import AttentionShape, plan_logits

        grids = tuple(grids)
        if not supports(grids):
            raise EngineError(f"no plugin attends over grids {grids}; see prn_fast.build.tensorrt_plugins.supports")
        _, channels, height, width = maps.shape
        shape = AttentionShape(self.batch, channels, height, width, grids, maps.dtype, False)
        splits = plan_logits(shape, tile_for("logits", self.capability, maps.dtype)).grid[0]
        projections = [fold_query_key(one).to(maps.dtype) for one in query_key]
        values = [one.to(maps.dtype) for one in value]
        (partials,) = self.node(
            PLUGINS[f"logits_{len(projections)}"], [maps, *projections], grids=list(grids), splits=splits
        )
        size = values_of(maps.shape)
        (weights,) = self.node(
            SOFTMAX, [partials], grids=list(grids), size=size, element_type=ELEMENT_TYPES[maps.dtype]
        )
        return self.node(PLUGINS[f"mixing_{len(grids)}"], [maps, weights, *values], grids=list(grids))[0]

    def project_upsample_add(
        self, full: Sequence[Tensor], coarse: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor]
    ) -> Tensor:
        """`multi_scale_fusion.lean.project_upsample_add`."""
        plugin = PLUGINS[f"project_upsample_add_{len(full)}_{len(coarse)}"]
        return self.node(plugin, [*full, *coarse, *weights, *biases], full=len(full))[0]

    def anomaly_score(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """`anomaly_score.reference`: maps and each part's largest pixels, then scores."""
        from prn_fast.kernels.anomaly_score.fused import plan_top_pixels

        tile = tile_for("top_pixels", self.capability, logits.dtype)
        splits = plan_top_pixels(self.batch, values_of(logits.shape), logits.dtype, tile).grid[0]
        maps, candidates = self.node(TOP_PIXELS_OF_MAP, [logits], splits=splits)
        return self.node(SCORE, [candidates])[0], maps

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


def supports(grids: Sequence[int]) -> bool:
    """Whether plugins attend over these grids; a network with others keeps TensorRT's own layers."""
    from prn_fast.kernels.multi_size_attention import fused

    return len(grids) <= MOST_GRIDS and fused.supports(grids)
