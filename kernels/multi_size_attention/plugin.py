"""Multi-size attention as TensorRT plugins: partial logits, their softmax, mixing."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from prn_fast.errors import EngineError
from prn_fast.kernels.launch import Launch, Tile, ceil_div
from prn_fast.kernels.multi_size_attention import geometry
from prn_fast.kernels.multi_size_attention.geometry import Geometry
from prn_fast.kernels.multi_size_attention.optimized import fold_query_key
from prn_fast.kernels.plugin import ELEMENT_TYPES, Graph, Kind, Plugin, Use, several, split, values_of
from prn_fast.kernels.tiles import tile_for

# A plugin has a fixed number of inputs: there is one for each number of grids up to this.
MAX_GRIDS = 4


def supports(grids: Sequence[int]) -> bool:
    """Whether plugins attend over these grids; a network with others keeps TensorRT's own layers."""
    return len(grids) <= MAX_GRIDS and geometry.supports(grids)


def _geometry(use: Use, channels: int, height: int, width: int) -> Geometry:
    return Geometry(channels, height, width, tuple(use.attributes["grids"]), use.channels_last)


def _sizes(grids: Sequence[int]) -> Geometry:
    """A geometry of which only the parts that do not depend on the map are used."""
    return Geometry(1, 1, 1, tuple(grids), False)


def _plan_logits(use: Use, tile: Tile) -> Launch:
    from prn_fast.kernels.multi_size_attention import fused

    shape = _geometry(use, *use.shapes[0][1:])
    launch = fused.plan_logits(shape, use.batch, use.dtype, tile)
    return split(launch, ceil_div(shape.size, tile.blocks["BLOCK_D"]), use.attributes["splits"])


def _plan_softmax(use: Use, tile: Tile) -> Launch:
    """It depends on the map only by the number of values."""
    from prn_fast.kernels.multi_size_attention import fused

    return fused.plan_softmax(
        _geometry(use, use.attributes["size"], 1, 1), use.batch, use.shapes[0][1], use.dtype, tile
    )


def _plan_mixing(use: Use, tile: Tile) -> Launch:
    from prn_fast.kernels.multi_size_attention import fused

    return fused.plan_mixing(_geometry(use, *use.shapes[0][1:]), use.batch, use.dtype, tile)


def _logits(grids: int) -> Plugin:
    """Partial logits of the grids above 1."""
    return Plugin(
        f"logits_{grids}",
        "logits",
        {"maps": Kind.MAP, **several("projection", grids, Kind.MAP)},
        (Kind.FLOATS,),
        lambda shapes, attributes: ((shapes[0][0], attributes["splits"], _sizes(attributes["grids"]).entries),),
        _plan_logits,
        {"grids": list, "splits": int},
        variants=({"BLOCK_D": 0.5},),
    )


def _mixing(grids: int) -> Plugin:
    """Attention of all grids, applied to a map."""
    return Plugin(
        f"mixing_{grids}",
        "mixing",
        {"maps": Kind.MAP, "attention": Kind.ROWS, **several("value", grids, Kind.MAP)},
        (Kind.MAP,),
        lambda shapes, attributes: ((shapes[0][0], shapes[0][1] * grids, shapes[0][2], shapes[0][3]),),
        _plan_mixing,
        {"grids": list},
        variants=({"BLOCK_D": 0.5},),
    )


LOGITS = [_logits(grids) for grids in range(1, MAX_GRIDS + 1)]
SOFTMAX = Plugin(
    "softmax",
    "softmax",
    {"partials": Kind.FLOATS},
    (Kind.ROWS,),
    lambda shapes, attributes: ((shapes[0][0], _sizes(attributes["grids"]).weights),),
    _plan_softmax,
    {"grids": list, "size": int, "element_type": int},
    variants=({"warps": 0.5},),
)
MIXING = [_mixing(grids) for grids in range(1, MAX_GRIDS + 1)]
PLUGINS = (*LOGITS, SOFTMAX, *MIXING)


def multi_size_attention(
    graph: Graph, maps: Tensor, grids: Sequence[int], query_key: Sequence[Tensor], value: Sequence[Tensor]
) -> Tensor:
    """The function that `reference.multi_size_attention` defines, in a graph."""
    from prn_fast.kernels.multi_size_attention.fused import plan_logits

    if not supports(grids):
        raise EngineError(f"no plugin attends over grids {tuple(grids)}; see {__name__}.supports")
    projections = [fold_query_key(one).to(maps.dtype) for one in query_key]
    values = [one.to(maps.dtype) for one in value]
    _, channels, height, width = maps.shape
    shape = Geometry(channels, height, width, tuple(grids), False)
    splits = plan_logits(shape, graph.batch, maps.dtype, tile_for("logits", graph.capability, maps.dtype)).grid[0]
    named: dict[str, Any] = {"grids": list(grids)}
    (partials,) = graph.node(LOGITS[len(projections) - 1], [maps, *projections], splits=splits, **named)
    sized = {"size": values_of(maps.shape), "element_type": ELEMENT_TYPES[maps.dtype]}
    (weights,) = graph.node(SOFTMAX, [partials], **named, **sized)
    return graph.node(MIXING[len(grids) - 1], [maps, weights, *values], **named)[0]
