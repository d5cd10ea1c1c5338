"""Every kernel at the shapes of the real network: what is compiled ahead of time, tabulated and benchmarked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from prn_fast.kernels.launch import Launch
from prn_fast.kernels.tile_normalize.reference import tile_positions
from prn_fast.kernels.tiles import Capability, tile_for

GRIDS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Scale:
    """One scale of a PRN with the ResNet-18 backbone and 256x256 images: C_s channels, side h_s, K prototypes."""

    channels: int
    side: int
    prototypes: int = 20

    @property
    def size(self) -> int:
        """Values of a feature map."""
        return self.channels * self.side**2


@dataclass(frozen=True)
class Strip:
    """Lines of a camera: how many, how many pixels and channels each has, and how they are cut into tiles."""

    lines: int
    width: int
    channels: int
    side: int
    overlap: int

    @property
    def tiles(self) -> int:
        """Tiles of the strip."""
        return len(tile_positions(self.lines, self.width, self.side, self.overlap))


SCALES = (Scale(64, 64), Scale(128, 32), Scale(256, 16))
IMAGE_SIDE = 256
# One block of an 8k monochrome camera: one row of tiles.
STRIP = Strip(lines=256, width=8192, channels=1, side=IMAGE_SIDE, overlap=32)

KERNELS_OF_OP = {
    "tile_normalize": ("tile_normalize",),
    "prototype_residual": ("distance", "residual"),
    "multi_scale_fusion": ("project_upsample_add",),
    "multi_size_attention": ("logits", "softmax", "mixing"),
    "anomaly_score": ("top_pixels", "score"),
    "stitch_tiles": ("stitch",),
}
ATTENTION_BACKWARD = "multi_size_attention_backward"
TRAINING_KERNELS_OF_OP = {
    ATTENTION_BACKWARD: ("logits_gradient", "softmax_gradient", "input_gradient", "weight_gradient"),
}


def all_launches(
    batch: int, dtype: torch.dtype, capability: Capability, scales: Sequence[Scale] = SCALES
) -> Iterator[tuple[str, str, Launch]]:
    """Shape, name and launch of every kernel: at the given scales, and at the edges of the graph. Needs triton."""
    for scale in scales:
        for name, launch in launches(scale, batch, dtype, capability):
            yield f"{scale.side}x{scale.side}", name, launch
    yield from edge_launches(batch, dtype, capability)


def edge_launches(
    batch: int, dtype: torch.dtype, capability: Capability, strip: Strip = STRIP, channels_last: bool = True
) -> Iterator[tuple[str, str, Launch]]:
    """Shape, name and launch of the kernels that take images or a strip in and give scores, maps or a strip out."""
    from prn_fast.kernels.anomaly_score import fused as score
    from prn_fast.kernels.tile_normalize import fused as normalize

    # No instruction depends on these.
    mean = std = (0.5, 0.5, 0.5)
    images, lines = f"{IMAGE_SIDE}x{IMAGE_SIDE}", f"{strip.lines}x{strip.width}"
    tile = tile_for("tile_normalize", capability, dtype)
    colour_row = 3 * IMAGE_SIDE
    yield (
        images,
        "tile_normalize",
        normalize.plan_tile_normalize(
            batch * IMAGE_SIDE, IMAGE_SIDE, 3, colour_row, IMAGE_SIDE, 0, mean, std, dtype, channels_last, tile
        ),
    )
    yield (
        lines,
        "tile_normalize",
        normalize.plan_tile_normalize(
            strip.lines,
            strip.width,
            strip.channels,
            strip.width * strip.channels,
            strip.side,
            strip.overlap,
            mean,
            std,
            dtype,
            channels_last,
            tile,
        ),
    )
    top_pixels = score.plan_top_pixels(batch, IMAGE_SIDE**2, dtype, tile_for("top_pixels", capability, dtype))
    yield images, "top_pixels", top_pixels
    yield images, "score", score.plan_score(batch, top_pixels.grid[0], tile_for("score", capability, dtype))
    tile = tile_for("stitch", capability, dtype)
    yield lines, "stitch", score.plan_stitch(strip.lines, strip.width, strip.side, strip.overlap, dtype, tile)


def launches(
    scale: Scale, batch: int, dtype: torch.dtype, capability: Capability, channels_last: bool = True
) -> Iterator[tuple[str, Launch]]:
    """Names and launches of all kernels at a scale; attention sees twice the channels. Needs triton."""
    from prn_fast.kernels.multi_scale_fusion import fused as fusion
    from prn_fast.kernels.multi_size_attention import fused as attention
    from prn_fast.kernels.prototype_residual import fused as residual

    distance = residual.plan_distance(
        batch, scale.prototypes, scale.size, dtype, tile_for("distance", capability, dtype)
    )
    yield "distance", distance
    yield (
        "residual",
        residual.plan_residual(
            batch, scale.prototypes, scale.size, distance.grid[0], dtype, tile_for("residual", capability, dtype)
        ),
    )
    shape = attention.AttentionShape(batch, 2 * scale.channels, scale.side, scale.side, GRIDS, dtype, channels_last)
    logits = attention.plan_logits(shape, tile_for("logits", capability, dtype))
    yield "logits", logits
    yield "softmax", attention.plan_softmax(shape, logits.grid[0], tile_for("softmax", capability, dtype))
    yield "mixing", attention.plan_mixing(shape, tile_for("mixing", capability, dtype))
    yield (
        "project_upsample_add",
        fusion.plan_project_upsample_add(
            batch,
            scale.channels,
            scale.side,
            scale.side,
            1,
            coarser(scale),
            dtype,
            channels_last,
            tile_for("project_upsample_add", capability, dtype),
        ),
    )


def training_launches(
    batch: int, dtype: torch.dtype, capability: Capability, scales: Sequence[Scale] = SCALES
) -> Iterator[tuple[str, str, Launch]]:
    """As `all_launches`, of the kernels that only training runs."""
    from prn_fast.kernels.multi_size_attention import gradient
    from prn_fast.kernels.multi_size_attention.fused import AttentionShape

    tiles = {kernel: tile_for(kernel, capability, dtype) for kernel in TRAINING_KERNELS_OF_OP[ATTENTION_BACKWARD]}
    for scale in scales:
        side = f"{scale.side}x{scale.side}"
        shape = AttentionShape(batch, 2 * scale.channels, scale.side, scale.side, GRIDS, dtype, channels_last=True)
        logits = gradient.plan_logits_gradient(shape, tiles["logits_gradient"])
        splits = logits.grid[0]
        yield side, "logits_gradient", logits
        yield (
            side,
            "softmax_gradient",
            gradient.plan_softmax_gradient(shape, splits, tiles["softmax_gradient"]),
        )
        yield side, "input_gradient", gradient.plan_input_gradient(shape, tiles["input_gradient"])
        yield side, "weight_gradient", gradient.plan_weight_gradient(shape, tiles["weight_gradient"])


def coarser(scale: Scale) -> list[tuple[int, int, int]]:
    """Channels, height and width of the two maps that come to the finest scale from the next ones."""
    return [(factor * scale.channels, scale.side // factor, scale.side // factor) for factor in (2, 4)]
