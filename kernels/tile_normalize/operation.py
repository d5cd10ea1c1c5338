"""Normalising of images and of a strip's tiles, one kernel, as `Operation`s."""

from collections.abc import Iterator

import torch

from prn_fast.kernels.launch import Launch
from prn_fast.kernels.operation import Case, Draw, Operation, Shapes, Space
from prn_fast.kernels.tile_normalize import normalize_images, reference, tile_normalize, traffic
from prn_fast.kernels.tiles import Capability, tile_for

# ImageNet's.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _launches(
    shapes: Shapes, batch: int, dtype: torch.dtype, capability: Capability, channels_last: bool
) -> Iterator[tuple[str, str, Launch]]:
    from prn_fast.kernels.tile_normalize.fused import plan_tile_normalize

    (kernel,) = OPERATION.kernels
    side, strip = shapes.image_side, shapes.strip
    tile = tile_for(kernel, capability, dtype)

    def plan(lines: int, width: int, channels: int, side: int, overlap: int) -> Launch:
        pitch = width * channels
        return plan_tile_normalize(lines, width, channels, pitch, side, overlap, MEAN, STD, dtype, channels_last, tile)

    yield shapes.image, kernel, plan(batch * side, side, 3, side, 0)
    yield strip.name, kernel, plan(strip.lines, strip.width, strip.channels, strip.side, strip.overlap)


def _cases(batch: int, shapes: Shapes, draw: Draw) -> Iterator[Case]:
    side, strip, value_bytes = shapes.image_side, shapes.strip, draw.dtype.itemsize
    images, ring = draw.pixels(batch, side, side, 3), draw.pixels(strip.lines, strip.width, strip.channels)

    def bytes_of(pixels: torch.Tensor, tiles: int) -> tuple[traffic.BytesMoved, traffic.BytesMoved]:
        moved = traffic.bytes_moved(pixels.nbytes, tiles, value_bytes)
        return moved, traffic.published_bytes_moved(pixels.nbytes, tiles, pixels.shape[-1], value_bytes)

    yield OPERATION.case(shapes.image, (images, MEAN, STD, draw.dtype), lambda: bytes_of(images, batch * side**2))
    yield Case(
        OPERATION.name,
        strip.name,
        # From the middle of the ring: the strip wraps around.
        (ring, strip.lines // 2, strip.lines, strip.side, strip.overlap, MEAN, STD, draw.dtype),
        reference.tile_normalize,
        reference.tile_normalize,
        tile_normalize,
        lambda: bytes_of(ring, strip.tiles * strip.side**2),
    )


OPERATION = Operation(
    "normalize_images",
    reference.normalize_images,
    reference.normalize_images,
    normalize_images,
    registered=(normalize_images, tile_normalize),
    kernels={"tile_normalize": Space({"BLOCK": (512, 1024, 2048, 4096)})},
    launches=_launches,
    cases=_cases,
)
