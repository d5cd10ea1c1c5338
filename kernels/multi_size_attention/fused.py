# mypy: allow-untyped-defs
"""Multi-size attention in three Triton kernels: two reads and four writes of the map, no patchify, no copies.

The finest grid, G x G, cuts the map into T = G^2 sub-tokens of D = C (H/G) (W/G) values. A token of a coarser grid g is
r^2 of them, r = G/g, so that one loaded tile (T, BLOCK_D) serves every grid:

1. `logits_kernel` adds up, for each grid, M = (w x + u) x^T over D, T x T, where w and u are the projections of
   `lean.py`. The logit of tokens i and j is the sum over s of M[(i, s), (j, s)], s a sub-token's place in its token.
   D is split over programs; only the entries of equal s are written, (B, splits, entries) float32.
2. `softmax_kernel` adds up splits and places and writes the attention of every grid, (B, sum of g^4).
3. `mixing_kernel` spreads A to E[(i, s), (j, s')] = A[i, j] where s = s', writes s_v (E x) + b_v.

Products add up in float32; float32 tiles are multiplied as such, not as TF32. They cost 384 operations a value in each
pass for grids (1, 2, 4, 8), which tensor cores hide behind the memory traffic. Every grid must be a power of two, 8 at
most; see `supports`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from prn_fast.kernels.launch import (
    LEAST_ROWS,
    Launch,
    Tile,
    capability_of,
    ceil_div,
    memory_format_of,
    pointer,
    steps_for,
)
from prn_fast.kernels.multi_size_attention.lean import fold_query_key
from prn_fast.kernels.tiles import tile_for

FINEST_GRID = 8


@triton.jit
def _place(
    n,
    d,
    GRID: tl.constexpr,
    FINEST: tl.constexpr,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    PIXEL: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Offsets of value d of sub-token n in one patch (C, H/GRID, W/GRID) of a grid; of the map itself for GRID 1.

    PIXEL is the distance of neighbouring pixels in a channels-last tensor.
    """
    cell_height: tl.constexpr = H // FINEST
    cell_width: tl.constexpr = W // FINEST
    width: tl.constexpr = W // GRID
    cells: tl.constexpr = FINEST // GRID
    first_pixel = (n // FINEST) % cells * (cell_height * width) + (n % FINEST) % cells * cell_width
    if CHANNELS_LAST:
        row, column, c = d // (C * cell_width), (d // C) % cell_width, d % C
        return (first_pixel * PIXEL)[:, None] + ((row * width + column) * PIXEL + c)[None, :]
    c, row, column = d // (cell_height * cell_width), (d // cell_width) % cell_height, d % cell_width
    return first_pixel[:, None] + ((c * (H // GRID) + row) * width + column)[None, :]


@triton.jit
def _token(n, GRID: tl.constexpr, FINEST: tl.constexpr):
    """The token of a grid to which sub-token n belongs."""
    cells: tl.constexpr = FINEST // GRID
    return (n // FINEST) // cells * GRID + (n % FINEST) // cells


@triton.jit
def _spot(n, GRID: tl.constexpr, FINEST: tl.constexpr):
    """The place of sub-token n in its token."""
    cells: tl.constexpr = FINEST // GRID
    return (n // FINEST) % cells * cells + (n % FINEST) % cells


@triton.jit
def _load_weights(
    weights,
    n,
    d,
    GRID: tl.constexpr,
    FINEST: tl.constexpr,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """A grid's two weights (2, C, H/GRID, W/GRID) for the values of a tile, float32, zero outside the map."""
    T: tl.constexpr = FINEST * FINEST
    patch: tl.constexpr = C * (H // GRID) * (W // GRID)
    if GRID == FINEST:
        # Every sub-token has the same weights.
        n = tl.arange(0, 1)
    inside = (n < T)[:, None] & (d < C * H * W // T)[None, :]
    pointers = weights + _place(n, d, GRID, FINEST, C, H, W, C, CHANNELS_LAST)
    first = tl.load(pointers, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(pointers + patch, mask=inside, other=0.0).to(tl.float32)
    return first, second


@triton.jit
def _store_products(products, target, n, GRID: tl.constexpr, FINEST: tl.constexpr):
    """Write the products of sub-tokens at equal places in their tokens: (g^2, g^2, places)."""
    T: tl.constexpr = FINEST * FINEST
    tokens: tl.constexpr = GRID * GRID
    token, spot = _token(n, GRID, FINEST), _spot(n, GRID, FINEST)
    entry = (token[:, None] * tokens + token[None, :]) * (T // tokens) + spot[:, None]
    tl.store(target + entry, products, mask=(spot[:, None] == spot[None, :]) & (n < T)[:, None] & (n < T)[None, :])


@triton.jit(do_not_specialize=["batch"])
def logits_kernel(
    maps,  # (batch, C, H, W)
    projections,  # for each grid but 1: (2, C, H/g, W/g), w and u
    batch,
    partials,  # (batch, splits, ENTRIES) float32
    GRIDS: tl.constexpr,
    FINEST: tl.constexpr,
    ENTRIES: tl.constexpr,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEPS: tl.constexpr,
):
    T: tl.constexpr = FINEST * FINEST
    split = tl.program_id(0)
    b = tl.program_id(1).to(tl.int64)
    n = tl.arange(0, ROWS)
    sums = (tl.zeros([ROWS, ROWS], tl.float32),) * len(GRIDS)
    for step in range(STEPS):
        d = (split * STEPS + step) * BLOCK_D + tl.arange(0, BLOCK_D)
        inside = (n < T)[:, None] & (d < C * H * W // T)[None, :]
        place = _place(n, d, 1, FINEST, C, H, W, C, CHANNELS_LAST)
        x = tl.load(maps + b * (C * H * W) + place, mask=inside, other=0.0)
        next_sums = ()
        for level in tl.static_range(len(GRIDS)):
            w, u = _load_weights(projections[level], n, d, GRIDS[level], FINEST, C, H, W, CHANNELS_LAST)
            query = (w * x.to(tl.float32) + u).to(x.dtype)
            product = tl.dot(query, tl.trans(x), sums[level], input_precision="ieee")
            # Triton knows no unpacking.
            next_sums = next_sums + (product,)  # type: ignore[assignment]  # noqa: RUF005
        sums = next_sums
    target = partials + (b * tl.num_programs(0) + split) * ENTRIES
    for level in tl.static_range(len(GRIDS)):
        _store_products(sums[level], target, n, GRIDS[level], FINEST)
        target += T * GRIDS[level] * GRIDS[level]


@triton.jit
def _softmax_rows(
    partials,
    attention,
    block,
    GRID: tl.constexpr,
    FINEST: tl.constexpr,
    ENTRIES: tl.constexpr,
    SIZE: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    """Add up one image's partial logits for some rows of one grid; write their softmax."""
    tokens: tl.constexpr = GRID * GRID
    spots: tl.constexpr = FINEST * FINEST // tokens
    i = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    j = tl.arange(0, tokens)
    entry = (i[:, None, None] * tokens + j[None, :, None]) * spots + tl.arange(0, spots)[None, None, :]
    products = tl.zeros([BLOCK_ROWS, tokens, spots], tl.float32)
    for split in range(SPLITS):
        products += tl.load(partials + split * ENTRIES + entry)
    # Divided by the length of a token.
    logits = tl.sum(products, axis=2) * (tokens / SIZE)
    exponents = tl.exp(logits - tl.max(logits, axis=1, keep_dims=True))
    weights = exponents / tl.sum(exponents, axis=1, keep_dims=True)
    tl.store(attention + i[:, None] * tokens + j[None, :], weights.to(attention.dtype.element_ty))


@triton.jit(do_not_specialize=["batch"])
def softmax_kernel(
    partials,  # (batch, SPLITS, ENTRIES) float32
    batch,
    attention,  # (batch, WEIGHTS): for each grid but 1, (g^2, g^2)
    GRIDS: tl.constexpr,
    FINEST: tl.constexpr,
    ENTRIES: tl.constexpr,
    WEIGHTS: tl.constexpr,
    SIZE: tl.constexpr,  # C * H * W
    SPLITS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    b = tl.program_id(1).to(tl.int64)
    source = partials + b * SPLITS * ENTRIES
    target = attention + b * WEIGHTS
    block = tl.program_id(0)
    for level in tl.static_range(len(GRIDS)):
        if (block >= 0) & (block < GRIDS[level] * GRIDS[level] // BLOCK_ROWS):
            _softmax_rows(source, target, block, GRIDS[level], FINEST, ENTRIES, SIZE, SPLITS, BLOCK_ROWS)
        source += FINEST * FINEST * GRIDS[level] * GRIDS[level]
        target += GRIDS[level] * GRIDS[level] * GRIDS[level] * GRIDS[level]
        block -= GRIDS[level] * GRIDS[level] // BLOCK_ROWS


@triton.jit
def _load_attention(attention, i, j, inside, GRID: tl.constexpr, FINEST: tl.constexpr):
    """A grid's attention between sub-tokens i and j: A of their tokens where they have the same place, else zero."""
    same = _spot(i, GRID, FINEST)[:, None] == _spot(j, GRID, FINEST)[None, :]
    entry = _token(i, GRID, FINEST)[:, None] * (GRID * GRID) + _token(j, GRID, FINEST)[None, :]
    return tl.load(attention + entry, mask=same & inside, other=0.0)


@triton.jit
def _mix(
    maps,
    attention,
    values,
    output,
    rows,
    start,
    GRID: tl.constexpr,
    FINEST: tl.constexpr,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    PIXEL: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Some values of an image's sub-tokens (`rows` of them), mixed by one grid's attention, scaled and shifted."""
    T: tl.constexpr = FINEST * FINEST
    n = tl.arange(0, ROWS)
    if GRID > 1:
        mix = _load_attention(attention, n, n, (n < rows)[:, None] & (n < rows)[None, :], GRID, FINEST)
    for step in range(STEPS):
        d = (start + step) * BLOCK_D + tl.arange(0, BLOCK_D)
        inside = (n < rows)[:, None] & (d < C * H * W // T)[None, :]
        x = tl.load(maps + _place(n, d, 1, FINEST, C, H, W, C, CHANNELS_LAST), mask=inside, other=0.0)
        scale, bias = _load_weights(values, n, d, GRID, FINEST, C, H, W, CHANNELS_LAST)
        mixed = tl.dot(mix, x, input_precision="ieee") if GRID > 1 else x.to(tl.float32)
        result = (mixed * scale + bias).to(output.dtype.element_ty)
        tl.store(output + _place(n, d, 1, FINEST, C, H, W, PIXEL, CHANNELS_LAST), result, mask=inside)


@triton.jit(do_not_specialize=["batch"])
def mixing_kernel(
    maps,  # (batch, C, H, W)
    attention,  # (batch, WEIGHTS)
    values,  # for each grid: (2, C, H/g, W/g), scale and bias
    batch,
    output,  # (batch, len(GRIDS) * C, H, W)
    GRIDS: tl.constexpr,
    FINEST: tl.constexpr,
    WEIGHTS: tl.constexpr,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    start = tl.program_id(0) * STEPS
    for level in tl.static_range(len(GRIDS)):
        # Several images in a row find a grid's scales and biases in the cache.
        for image in range(BLOCK_B):
            b = (tl.program_id(1) * BLOCK_B + image).to(tl.int64)
            _mix(
                maps + b * (C * H * W),
                attention + b * WEIGHTS,
                values[level],
                output + b * (len(GRIDS) * C * H * W) + level * (C if CHANNELS_LAST else C * H * W),
                FINEST * FINEST if b < batch else 0,
                start,
                GRIDS[level],
                FINEST,
                C,
                H,
                W,
                len(GRIDS) * C,
                CHANNELS_LAST,
                ROWS,
                BLOCK_D,
                STEPS,
            )
        if GRIDS[level] > 1:
            attention += GRIDS[level] * GRIDS[level] * GRIDS[level] * GRIDS[level]


@dataclass(frozen=True)
class AttentionShape:
    """Shapes, dtype and layout of one call; every grid a power of two that divides height and width, 8 at most."""

    batch: int
    channels: int
    height: int
    width: int
    grids: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool

    @property
    def finest(self) -> int:
        """Sub-tokens along a side."""
        return max(self.grids)

    @property
    def attending(self) -> tuple[int, ...]:
        """The grids of more than one token, in order."""
        return tuple(grid for grid in self.grids if grid > 1)

    @property
    def size(self) -> int:
        """Values of one sub-token."""
        return self.channels * self.height * self.width // self.finest**2

    @property
    def entries(self) -> int:
        """Values of one split's partial logits."""
        return sum(self.finest**2 * grid**2 for grid in self.attending)

    @property
    def weights(self) -> int:
        """Attention weights of one image."""
        return sum(grid**4 for grid in self.attending)

    @property
    def tokens(self) -> int:
        """Tokens of one image, of all grids but 1."""
        return sum(grid**2 for grid in self.attending)

    def constants(self) -> dict[str, Any]:
        """Constexpr arguments of the two kernels that read the map."""
        return {
            "FINEST": self.finest,
            "C": self.channels,
            "H": self.height,
            "W": self.width,
            "CHANNELS_LAST": self.channels_last,
            "ROWS": max(LEAST_ROWS, self.finest**2),
        }


def supports(grids: Sequence[int]) -> bool:
    """Whether the kernels take these grids: powers of two, 8 at most, one of them above 1."""
    return 1 < max(grids) <= FINEST_GRID and all(grid & (grid - 1) == 0 for grid in grids)


def require_supported(grids: Sequence[int]) -> None:
    """A ValueError for grids that the kernels do not take."""
    if not supports(grids):
        raise ValueError(f"grids must be powers of two up to {FINEST_GRID}, one of them above 1, not {tuple(grids)}")


def plan_logits(shape: AttentionShape, tile: Tile) -> Launch:
    """Launch of `logits_kernel`."""
    blocks = dict(tile.blocks)
    size_blocks = ceil_div(shape.size, blocks["BLOCK_D"])
    # Few splits: each writes its partial logits, which the softmax reads again.
    blocks["STEPS"] = steps_for(blocks["STEPS"], shape.batch * size_blocks, least=4, programs=256)
    return Launch(
        logits_kernel,
        {
            "maps": pointer(shape.dtype),
            "projections": (pointer(shape.dtype),) * len(shape.attending),
            "batch": "i32",
            "partials": "*fp32",
        },
        {"GRIDS": shape.attending, "ENTRIES": shape.entries, **shape.constants(), **blocks},
        (ceil_div(size_blocks, blocks["STEPS"]), shape.batch),
        tile,
    )


def plan_softmax(shape: AttentionShape, splits: int, tile: Tile) -> Launch:
    """Launch of `softmax_kernel` on the partial logits of so many splits."""
    return Launch(
        softmax_kernel,
        {"partials": "*fp32", "batch": "i32", "attention": pointer(shape.dtype)},
        {
            "GRIDS": shape.attending,
            "FINEST": shape.finest,
            "ENTRIES": shape.entries,
            "WEIGHTS": shape.weights,
            "SIZE": shape.channels * shape.height * shape.width,
            "SPLITS": splits,
            **tile.blocks,
        },
        (shape.tokens // tile.blocks["BLOCK_ROWS"], shape.batch),
        tile,
    )


def plan_mixing(shape: AttentionShape, tile: Tile) -> Launch:
    """Launch of `mixing_kernel`."""
    blocks = dict(tile.blocks)
    blocks["BLOCK_B"] = max(1, min(blocks["BLOCK_B"], shape.batch // 4))
    image_blocks, size_blocks = ceil_div(shape.batch, blocks["BLOCK_B"]), ceil_div(shape.size, blocks["BLOCK_D"])
    blocks["STEPS"] = steps_for(blocks["STEPS"], image_blocks * size_blocks)
    return Launch(
        mixing_kernel,
        {
            "maps": pointer(shape.dtype),
            "attention": pointer(shape.dtype),
            "values": (pointer(shape.dtype),) * len(shape.grids),
            "batch": "i32",
            "output": pointer(shape.dtype),
        },
        {"GRIDS": shape.grids, "WEIGHTS": shape.weights, **shape.constants(), **blocks},
        (ceil_div(size_blocks, blocks["STEPS"]), image_blocks),
        tile,
    )


def attend(
    maps: Tensor,
    grids: Sequence[int],
    projections: Sequence[Tensor],
    values: Sequence[Tensor],
    tiles: tuple[Tile, Tile, Tile] | None = None,
) -> Tensor:
    """Multi-size attention with folded projections, on a GPU (or the CPU in Triton's interpreter).

    Args:
        maps: (B, C, H, W), float16, bfloat16 or float32, contiguous or channels-last.
        grids: as in the reference; see `supports`.
        projections: for each grid larger than one, in order, the result of `fold_query_key`.
        values: for each grid: (2, C, H/g, W/g), scale and bias. Weights in another layout than the map are copied.
        tiles: of the three kernels; by default the device's.
    Returns:
        (B, len(grids) * C, H, W), same dtype and layout.
    """
    require_supported(grids)
    batch, channels, height, width = maps.shape
    layout = memory_format_of(maps)
    channels_last = layout == torch.channels_last
    shape = AttentionShape(batch, channels, height, width, tuple(grids), maps.dtype, channels_last)
    maps = maps.contiguous(memory_format=layout)
    projections = tuple(one.to(maps.dtype).contiguous(memory_format=layout) for one in projections)
    values = tuple(one.to(maps.dtype).contiguous(memory_format=layout) for one in values)
    capability = capability_of(maps)
    logits_tile, softmax_tile, mixing_tile = tiles or (
        tile_for("logits", capability, maps.dtype),
        tile_for("softmax", capability, maps.dtype),
        tile_for("mixing", capability, maps.dtype),
    )
    logits = plan_logits(shape, logits_tile)
    splits = logits.grid[0]
    partials = torch.empty(batch, splits, shape.entries, dtype=torch.float32, device=maps.device)
    attention = torch.empty(batch, shape.weights, dtype=maps.dtype, device=maps.device)
    output = torch.empty(
        batch, len(grids) * channels, height, width, dtype=maps.dtype, device=maps.device, memory_format=layout
    )
    logits(maps, projections, batch, partials)
    plan_softmax(shape, splits, softmax_tile)(partials, batch, attention)
    plan_mixing(shape, mixing_tile)(maps, attention, values, batch, output)
    return output


def multi_size_attention(
    maps: Tensor, grids: Sequence[int], query_key: Sequence[Tensor], value: Sequence[Tensor]
) -> Tensor:
    """The function that `lean.multi_size_attention` defines, for grids that `supports` accepts."""
    return attend(maps, grids, [fold_query_key(one) for one in query_key], value)
