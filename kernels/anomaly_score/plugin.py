"""Anomaly map and score as TensorRT plugins: maps and each part's largest pixels, then scores."""

from torch import Tensor

from prn_fast.kernels.anomaly_score.reference import TOP_PIXELS
from prn_fast.kernels.launch import Launch, Tile
from prn_fast.kernels.plugin import Graph, Kind, Plugin, Use, values_of
from prn_fast.kernels.tiles import tile_for


def _plan_top_pixels(use: Use, tile: Tile) -> Launch | None:
    from prn_fast.kernels.anomaly_score import fused

    launch = fused.plan_top_pixels(use.batch, values_of(use.shapes[0]), use.dtype, tile)
    return launch if launch.grid[0] == use.attributes["splits"] else None


def _plan_score(use: Use, tile: Tile) -> Launch:
    from prn_fast.kernels.anomaly_score import fused

    return fused.plan_score(use.batch, use.shapes[0][1], tile)


TOP_PIXELS_OF_MAP = Plugin(
    "top_pixels",
    "top_pixels",
    {"logits": Kind.ROWS},
    (Kind.FLOATS, Kind.FLOATS),
    lambda shapes, attributes: (
        (shapes[0][0], shapes[0][2], shapes[0][3]),
        (shapes[0][0], attributes["splits"], TOP_PIXELS),
    ),
    _plan_top_pixels,
    {"splits": int},
    variants=({"warps": 0.5},),
)
SCORE = Plugin(
    "score",
    "score",
    {"candidates": Kind.FLOATS},
    (Kind.FLOATS,),
    lambda shapes, attributes: ((shapes[0][0],),),
    _plan_score,
    images_axis=0,
    variants=({"warps": 0.5},),
)


def anomaly_score(graph: Graph, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The function that `reference.anomaly_score` defines, in a graph."""
    from prn_fast.kernels.anomaly_score.fused import plan_top_pixels

    tile = tile_for("top_pixels", graph.capability, logits.dtype)
    splits = plan_top_pixels(graph.batch, values_of(logits.shape), logits.dtype, tile).grid[0]
    maps, candidates = graph.node(TOP_PIXELS_OF_MAP, [logits], splits=splits)
    return graph.node(SCORE, [candidates])[0], maps
