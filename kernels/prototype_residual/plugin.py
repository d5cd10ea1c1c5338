"""The prototype residual as TensorRT plugins: distances, then residuals."""

from torch import Tensor

from prn_fast.kernels.launch import Launch, Tile, ceil_div
from prn_fast.kernels.plugin import Graph, Kind, Plugin, Use, same_shape, split, values_of
from prn_fast.kernels.tiles import tile_for


def _plan_distance(use: Use, tile: Tile) -> Launch:
    from prn_fast.kernels.prototype_residual import fused

    size = values_of(use.shapes[0])
    launch = fused.plan_distance(use.batch, use.shapes[1][0], size, use.dtype, tile)
    return split(launch, ceil_div(size, tile.blocks["BLOCK_D"]), use.attributes["splits"])


def _plan_residual(use: Use, tile: Tile) -> Launch:
    from prn_fast.kernels.prototype_residual import fused

    maps, prototypes, partials = use.shapes
    return fused.plan_residual(use.batch, prototypes[0], values_of(maps), partials[2], use.dtype, tile)


DISTANCE = Plugin(
    "distance",
    "distance",
    {"features": Kind.MAP, "prototypes": Kind.MAP},
    (Kind.FLOATS,),
    lambda shapes, attributes: ((shapes[0][0], shapes[1][0], attributes["splits"]),),
    _plan_distance,
    {"splits": int},
    variants=({"BLOCK_D": 2}, {"warps": 2}),
)
RESIDUAL = Plugin(
    "residual",
    "residual",
    {"features": Kind.MAP, "prototypes": Kind.MAP, "partials": Kind.FLOATS},
    (Kind.MAP,),
    same_shape,
    _plan_residual,
    variants=({"BLOCK_D": 2},),
)


def prototype_residual(graph: Graph, features: Tensor, prototypes: Tensor) -> Tensor:
    """The function that `reference.prototype_residual` defines, in a graph."""
    from prn_fast.kernels.prototype_residual.fused import plan_distance

    tile = tile_for("distance", graph.capability, features.dtype)
    size = values_of(features.shape)
    splits = plan_distance(graph.batch, prototypes.shape[0], size, features.dtype, tile).grid[0]
    (partials,) = graph.node(DISTANCE, [features, prototypes], splits=splits)
    return graph.node(RESIDUAL, [features, prototypes, partials])[0]
