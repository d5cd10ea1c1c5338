# mypy: allow-untyped-defs
"""Multi-size attention in three Triton kernels: two reads and four writes of the map, no patchify, no copies.

The finest grid, G x G, cuts the map into T = G^2 sub-tokens of D = C (H/G) (W/G) values. A token of a coarser grid g is
r^2 of them, r = G/g, so that one loaded tile (T, BLOCK_D) serves every grid:

1. `logits_kernel` adds up, for each grid, M = (w x + u) x^T over D, T x T, where w and u are the projections of
   `optimized.py`. The logit of tokens i and j is the sum over s of M[(i, s), (j, s)], s a sub-token's place in it.
   D is split over programs; only the entries of equal s are written, (B, splits, entries) float32.
2. `softmax_kernel` adds up splits and places and writes the attention of every grid, (B, sum of g^4).
3. `mixing_kernel` writes s_v (A x) + b_v for each grid, from tiles whose rows are the grid's tokens. Where these are
   fewer than a product's least side, rows are tokens and some places s in each, and A is spread to
   E[(i, s), (j, s')] = A[i, j] where s = s'; all other places stand side by side in the columns. A program so reads
   16 x 16 values of a coarse grid's attention, not T x T with zeros between.

Products add up in float32; float32 tiles are multiplied as such, not as TF32. For grids (1, 2, 4, 8) they cost 384
operations per value in the first pass and 192 in the second, which tensor cores hide behind the memory traffic. Every
grid must be a power of two, 8 at most; see `geometry.supports`. `G` is a `Geometry`; ENTRIES, WEIGHTS and TOKENS below
are its `entries` and so on.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from prn_fast.kernels.launch import Launch, Tile, capability_of, ceil_div, memory_format_of, pointer, steps_for
from prn_fast.kernels.multi_size_attention.geometry import Geometry
from prn_fast.kernels.multi_size_attention.optimized import fold_query_key
from prn_fast.kernels.tiles import tile_for


@triton.jit
def _start(n, GRID: tl.constexpr, PIXEL: tl.constexpr, G: tl.constexpr):
    """Offsets of sub-tokens n in one patch (C, H/GRID, W/GRID) of a grid; in the map itself for GRID 1.

    PIXEL is the distance of neighbouring pixels in a channels-last tensor.
    """
    cell_height: tl.constexpr = G.height // G.finest
    cell_width: tl.constexpr = G.width // G.finest
    cells: tl.constexpr = G.finest // GRID
    rows, columns = (n // G.finest) % cells * cell_height, (n % G.finest) % cells * cell_width
    return (rows * (G.width // GRID) + columns) * (PIXEL if G.channels_last else 1)


@triton.jit
def _within(d, BLOCK_D: tl.constexpr, GRID: tl.constexpr, PIXEL: tl.constexpr, G: tl.constexpr):
    """Offsets of values d of a sub-token from its start, one or more times BLOCK_D of them; see `_start`."""
    cell_height: tl.constexpr = G.height // G.finest
    cell_width: tl.constexpr = G.width // G.finest
    width: tl.constexpr = G.width // GRID
    if G.channels_last:
        row, column, c = d // (G.channels * cell_width), (d // G.channels) % cell_width, d % G.channels
        offsets = (row * width + column) * PIXEL + c
    else:
        c, row, column = d // (cell_height * cell_width), (d // cell_width) % cell_height, d % cell_width
        offsets = (c * (G.height // GRID) + row) * width + column
    # Which the compiler does not see where d is no plain range; said here, because a call's result keeps no hint.
    run: tl.constexpr = G.run if G.run < BLOCK_D else BLOCK_D
    return tl.max_contiguous(tl.multiple_of(offsets, run), run)


@triton.jit
def _place(n, d, GRID: tl.constexpr, PIXEL: tl.constexpr, G: tl.constexpr):
    """Offsets of values d of sub-tokens n: (n, d); see `_start`."""
    return _start(n, GRID, PIXEL, G)[:, None] + _within(d, d.shape[0], GRID, PIXEL, G)[None, :]


@triton.jit
def _token(n, GRID: tl.constexpr, G: tl.constexpr):
    """The token of a grid to which sub-token n belongs."""
    cells: tl.constexpr = G.finest // GRID
    return (n // G.finest) // cells * GRID + (n % G.finest) // cells


@triton.jit
def _spot(n, GRID: tl.constexpr, G: tl.constexpr):
    """The place of sub-token n in its token."""
    cells: tl.constexpr = G.finest // GRID
    return (n // G.finest) % cells * cells + (n % G.finest) % cells


@triton.jit
def _sub_token(spot, token, GRID: tl.constexpr, G: tl.constexpr):
    """The sub-token at a place of a token of a grid."""
    cells: tl.constexpr = G.finest // GRID
    return (token // GRID * cells + spot // cells) * G.finest + token % GRID * cells + spot % cells


@triton.jit
def _load_weights_at(weights, n, columns, inside, GRID: tl.constexpr, G: tl.constexpr):
    """A grid's two weights (2, C, H/GRID, W/GRID) for a tile of sub-tokens n and some columns, zero outside the map.

    One row of them where all rows have the same.
    """
    patch: tl.constexpr = G.channels * (G.height // GRID) * (G.width // GRID)
    if G.finest == GRID or n.shape[0] <= GRID * GRID:
        n = tl.arange(0, 1)
    inside = (n < G.sub_tokens)[:, None] & inside[None, :]
    pointers = weights + (_start(n, GRID, G.channels, G)[:, None] + columns[None, :])
    return tl.load(pointers, mask=inside, other=0.0), tl.load(pointers + patch, mask=inside, other=0.0)


@triton.jit
def _load_weights(weights, n, d, GRID: tl.constexpr, G: tl.constexpr):
    """A grid's two weights for values d of sub-tokens n; see `_load_weights_at`."""
    return _load_weights_at(weights, n, _within(d, d.shape[0], GRID, G.channels, G), d < G.size, GRID, G)


@triton.jit
def _query(projection, x, n, d, GRID: tl.constexpr, G: tl.constexpr):
    """w x + u for the values of a tile, in the map's dtype.

    float16 is computed as such: the result, which is rounded to it anyway, then has two roundings instead of one; in
    float32, most of the loop's instructions were conversions.
    """
    w, u = _load_weights(projection, n, d, GRID, G)
    if x.dtype == tl.float16:
        return w * x + u
    return (w.to(tl.float32) * x.to(tl.float32) + u.to(tl.float32)).to(x.dtype)


@triton.jit
def _store_products(products, target, n, GRID: tl.constexpr, G: tl.constexpr):
    """Write the products of sub-tokens at equal places in their tokens: (g^2, g^2, places)."""
    tokens: tl.constexpr = GRID * GRID
    token, spot = _token(n, GRID, G), _spot(n, GRID, G)
    entry = (token[:, None] * tokens + token[None, :]) * (G.sub_tokens // tokens) + spot[:, None]
    tl.store(
        target + entry,
        products,
        mask=(spot[:, None] == spot[None, :]) & (n < G.sub_tokens)[:, None] & (n < G.sub_tokens)[None, :],
    )


@triton.jit(do_not_specialize=["batch"])
def logits_kernel(
    maps,  # (batch, C, H, W)
    projections,  # for each grid but 1: (2, C, H/g, W/g), w and u
    batch,
    partials,  # (batch, splits, ENTRIES) float32
    G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEPS: tl.constexpr,
):
    # A shape takes no attribute.
    ROWS: tl.constexpr = G.rows
    split = tl.program_id(0)
    b = tl.program_id(1).to(tl.int64)
    n = tl.arange(0, ROWS)
    sums = (tl.zeros([ROWS, ROWS], tl.float32),) * len(G.attending)
    for step in range(STEPS):
        d = (split * STEPS + step) * BLOCK_D + tl.arange(0, BLOCK_D)
        inside = (n < G.sub_tokens)[:, None] & (d < G.size)[None, :]
        place = _place(n, d, 1, G.channels, G)
        x = tl.load(maps + b * G.values + place, mask=inside, other=0.0)
        next_sums = ()
        for level in tl.static_range(len(G.attending)):
            query = _query(projections[level], x, n, d, G.attending[level], G)
            product = tl.dot(query, tl.trans(x), sums[level], input_precision="ieee")
            # Triton has no unpacking.
            next_sums = next_sums + (product,)  # type: ignore[assignment]  # noqa: RUF005
        sums = next_sums
    target = partials + (b * tl.num_programs(0) + split) * G.entries
    for level in tl.static_range(len(G.attending)):
        _store_products(sums[level], target, n, G.attending[level], G)
        target += G.sub_tokens * G.attending[level] * G.attending[level]


@triton.jit
def _softmax_rows(
    partials,
    attention,
    block,
    GRID: tl.constexpr,
    G: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    """Add up one image's partial logits for some rows of one grid; write their softmax."""
    tokens: tl.constexpr = GRID * GRID
    spots: tl.constexpr = G.sub_tokens // tokens
    i = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    j = tl.arange(0, tokens)
    entry = (i[:, None, None] * tokens + j[None, :, None]) * spots + tl.arange(0, spots)[None, None, :]
    products = tl.zeros([BLOCK_ROWS, tokens, spots], tl.float32)
    for split in range(SPLITS):
        products += tl.load(partials + split * G.entries + entry)
    # Divided by the length of a token.
    logits = tl.sum(products, axis=2) * (tokens / G.values)
    exponents = tl.exp(logits - tl.max(logits, axis=1, keep_dims=True))
    weights = exponents / tl.sum(exponents, axis=1, keep_dims=True)
    tl.store(attention + i[:, None] * tokens + j[None, :], weights.to(attention.dtype.element_ty))


@triton.jit(do_not_specialize=["batch"])
def softmax_kernel(
    partials,  # (batch, SPLITS, ENTRIES) float32
    batch,
    attention,  # (batch, WEIGHTS): for each grid but 1, (g^2, g^2)
    G: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    b = tl.program_id(1).to(tl.int64)
    source = partials + b * SPLITS * G.entries
    target = attention + b * G.weights
    block = tl.program_id(0)
    for level in tl.static_range(len(G.attending)):
        if (block >= 0) & (block < G.attending[level] * G.attending[level] // BLOCK_ROWS):
            _softmax_rows(source, target, block, G.attending[level], G, SPLITS, BLOCK_ROWS)
        source += G.sub_tokens * G.attending[level] * G.attending[level]
        target += G.attending[level] * G.attending[level] * G.attending[level] * G.attending[level]
        block -= G.attending[level] * G.attending[level] // BLOCK_ROWS


@triton.jit
def _load_attention(attention, i, j, inside, GRID: tl.constexpr, G: tl.constexpr):
    """A grid's attention between sub-tokens i and j: A of their tokens where they have the same place, else zero."""
    same = _spot(i, GRID, G)[:, None] == _spot(j, GRID, G)[None, :]
    entry = _token(i, GRID, G)[:, None] * (GRID * GRID) + _token(j, GRID, G)[None, :]
    return tl.load(attention + entry, mask=same & inside, other=0.0)


@triton.jit
def _mix(
    maps,
    attention,
    values,
    output,
    present,
    start,
    GRID: tl.constexpr,
    ROWS: tl.constexpr,
    G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Some values of an image's sub-tokens, mixed by one grid's attention, scaled and shifted; nothing if not present.

    The rows of a tile are the grid's tokens, or, of a coarse grid, its tokens and some places in each: as few as a
    product may have, so that little is read of the attention. The other places stand beside each other in the columns.
    """
    filled: tl.constexpr = ROWS if G.sub_tokens > ROWS else G.sub_tokens
    row_places: tl.constexpr = filled // (GRID * GRID)
    column_places: tl.constexpr = G.sub_tokens // filled
    width: tl.constexpr = len(G.grids) * G.channels
    r = tl.arange(0, ROWS)
    n = r if G.finest == GRID else _sub_token(r % row_places * column_places, r // row_places, GRID, G)
    q = tl.arange(0, column_places * BLOCK_D)
    places = _sub_token(q // BLOCK_D, 0, GRID, G)
    there = r < (filled if present else 0)
    if GRID > 1:
        mix = _load_attention(attention, n, n, there[:, None] & there[None, :], GRID, G)
    for step in range(STEPS):
        d = tl.max_contiguous(tl.multiple_of((start + step) * BLOCK_D + q % BLOCK_D, BLOCK_D), BLOCK_D)
        inside = there[:, None] & (d < G.size)[None, :]
        columns = _start(places, 1, G.channels, G) + _within(d, BLOCK_D, 1, G.channels, G)
        x = tl.load(maps + (_start(n, 1, G.channels, G)[:, None] + columns[None, :]), mask=inside, other=0.0)
        columns = _start(places, GRID, G.channels, G) + _within(d, BLOCK_D, GRID, G.channels, G)
        scale, bias = _load_weights_at(values, n, columns, d < G.size, GRID, G)
        mixed = tl.dot(mix, x, input_precision="ieee") if GRID > 1 else x.to(tl.float32)
        result = (mixed * scale.to(tl.float32) + bias.to(tl.float32)).to(output.dtype.element_ty)
        columns = _start(places, 1, width, G) + _within(d, BLOCK_D, 1, width, G)
        tl.store(output + (_start(n, 1, width, G)[:, None] + columns[None, :]), result, mask=inside)


@triton.jit(do_not_specialize=["batch"])
def mixing_kernel(
    maps,  # (batch, C, H, W)
    attention,  # (batch, WEIGHTS)
    values,  # for each grid: (2, C, H/g, W/g), scale and bias
    batch,
    output,  # (batch, len(grids) * C, H, W)
    G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    start = tl.program_id(0) * STEPS
    for level in tl.static_range(len(G.grids)):
        # Consecutive images find a grid's scales and biases in the cache.
        for image in range(BLOCK_B):
            b = (tl.program_id(1) * BLOCK_B + image).to(tl.int64)
            _mix(
                maps + b * G.values,
                attention + b * G.weights,
                values[level],
                output + b * (len(G.grids) * G.values) + level * (G.channels if G.channels_last else G.values),
                b < batch,
                start,
                G.grids[level],
                G.mixing_rows[level],
                G,
                BLOCK_D,
                STEPS,
            )
        if G.grids[level] > 1:
            attention += G.grids[level] * G.grids[level] * G.grids[level] * G.grids[level]


def plan_logits(geometry: Geometry, batch: int, dtype: torch.dtype, tile: Tile) -> Launch:
    """Launch of `logits_kernel`."""
    blocks = dict(tile.blocks)
    size_blocks = ceil_div(geometry.size, blocks["BLOCK_D"])
    # Few splits: each writes its partial logits, which the softmax reads again.
    blocks["STEPS"] = steps_for(blocks["STEPS"], batch * size_blocks, least=4, programs=256)
    return Launch(
        logits_kernel,
        {
            "maps": pointer(dtype),
            "projections": (pointer(dtype),) * len(geometry.attending),
            "batch": "i32",
            "partials": "*fp32",
        },
        {"G": geometry, **blocks},
        (ceil_div(size_blocks, blocks["STEPS"]), batch),
        tile,
    )


def plan_softmax(geometry: Geometry, batch: int, splits: int, dtype: torch.dtype, tile: Tile) -> Launch:
    """Launch of `softmax_kernel` on the partial logits of all splits."""
    return Launch(
        softmax_kernel,
        {"partials": "*fp32", "batch": "i32", "attention": pointer(dtype)},
        {"G": geometry, "SPLITS": splits, **tile.blocks},
        (geometry.tokens // tile.blocks["BLOCK_ROWS"], batch),
        tile,
    )


def plan_mixing(geometry: Geometry, batch: int, dtype: torch.dtype, tile: Tile) -> Launch:
    """Launch of `mixing_kernel`."""
    blocks = dict(tile.blocks)
    blocks["BLOCK_B"] = max(1, min(blocks["BLOCK_B"], batch // 4))
    image_blocks, size_blocks = ceil_div(batch, blocks["BLOCK_B"]), ceil_div(geometry.size, blocks["BLOCK_D"])
    blocks["STEPS"] = steps_for(blocks["STEPS"], image_blocks * size_blocks)
    return Launch(
        mixing_kernel,
        {
            "maps": pointer(dtype),
            "attention": pointer(dtype),
            "values": (pointer(dtype),) * len(geometry.grids),
            "batch": "i32",
            "output": pointer(dtype),
        },
        {"G": geometry, **blocks},
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
    geometry, layout, dtype = Geometry.of(maps, grids), memory_format_of(maps), maps.dtype
    batch, channels, height, width = maps.shape
    maps = maps.contiguous(memory_format=layout)
    projections = tuple(one.to(dtype).contiguous(memory_format=layout) for one in projections)
    values = tuple(one.to(dtype).contiguous(memory_format=layout) for one in values)
    capability = capability_of(maps)
    logits_tile, softmax_tile, mixing_tile = tiles or (
        tile_for("logits", capability, dtype),
        tile_for("softmax", capability, dtype),
        tile_for("mixing", capability, dtype),
    )
    logits = plan_logits(geometry, batch, dtype, logits_tile)
    splits = logits.grid[0]
    partials = torch.empty(batch, splits, geometry.entries, dtype=torch.float32, device=maps.device)
    attention = torch.empty(batch, geometry.weights, dtype=dtype, device=maps.device)
    output = torch.empty(
        batch, len(grids) * channels, height, width, dtype=dtype, device=maps.device, memory_format=layout
    )
    logits(maps, projections, batch, partials)
    plan_softmax(geometry, batch, splits, dtype, softmax_tile)(partials, batch, attention)
    plan_mixing(geometry, batch, dtype, mixing_tile)(maps, attention, values, batch, output)
    return output


def multi_size_attention(
    maps: Tensor, grids: Sequence[int], query_key: Sequence[Tensor], value: Sequence[Tensor]
) -> Tensor:
    """The function that `optimized.multi_size_attention` defines, for grids that `supports` accepts."""
    return attend(maps, grids, [fold_query_key(one) for one in query_key], value)
