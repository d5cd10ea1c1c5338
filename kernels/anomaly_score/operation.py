"""Anomaly map and score, and the stitching of a strip's maps, as an `Operation`."""

from collections.abc import Iterator

import torch

from prn_fast.kernels.anomaly_score import anomaly_score, learned_score, plugin, reference, stitch_tiles, traffic
from prn_fast.kernels.launch import Launch, capability_of
from prn_fast.kernels.operation import Case, Draw, Operation, Shapes, Space
from prn_fast.kernels.tiles import Capability, tile_for


def _score_launches(
    shapes: Shapes, batch: int, dtype: torch.dtype, capability: Capability, channels_last: bool
) -> Iterator[tuple[str, str, Launch]]:
    from prn_fast.kernels.anomaly_score import fused

    top, score = (tile_for(kernel, capability, dtype) for kernel in OPERATION.kernels)
    top_pixels = fused.plan_top_pixels(batch, shapes.image_side**2, dtype, top)
    yield shapes.image, "top_pixels", top_pixels
    yield shapes.image, "score", fused.plan_score(batch, top_pixels.grid[0], score)


def _stitch_launches(
    shapes: Shapes, batch: int, dtype: torch.dtype, capability: Capability, channels_last: bool
) -> Iterator[tuple[str, str, Launch]]:
    from prn_fast.kernels.anomaly_score.fused import plan_stitch

    strip, tile = shapes.strip, tile_for("stitch", capability, dtype)
    yield strip.name, "stitch", plan_stitch(strip.lines, strip.width, strip.side, strip.overlap, dtype, tile)


def _score_cases(batch: int, shapes: Shapes, draw: Draw) -> Iterator[Case]:
    logits, value_bytes = draw.maps(batch, 1, shapes.image_side, shapes.image_side), draw.dtype.itemsize
    sizes = batch, shapes.image_side**2

    def bytes_moved() -> tuple[traffic.BytesMoved, traffic.BytesMoved]:
        splits = next(_score_launches(shapes, batch, draw.dtype, capability_of(logits), True))[2].grid[0]
        return traffic.bytes_moved(*sizes, splits, value_bytes), traffic.published_bytes_moved(*sizes, value_bytes)

    yield OPERATION.case(shapes.image, (logits,), bytes_moved)


def _learned_launches(
    shapes: Shapes, batch: int, dtype: torch.dtype, capability: Capability, channels_last: bool
) -> Iterator[tuple[str, str, Launch]]:
    from prn_fast.kernels.anomaly_score import fused

    top, score = (tile_for(kernel, capability, dtype) for kernel in LEARNED_SCORE.kernels)
    top_logits = fused.plan_top_logits(batch, shapes.image_side**2, dtype, top)
    yield shapes.image, "top_logits", top_logits
    yield shapes.image, "learned_score", fused.plan_learned_score(batch, shapes.image_side**2, top_logits, score)


def _learned_cases(batch: int, shapes: Shapes, draw: Draw) -> Iterator[Case]:
    logits, value_bytes = draw.maps(batch, 1, shapes.image_side, shapes.image_side), draw.dtype.itemsize
    weights, offsets = (torch.randn(count, device=draw.device) for count in (len(reference.STATISTICS), batch))
    sizes = batch, shapes.image_side**2

    def bytes_moved() -> tuple[traffic.BytesMoved, traffic.BytesMoved]:
        splits = next(_learned_launches(shapes, batch, draw.dtype, capability_of(logits), True))[2].grid[0]
        published = traffic.published_learned_bytes_moved(*sizes, value_bytes)
        return traffic.learned_bytes_moved(*sizes, splits, value_bytes), published

    yield LEARNED_SCORE.case(shapes.image, (logits, weights, offsets), bytes_moved)


def _stitch_cases(batch: int, shapes: Shapes, draw: Draw) -> Iterator[Case]:
    strip = shapes.strip
    maps = torch.rand(strip.tiles, strip.side, strip.side, device=draw.device).to(draw.dtype)
    sizes = maps.numel(), strip.lines * strip.width, draw.dtype.itemsize

    def bytes_moved() -> tuple[traffic.BytesMoved, traffic.BytesMoved]:
        return traffic.stitch_bytes_moved(*sizes), traffic.published_stitch_bytes_moved(*sizes)

    yield STITCHING.case(strip.name, (maps, strip.lines, strip.width, strip.overlap), bytes_moved)


OPERATION = Operation(
    "anomaly_score",
    reference.anomaly_score,
    reference.anomaly_score,
    anomaly_score,
    registered=(anomaly_score,),
    kernels={
        "top_pixels": Space({"BLOCK": (1024, 2048, 4096, 8192)}, warps=(4, 8, 16)),
        "score": Space({"BLOCK": (1024, 2048, 4096, 8192)}, warps=(4, 8, 16)),
    },
    launches=_score_launches,
    cases=_score_cases,
    plugins=(plugin.TOP_PIXELS_OF_MAP, plugin.SCORE),
    plugged=plugin.anomaly_score,
)
LEARNED_SCORE = Operation(
    "learned_score",
    reference.learned_score,
    reference.learned_score,
    learned_score,
    registered=(learned_score,),
    kernels={
        "top_logits": Space({"BLOCK": (1024, 2048, 4096, 8192)}, warps=(4, 8, 16)),
        "learned_score": Space({"BLOCK": (1024, 2048, 4096, 8192)}, warps=(4, 8, 16)),
    },
    launches=_learned_launches,
    cases=_learned_cases,
)
STITCHING = Operation(
    "stitch_tiles",
    reference.stitch_tiles,
    reference.stitch_tiles,
    stitch_tiles,
    registered=(stitch_tiles,),
    kernels={"stitch": Space({"BLOCK": (128, 256, 512, 1024)}, warps=(2, 4, 8))},
    launches=_stitch_launches,
    cases=_stitch_cases,
)
