"""Speed of the operations on a GPU: milliseconds, GB/s and share of the copy bandwidth, at the real network's shapes.

Bytes come from each operation's traffic model. The L2 cache is emptied before every timed run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from prn_fast.kernels import FUSED, PUBLISHED, Ops
from prn_fast.kernels.catalogue import GRIDS, SCALES, Scale, launches
from prn_fast.kernels.launch import capability_of
from prn_fast.kernels.multi_size_attention import traffic as attention_traffic
from prn_fast.kernels.prototype_residual import traffic as residual_traffic
from prn_fast.kernels.traffic import Traffic

COPY_BYTES = 1 << 30


@dataclass(frozen=True)
class Case:
    """One operation at one scale, and its inputs.

    Attributes:
        run: calls the operation in a given formulation.
        traffic: of the fused formulation.
    """

    op: str
    scale: Scale
    run: Callable[[Ops], Tensor]
    traffic: Traffic


def attention_weights(channels: int, side: int, like: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Random projections for every grid, in the dtype and layout of a map."""

    def draw(count: int, grid: int) -> Tensor:
        shape = (count, channels, side // grid, side // grid)
        weights = torch.randn(shape, device=like.device, dtype=torch.float32).to(like.dtype)
        return weights.to(memory_format=torch.channels_last)

    return [draw(4, grid) for grid in GRIDS if grid > 1], [draw(2, grid) for grid in GRIDS]


def cases(batch: int, dtype: torch.dtype, device: torch.device, scales: tuple[Scale, ...] = SCALES) -> Iterator[Case]:
    """Both operations at every scale with random inputs, channels-last."""
    for scale in scales:
        shape = (scale.channels, scale.side, scale.side)

        def draw(count: int, channels: int = scale.channels, side: int = scale.side) -> Tensor:
            maps = torch.randn(count, channels, side, side, device=device).to(dtype)
            return maps.to(memory_format=torch.channels_last)

        features, prototypes = draw(batch), draw(scale.prototypes)
        maps = draw(batch, 2 * scale.channels)
        query_key, value = attention_weights(2 * scale.channels, scale.side, maps)
        plans = dict(launches(scale, batch, dtype, capability_of(maps)))
        size, width = shape[0] * shape[1] * shape[2], dtype.itemsize
        yield Case(
            "prototype_residual",
            scale,
            partial(_run_residual, features, prototypes),
            residual_traffic.bytes_moved(batch, scale.prototypes, size, plans["distance"].grid[0], width),
        )
        yield Case(
            "multi_size_attention",
            scale,
            partial(_run_attention, maps, query_key, value),
            attention_traffic.bytes_moved(
                batch, 2 * scale.channels, scale.side, scale.side, GRIDS, plans["logits"].grid[0], width
            ),
        )


def _run_residual(features: Tensor, prototypes: Tensor, ops: Ops) -> Tensor:
    return ops.prototype_residual(features, prototypes)


def _run_attention(maps: Tensor, query_key: list[Tensor], value: list[Tensor], ops: Ops) -> Tensor:
    return ops.multi_size_attention(maps, GRIDS, query_key, value)


def milliseconds(function: Callable[[], object]) -> float:
    """Median time of one call on the GPU, cold L2."""
    from triton.testing import do_bench

    return float(do_bench(function, warmup=25, rep=100, return_mode="median"))


def copy_bandwidth(device: torch.device) -> float:
    """GB/s, read and written, of copying a gigabyte on the device."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / milliseconds(lambda: target.copy_(source)) / 1e6


def kernel_table(batches: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> list[dict[str, object]]:
    """One row an operation, scale and batch: times, GB/s, percent of the copy bandwidth, speed against published."""
    bandwidth = copy_bandwidth(device)
    rows: list[dict[str, object]] = []
    for batch in batches:
        for case in cases(batch, dtype, device):
            fused = milliseconds(partial(case.run, FUSED))
            published = milliseconds(partial(case.run, PUBLISHED))
            speed = case.traffic.total / fused / 1e6
            rows.append(
                {
                    "op": case.op,
                    "side": case.scale.side,
                    "batch": batch,
                    "dtype": str(dtype),
                    "fused_ms": fused,
                    "published_ms": published,
                    "times_faster": published / fused,
                    "gigabytes_per_second": speed,
                    "percent_of_copy": 100 * speed / bandwidth,
                    "copy_gigabytes_per_second": bandwidth,
                }
            )
    return rows
