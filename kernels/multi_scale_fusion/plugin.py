"""Multi-scale fusion as a TensorRT plugin: everything that is upsampled to a target scale."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from prn_fast.kernels.launch import Launch, Tile
from prn_fast.kernels.multi_scale_fusion import with_raise_to
from prn_fast.kernels.multi_scale_fusion.reference import FusionWeights, Maps, Maps3
from prn_fast.kernels.plugin import Graph, Kind, Plugin, Use, same_shape, several


def _plan(use: Use, tile: Tile) -> Launch:
    from prn_fast.kernels.multi_scale_fusion import fused

    full = use.attributes["full"]
    coarse = (len(use.shapes) - full) // 3
    _, channels, height, width = use.shapes[0]
    sizes = [(shape[1], shape[2], shape[3]) for shape in use.shapes[full : full + coarse]]
    return fused.plan_project_upsample_add(
        use.batch, channels, height, width, full, sizes, use.dtype, use.channels_last, tile
    )


def _plugin(full: int, coarse: int) -> Plugin:
    """Sum of full maps and of projected, upsampled coarse maps."""
    return Plugin(
        f"project_upsample_add_{full}_{coarse}",
        "project_upsample_add",
        {
            **several("full", full, Kind.MAP),
            **several("coarse", coarse, Kind.MAP),
            **several("weight", coarse, Kind.ROWS),
            **several("bias", coarse, Kind.ROWS),
        },
        (Kind.MAP,),
        same_shape,
        _plan,
        {"full": int},
        images_axis=2,
        variants=({"BLOCK_C": 0.5}, {"warps": 0.5}),
    )


PLUGINS = (_plugin(1, 2), _plugin(2, 1))


def project_upsample_add(
    graph: Graph,
    full: Sequence[Tensor],
    coarse: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
) -> Tensor:
    """The function that `optimized.project_upsample_add` defines, in a graph."""
    plugin = PLUGINS[len(full) - 1]
    return graph.node(plugin, [*full, *coarse, *weights, *biases], full=len(full))[0]


def multi_scale_fusion(graph: Graph, x1: Maps, x2: Maps, x3: Maps, weights: FusionWeights) -> Maps3:
    """The function that `reference.multi_scale_fusion` defines, in a graph; strided convolutions are TensorRT's own."""
    return with_raise_to(x1, x2, x3, weights, partial(project_upsample_add, graph))
