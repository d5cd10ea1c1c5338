"""The end of the decoder, as an `Operation`."""

from collections.abc import Iterator

import torch

from prn_fast.kernels.launch import Launch
from prn_fast.kernels.logit_head import logit_head, reference, traffic
from prn_fast.kernels.operation import Case, Draw, Operation, Shapes, Space
from prn_fast.kernels.tiles import Capability, tile_for


def _launches(
    shapes: Shapes, batch: int, dtype: torch.dtype, capability: Capability, channels_last: bool
) -> Iterator[tuple[str, str, Launch]]:
    from prn_fast.kernels.logit_head.fused import plan_sum_taps, plan_tap_logits

    level, (taps, total) = shapes.scales[0], (tile_for(kernel, capability, dtype) for kernel in OPERATION.kernels)
    sizes = level.channels, level.channels, level.side, level.side, shapes.image_side // level.side
    yield shapes.image, "tap_logits", plan_tap_logits(batch, *sizes, dtype, channels_last, taps)
    yield shapes.image, "sum_taps", plan_sum_taps(batch, shapes.image_side, shapes.image_side, dtype, total)


def _cases(batch: int, shapes: Shapes, draw: Draw) -> Iterator[Case]:
    level, pixels = shapes.scales[0], shapes.image_side**2
    channels, factor = level.channels, shapes.image_side // level.side
    maps = draw.maps(batch, channels, level.side, level.side)
    weight = draw.maps(channels, channels, 3, 3, spread=(9 * channels) ** -0.5)
    out_weight = draw.maps(1, channels, 3, 3, spread=(9 * channels) ** -0.5)
    weights, value_bytes = weight.numel() + out_weight.numel(), draw.dtype.itemsize
    yield OPERATION.case(
        shapes.image,
        (maps, weight, draw.maps(channels), out_weight, draw.maps(1), factor),
        lambda: (
            traffic.bytes_moved(batch, level.size, pixels, weights, value_bytes),
            traffic.published_bytes_moved(batch, level.size, channels, channels, pixels, weights, value_bytes),
        ),
    )


OPERATION = Operation(
    "logit_head",
    reference.logit_head,
    reference.logit_head,
    logit_head,
    registered=(logit_head,),
    kernels={
        "tap_logits": Space(
            {"TILE_H": (8, 16), "TILE_W": (8, 16, 32), "BLOCK_C": (32, 64), "BLOCK_K": (32, 64)},
            stages=(1, 2, 3),
        ),
        "sum_taps": Space({"BLOCK": (256, 512, 1024)}, warps=(2, 4, 8)),
    },
    launches=_launches,
    cases=_cases,
)
