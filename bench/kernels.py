"""The operations by themselves, at the real network's shapes: are they right, and how fast are they.

Right: forward and backward against the published formulation in float64, on random inputs, in rounding steps of the
dtype. Fast: milliseconds with a cold L2 cache, GB/s by the operation's traffic model, share of the copy bandwidth that
was measured in the same run. An operation whose output is wrong, or that would have read its inputs faster than memory
can deliver them, gets no speed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from prn_fast.bench.ceilings import OVER_CEILING, copy_rate
from prn_fast.bench.gpu_timing import cold_milliseconds, recorded, relative_error, summary
from prn_fast.kernels import FUSED, PUBLISHED
from prn_fast.kernels.anomaly_score import reference as score_reference
from prn_fast.kernels.anomaly_score import stitch_tiles
from prn_fast.kernels.anomaly_score import traffic as score_traffic
from prn_fast.kernels.catalogue import (
    GRIDS,
    IMAGE_SIDE,
    SCALES,
    STRIP,
    Scale,
    Strip,
    coarser,
    edge_launches,
    launches,
)
from prn_fast.kernels.launch import capability_of
from prn_fast.kernels.multi_scale_fusion import project_upsample_add
from prn_fast.kernels.multi_scale_fusion import traffic as fusion_traffic
from prn_fast.kernels.multi_scale_fusion.reference import FusionWeights, Projection, upsample_then_project
from prn_fast.kernels.multi_size_attention import traffic as attention_traffic
from prn_fast.kernels.multi_size_attention.lean import fold_query_key
from prn_fast.kernels.prototype_residual import traffic as residual_traffic
from prn_fast.kernels.tile_normalize import reference as normalize_reference
from prn_fast.kernels.tile_normalize import tile_normalize
from prn_fast.kernels.tile_normalize import traffic as normalize_traffic
from prn_fast.kernels.traffic import Traffic
from prn_fast.model.config import BACKBONES

# Largest root mean square of an error, relative to that of the result, in rounding steps of its dtype.
ALLOWED_STEPS = {torch.float64: 1e3, torch.float32: 64.0, torch.float16: 4.0, torch.bfloat16: 4.0}
SPEC = BACKBONES["resnet18"]

Rows = list[dict[str, Any]]
Report = Callable[[Rows], None]


@dataclass(frozen=True)
class Shapes:
    """Sizes at which operations are tried: those of the real network by default."""

    scales: tuple[Scale, Scale, Scale] = (SCALES[0], SCALES[1], SCALES[2])
    strip: Strip = STRIP
    image_side: int = IMAGE_SIDE


@dataclass(frozen=True)
class Case:
    """One operation at one shape with random inputs.

    Attributes:
        arguments: of both formulations.
        published: what defines the result.
        fused: the operation, as training calls it.
        traffic: of the fused formulation; None for what is checked but not timed on its own.
        trained: positions of the arguments that have a gradient.
        engine_arguments: what the engine passes to `fused` instead, weights prepared once.
    """

    op: str
    shape: str
    arguments: tuple[Any, ...]
    published: Callable[..., Any]
    fused: Callable[..., Any]
    traffic: Traffic | None
    trained: tuple[int, ...] = ()
    engine_arguments: tuple[Any, ...] | None = None

    def run(self) -> Any:
        """The operation as the engine calls it."""
        return self.fused(*(self.engine_arguments or self.arguments))

    @property
    def input_bytes(self) -> int:
        """Bytes of all tensors that go in."""
        return sum(t.nbytes for t in tree_leaves(self.engine_arguments or self.arguments) if isinstance(t, Tensor))


@dataclass(frozen=True)
class Draw:
    """Random inputs of a dtype on a device; maps and weights channels-last."""

    dtype: torch.dtype
    device: torch.device

    def maps(self, *shape: int, spread: float = 1.0) -> Tensor:
        """Normal values."""
        values = torch.randn(shape, device=self.device) * spread
        values = values.to(self.dtype)
        return values.to(memory_format=torch.channels_last) if values.ndim == 4 else values

    def convolution(self, target: int, source: int, kernel: int, groups: int = 1) -> Projection:
        """Weight and bias whose result is about as large as the maps."""
        inputs = source // groups
        weight = self.maps(target, inputs, kernel, kernel, spread=(inputs * kernel**2) ** -0.5)
        return Projection(weight, self.maps(target))

    def pixels(self, *shape: int) -> Tensor:
        """Bytes."""
        return torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device)


def cases(batch: int, dtype: torch.dtype, device: torch.device, shapes: Shapes) -> Iterator[Case]:
    """Every operation, at every scale that it is used at."""
    draw = Draw(dtype, device)
    for scale in shapes.scales:
        yield residual_case(batch, scale, draw)
        yield attention_case(batch, scale, draw)
    yield fusion_case(batch, shapes.scales[0], draw)
    yield whole_fusion_case(batch, shapes.scales, draw)
    yield from edge_cases(batch, shapes, draw)


def residual_case(batch: int, scale: Scale, draw: Draw) -> Case:
    """Prototype residual of one scale."""
    prototypes = draw.maps(scale.prototypes, scale.channels, scale.side, scale.side)
    # Each lies clearly nearest to one prototype: between two as near as each other, rounding may choose either.
    nearest = prototypes[torch.arange(batch, device=draw.device) % scale.prototypes]
    features = draw.maps(batch, scale.channels, scale.side, scale.side) + nearest / 2
    splits = dict(launches(scale, batch, draw.dtype, capability_of(features)))["distance"].grid[0]
    return Case(
        "prototype_residual",
        f"{scale.side}x{scale.side}",
        (features, prototypes),
        PUBLISHED.prototype_residual,
        FUSED.prototype_residual,
        residual_traffic.bytes_moved(batch, scale.prototypes, scale.size, splits, draw.dtype.itemsize),
        trained=(0,),
    )


def attention_case(batch: int, scale: Scale, draw: Draw) -> Case:
    """Attention of one layer and scale."""
    channels, side = 2 * scale.channels, scale.side
    maps = draw.maps(batch, channels, side, side)
    query_key = [draw.maps(4, channels, side // grid, side // grid) for grid in GRIDS if grid > 1]
    value = [draw.maps(2, channels, side // grid, side // grid) for grid in GRIDS]
    splits = dict(launches(scale, batch, draw.dtype, capability_of(maps)))["logits"].grid[0]
    return Case(
        "multi_size_attention",
        f"{side}x{side}",
        (maps, GRIDS, query_key, value),
        PUBLISHED.multi_size_attention,
        FUSED.multi_size_attention,
        attention_traffic.bytes_moved(batch, channels, side, side, GRIDS, splits, draw.dtype.itemsize),
        trained=(0, 2, 3),
        engine_arguments=(maps, GRIDS, [fold_query_key(one) for one in query_key], value),
    )


def published_project_upsample_add(
    full: Sequence[Tensor], coarse: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> Tensor:
    """Sum of maps and of upsampled, then projected coarse maps, as published."""
    total = sum(full[1:], start=full[0])
    for maps, *projection in zip(coarse, weights, biases, strict=True):
        total = total + upsample_then_project(maps, Projection(*projection), total.shape[2] // maps.shape[2])
    return total


def fusion_case(batch: int, scale: Scale, draw: Draw) -> Case:
    """The part of multi-scale fusion that one kernel computes, at the finest scale."""
    sources = coarser(scale)
    projections = [draw.convolution(scale.channels, channels, 1) for channels, _, _ in sources]
    return Case(
        "multi_scale_fusion",
        f"{scale.side}x{scale.side}",
        (
            [draw.maps(batch, scale.channels, scale.side, scale.side)],
            [draw.maps(batch, *source) for source in sources],
            [one.weight for one in projections],
            [one.bias for one in projections],
        ),
        published_project_upsample_add,
        project_upsample_add,
        fusion_traffic.bytes_moved(
            batch,
            scale.channels,
            scale.side**2,
            1,
            [(channels, height * width) for channels, height, width in sources],
            draw.dtype.itemsize,
        ),
        trained=(0, 1, 2, 3),
    )


def whole_fusion_case(batch: int, scales: tuple[Scale, Scale, Scale], draw: Draw) -> Case:
    """Multi-scale fusion with its strided convolutions, all three scales."""
    c1, c2, c3 = (scale.channels for scale in scales)
    weights = FusionWeights(
        from2_to1=draw.convolution(c1, c2, 1),
        from3_to1=draw.convolution(c1, c3, 1),
        from1_to2=draw.convolution(c2, c1, 3, c1),
        from3_to2=draw.convolution(c2, c3, 1),
        from1_to3=draw.convolution(c3, c1, 5, c1),
        from2_to3=draw.convolution(c3, c2, 3, c2),
    )
    maps = (draw.maps(batch, scale.channels, scale.side, scale.side) for scale in scales)
    return Case(
        "multi_scale_fusion",
        "all scales",
        (*maps, weights),
        PUBLISHED.multi_scale_fusion,
        FUSED.multi_scale_fusion,
        None,
        trained=(0, 1, 2, 3),
    )


def edge_cases(batch: int, shapes: Shapes, draw: Draw) -> Iterator[Case]:
    """What takes camera bytes in and gives maps, scores and strips out."""
    side, strip, value_bytes = shapes.image_side, shapes.strip, draw.dtype.itemsize
    tile_pixels = strip.tiles * strip.side**2
    images = draw.pixels(batch, side, side, 3)
    yield Case(
        "tile_normalize",
        f"{side}x{side}",
        (images, SPEC.mean, SPEC.std, draw.dtype),
        PUBLISHED.normalize_images,
        FUSED.normalize_images,
        normalize_traffic.bytes_moved(images.nbytes, batch * side**2, value_bytes),
    )
    ring = draw.pixels(strip.lines, strip.width, strip.channels)
    yield Case(
        "tile_normalize",
        f"{strip.lines}x{strip.width}",
        # From the middle of the ring: the strip wraps around.
        (ring, strip.lines // 2, strip.lines, strip.side, strip.overlap, SPEC.mean, SPEC.std, draw.dtype),
        normalize_reference.tile_normalize,
        tile_normalize,
        normalize_traffic.bytes_moved(ring.nbytes, tile_pixels, value_bytes),
    )
    logits = draw.maps(batch, 1, side, side)
    plans = {name: launch for _, name, launch in edge_launches(batch, draw.dtype, capability_of(logits))}
    yield Case(
        "anomaly_score",
        f"{side}x{side}",
        (logits,),
        PUBLISHED.anomaly_score,
        FUSED.anomaly_score,
        score_traffic.bytes_moved(batch, side**2, plans["top_pixels"].grid[0], value_bytes),
    )
    maps = torch.rand(strip.tiles, strip.side, strip.side, device=draw.device).to(draw.dtype)
    yield Case(
        "stitch_tiles",
        f"{strip.lines}x{strip.width}",
        (maps, strip.lines, strip.width, strip.overlap),
        score_reference.stitch_tiles,
        stitch_tiles,
        score_traffic.stitch_bytes_moved(tile_pixels, strip.lines * strip.width, value_bytes),
    )


def widened(value: Any) -> Any:
    """Floating tensors and dtypes in a nest of arguments, in float64."""

    def widen(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf.detach().double()
        return torch.float64 if isinstance(leaf, torch.dtype) else leaf

    return tree_map(widen, value)


def error_steps(found: Any, expected: Any) -> float:
    """The largest error of all results, in rounding steps of their dtypes; NaN if there is one."""
    pairs = zip(tree_leaves(found), tree_leaves(expected), strict=True)
    return float(np.max([relative_error(one, other) / torch.finfo(one.dtype).eps for one, other in pairs]))


def gradients(function: Callable[..., Any], case: Case, arguments: tuple[Any, ...], upstream: Any) -> list[Tensor]:
    """Gradients of the trained arguments, given those of the results."""
    arguments = tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, arguments)
    leaves = [leaf.requires_grad_() for position in case.trained for leaf in tree_leaves(arguments[position])]
    outputs = tree_leaves(function(*arguments))
    weights = [one.to(output.dtype) for one, output in zip(upstream, outputs, strict=True)]
    return list(torch.autograd.grad(outputs, leaves, weights))


def verdict(case: Case, dtype: torch.dtype, steps: float) -> dict[str, Any]:
    """What is recorded of a check; NaN is not right."""
    right = bool(steps <= max(ALLOWED_STEPS[dtype], 1.0))
    return {"op": case.op, "shape": case.shape, "dtype": str(dtype), "error_steps": steps, "right": right}


def check_operations(
    device: torch.device, dtypes: Sequence[torch.dtype], shapes: Shapes, batch: int, report: Report
) -> None:
    """Errors of every operation, forward and backward; outputs are poisoned before they are written."""
    rows: Rows = []
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        for dtype in dtypes:
            for case in cases(batch, dtype, device, shapes):
                expected = case.published(*widened(case.arguments))
                forward = verdict(case, dtype, error_steps(case.run(), expected))
                rows.append({**forward, "direction": "forward"})
                if case.trained:
                    upstream = [torch.randn_like(one) for one in tree_leaves(expected)]
                    wide = gradients(case.published, case, widened(case.arguments), upstream)
                    backward = verdict(
                        case, dtype, error_steps(gradients(case.fused, case, case.arguments, upstream), wide)
                    )
                    rows.append({**backward, "direction": "backward"})
                report(rows)
    finally:
        torch.use_deterministic_algorithms(False)


@torch.no_grad()
def time_operations(
    device: torch.device, dtype: torch.dtype, shapes: Shapes, batches: Sequence[int], seconds: float, report: Report
) -> None:
    """One row an operation, shape and batch, timed for so many seconds in each formulation."""
    bandwidth = copy_rate(seconds, device.type)
    rows: Rows = []
    for batch in batches:
        for case in cases(batch, dtype, device, shapes):
            if case.traffic is None:
                continue
            checked = verdict(case, dtype, error_steps(case.run(), case.published(*widened(case.arguments))))
            row = {**checked, "batch": batch, "copy_gigabytes_per_second": bandwidth / 1e9}
            if checked["right"]:
                row |= times_of(case, case.traffic, device, bandwidth, seconds)
            else:
                row["refused"] = "the output is wrong"
            rows.append(row)
            report(rows)


def times_of(case: Case, traffic: Traffic, device: torch.device, bandwidth: float, seconds: float) -> dict[str, Any]:
    """Times of one operation and what follows from them, or why they cannot be true."""
    fused = summary(cold_milliseconds(recorded(case.run, device), device, seconds))
    published = summary(cold_milliseconds(partial(case.published, *case.arguments), device, seconds))
    assert fused["p50_ms"] is not None
    assert published["p50_ms"] is not None
    taken = fused["p50_ms"] / 1000
    if case.input_bytes / taken > OVER_CEILING * bandwidth:
        return {
            "refused": f"inputs would be read at {case.input_bytes / taken / 1e9:.0f} GB/s, over the "
            f"{bandwidth / 1e9:.0f} GB/s that memory copies at: work is left out, or the cache was not cold"
        }
    return {
        **fused,
        "published_ms": published["p50_ms"],
        "published_samples": published["samples"],
        "times_faster": published["p50_ms"] / fused["p50_ms"],
        "gigabytes_per_second": traffic.total / taken / 1e9,
        "percent_of_copy": 100 * traffic.total / taken / bandwidth,
    }
