# mypy: allow-untyped-defs
"""Backward of multi-size attention in four Triton kernels.

For one grid with tokens x_i of D values, w and u of `lean.py`, attention A, upstream gradient G_i, the value's scale
s and bias b (out_i = s sum_j A_ij x_j + b):

    dA_ij = sum_d s_d G_id x_jd
    Y_ij  = A_ij (dA_ij - sum_k A_ik dA_ik) / D     gradient of the logit before its division by D
    S     = Y + Y^T,   c_j = sum_i Y_ij
    dx_j  = sum_i A_ij s G_i + w (S x)_j + u c_j    x as value, as query and key, as key of the bias
    ds    = sum G_i (A x)_i,   db = sum G_i,   dw = 1/2 sum x_j (S x)_j,   du = sum c_j x_j

The sums of weights' gradients run over images and tokens; gradients of the map add up over grids. A grid of one token
has dx = s G, ds = sum G x, db = sum G. Sub-tokens are as in `fused.py`:

1. `logits_gradient_kernel` reads the map and the gradients of all grids but 1 once, and adds up logits, again, and dA
   over D: (B, splits, 2, entries) float32, only the entries of equal places.
2. `softmax_gradient_kernel` adds up splits and places; writes A, S, c. S goes into the map's dtype divided by its
   largest magnitude, which is kept beside it: Y holds 1/D, too small for half precision.
3. `input_gradient_kernel` writes dx: reads the map and all gradients once.
4. `weight_gradient_kernel` takes one grid and some values of all tokens through several images, and writes the sums of
   those images, float32; PyTorch adds up the groups of images. It reads all gradients once, and the map for each grid.

No atomics: the same result on every run. Products add up in float32.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from prn_fast.kernels.launch import (
    Launch,
    Tile,
    capability_of,
    ceil_div,
    memory_format_of,
    pointer,
    power_of_two,
    steps_for,
)
from prn_fast.kernels.multi_size_attention.fused import (
    AttentionShape,
    _load_attention,
    _load_weights,
    _place,
    _store_products,
    _token,
    require_supported,
)
from prn_fast.kernels.multi_size_attention.lean import fold_query_key, fold_query_key_backward
from prn_fast.kernels.tiles import tile_for


@triton.jit
def _scaled_gradient(
    upstream,
    values,
    n,
    d,
    GRIDS: tl.constexpr,
    GRID: tl.constexpr,
    FINEST: tl.constexpr,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """s G of one grid for some values of sub-tokens n."""
    inside = (n < FINEST * FINEST)[:, None] & (d < C * H * W // (FINEST * FINEST))[None, :]
    place = _place(n, d, 1, FINEST, C, H, W, len(GRIDS) * C, CHANNELS_LAST)
    scale, _ = _load_weights(values, n, d, GRID, FINEST, C, H, W, CHANNELS_LAST)
    return scale * tl.load(upstream + place, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _add_products(
    logits,
    gradients,
    maps,
    upstream,
    projections,
    values,
    n,
    d,
    GRIDS: tl.constexpr,
    GRID: tl.constexpr,
    FINEST: tl.constexpr,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Products of one grid's queries, and of its scaled gradients, with the map, over some values."""
    inside = (n < FINEST * FINEST)[:, None] & (d < C * H * W // (FINEST * FINEST))[None, :]
    x = tl.load(maps + _place(n, d, 1, FINEST, C, H, W, C, CHANNELS_LAST), mask=inside, other=0.0)
    w, u = _load_weights(projections, n, d, GRID, FINEST, C, H, W, CHANNELS_LAST)
    query = (w * x.to(tl.float32) + u).to(x.dtype)
    scaled = _scaled_gradient(upstream, values, n, d, GRIDS, GRID, FINEST, C, H, W, CHANNELS_LAST).to(x.dtype)
    logits = tl.dot(query, tl.trans(x), logits, input_precision="ieee")
    gradients = tl.dot(scaled, tl.trans(x), gradients, input_precision="ieee")
    return logits, gradients


@triton.jit(do_not_specialize=["batch"])
def logits_gradient_kernel(
    maps,  # (batch, C, H, W)
    upstream,  # (batch, len(GRIDS) * C, H, W)
    projections,  # for each grid: (2, C, H/g, W/g), w and u; not read for a grid of one
    values,  # for each grid: (2, C, H/g, W/g), scale and bias
    batch,
    partials,  # (batch, splits, 2, ENTRIES) float32: products of the logits, of their gradients
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
    b = tl.program_id(1).to(tl.int64)
    maps += b * (C * H * W)
    upstream += b * (len(GRIDS) * C * H * W)
    target = partials + (b * tl.num_programs(0) + tl.program_id(0)) * (2 * ENTRIES)
    n = tl.arange(0, ROWS)
    # One grid after another: sums of all would not fit the registers, and the cache keeps the map's values.
    for level in tl.static_range(len(GRIDS)):
        if GRIDS[level] > 1:
            logits = tl.zeros([ROWS, ROWS], tl.float32)
            gradients = tl.zeros([ROWS, ROWS], tl.float32)
            for step in range(STEPS):
                d = (tl.program_id(0) * STEPS + step) * BLOCK_D + tl.arange(0, BLOCK_D)
                logits, gradients = _add_products(
                    logits,
                    gradients,
                    maps,
                    upstream,
                    projections[level],
                    values[level],
                    n,
                    d,
                    GRIDS,
                    GRIDS[level],
                    FINEST,
                    C,
                    H,
                    W,
                    CHANNELS_LAST,
                )
            _store_products(logits, target, n, GRIDS[level], FINEST)
            _store_products(gradients, target + ENTRIES, n, GRIDS[level], FINEST)
            target += FINEST * FINEST * GRIDS[level] * GRIDS[level]
        upstream += C if CHANNELS_LAST else C * H * W


@triton.jit
def _softmax_gradient(
    partials,
    attention,
    symmetric,
    columns,
    scale,
    GRID: tl.constexpr,
    FINEST: tl.constexpr,
    ENTRIES: tl.constexpr,
    SIZE: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """A, S and c of one grid of one image."""
    tokens: tl.constexpr = GRID * GRID
    spots: tl.constexpr = FINEST * FINEST // tokens
    i = tl.arange(0, tokens)
    entry = (i[:, None, None] * tokens + i[None, :, None]) * spots + tl.arange(0, spots)[None, None, :]
    products = tl.zeros([tokens, tokens, spots], tl.float32)
    gradients = tl.zeros([tokens, tokens, spots], tl.float32)
    for split in range(SPLITS):
        products += tl.load(partials + split * (2 * ENTRIES) + entry)
        gradients += tl.load(partials + split * (2 * ENTRIES) + ENTRIES + entry)
    # Divided by the length of a token.
    logits = tl.sum(products, axis=2) * (tokens / SIZE)
    exponents = tl.exp(logits - tl.max(logits, axis=1, keep_dims=True))
    weights = exponents / tl.sum(exponents, axis=1, keep_dims=True)
    gradient = tl.sum(gradients, axis=2)
    gradient = weights * (gradient - tl.sum(weights * gradient, axis=1, keep_dims=True)) * (tokens / SIZE)
    both = gradient + tl.trans(gradient)
    largest = tl.max(tl.max(tl.abs(both), axis=1), axis=0)
    dtype = attention.dtype.element_ty
    place = i[:, None] * tokens + i[None, :]
    tl.store(attention + place, weights.to(dtype))
    tl.store(symmetric + place, (both / tl.where(largest > 0, largest, 1.0)).to(dtype))
    tl.store(columns + i, tl.sum(gradient, axis=0))
    tl.store(scale, largest)


@triton.jit(do_not_specialize=["batch"])
def softmax_gradient_kernel(
    partials,  # (batch, SPLITS, 2, ENTRIES) float32
    batch,
    attention,  # (batch, WEIGHTS): A, for each grid but 1, (g^2, g^2)
    symmetric,  # (batch, WEIGHTS): S over its largest magnitude
    columns,  # (batch, TOKENS) float32: c
    scales,  # (batch, len(GRIDS)) float32: the largest magnitude
    GRIDS: tl.constexpr,
    FINEST: tl.constexpr,
    ENTRIES: tl.constexpr,
    WEIGHTS: tl.constexpr,
    TOKENS: tl.constexpr,
    SIZE: tl.constexpr,  # C * H * W
    SPLITS: tl.constexpr,
):
    b = tl.program_id(1).to(tl.int64)
    partials += b * (SPLITS * 2 * ENTRIES)
    attention += b * WEIGHTS
    symmetric += b * WEIGHTS
    columns += b * TOKENS
    for level in tl.static_range(len(GRIDS)):
        if GRIDS[level] > 1:
            if tl.program_id(0) == level:
                scale = scales + b * len(GRIDS) + level
                _softmax_gradient(
                    partials, attention, symmetric, columns, scale, GRIDS[level], FINEST, ENTRIES, SIZE, SPLITS
                )
            tokens = GRIDS[level] * GRIDS[level]
            partials += FINEST * FINEST * tokens
            attention += tokens * tokens
            symmetric += tokens * tokens
            columns += tokens


@triton.jit
def _mixed_gradients(
    maps,
    upstream,
    attention,
    symmetric,
    values,
    total,
    n,
    d,
    GRIDS: tl.constexpr,
    GRID: tl.constexpr,
    FINEST: tl.constexpr,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """`total` + A^T (s G), and S x, of one grid for some values of all sub-tokens, BLOCK_N of them at a time."""
    T: tl.constexpr = FINEST * FINEST
    mixed = tl.zeros(total.shape, tl.float32)
    for start in range(0, total.shape[0], BLOCK_N):
        m = start + tl.arange(0, BLOCK_N)
        inside = (m < T)[:, None] & (d < C * H * W // T)[None, :]
        x = tl.load(maps + _place(m, d, 1, FINEST, C, H, W, C, CHANNELS_LAST), mask=inside, other=0.0)
        scaled = _scaled_gradient(upstream, values, m, d, GRIDS, GRID, FINEST, C, H, W, CHANNELS_LAST).to(x.dtype)
        pairs = (m < T)[:, None] & (n < T)[None, :]
        mix = _load_attention(attention, m, n, pairs, GRID, FINEST)
        both = _load_attention(symmetric, m, n, pairs, GRID, FINEST)
        total = tl.dot(tl.trans(mix), scaled, total, input_precision="ieee")
        mixed = tl.dot(tl.trans(both), x, mixed, input_precision="ieee")
    return total, mixed


@triton.jit(do_not_specialize=["batch"])
def input_gradient_kernel(
    maps,  # (batch, C, H, W)
    upstream,  # (batch, len(GRIDS) * C, H, W)
    attention,  # (batch, WEIGHTS)
    symmetric,  # (batch, WEIGHTS)
    columns,  # (batch, TOKENS) float32
    scales,  # (batch, len(GRIDS)) float32
    projections,  # for each grid: (2, C, H/g, W/g), w and u; not read for a grid of one
    values,  # for each grid: (2, C, H/g, W/g), scale and bias
    batch,
    gradient,  # (batch, C, H, W)
    GRIDS: tl.constexpr,
    FINEST: tl.constexpr,
    WEIGHTS: tl.constexpr,
    TOKENS: tl.constexpr,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    T: tl.constexpr = FINEST * FINEST
    b = tl.program_id(1).to(tl.int64)
    n = tl.arange(0, ROWS)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = (n < T)[:, None] & (d < C * H * W // T)[None, :]
    place = b * (C * H * W) + _place(n, d, 1, FINEST, C, H, W, C, CHANNELS_LAST)
    maps += b * (C * H * W)
    upstream += b * (len(GRIDS) * C * H * W)
    attention += b * WEIGHTS
    symmetric += b * WEIGHTS
    columns += b * TOKENS
    total = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for level in tl.static_range(len(GRIDS)):
        tokens = GRIDS[level] * GRIDS[level]
        if GRIDS[level] == 1:
            total += _scaled_gradient(upstream, values[level], n, d, GRIDS, 1, FINEST, C, H, W, CHANNELS_LAST)
        else:
            total, mixed = _mixed_gradients(
                maps,
                upstream,
                attention,
                symmetric,
                values[level],
                total,
                n,
                d,
                GRIDS,
                GRIDS[level],
                FINEST,
                C,
                H,
                W,
                CHANNELS_LAST,
                BLOCK_N,
            )
            largest = tl.load(scales + b * len(GRIDS) + level)
            column = tl.load(columns + _token(n, GRIDS[level], FINEST), mask=n < T, other=0.0)
            w, u = _load_weights(projections[level], n, d, GRIDS[level], FINEST, C, H, W, CHANNELS_LAST)
            total += w * (mixed * largest) + u * column[:, None]
            attention += tokens * tokens
            symmetric += tokens * tokens
            columns += tokens
        upstream += C if CHANNELS_LAST else C * H * W
    tl.store(gradient + place, total.to(gradient.dtype.element_ty), mask=inside)


@triton.jit
def _sub_token(spot, token, GRID: tl.constexpr, FINEST: tl.constexpr):
    """The sub-token at a place of a token of a grid."""
    cells: tl.constexpr = FINEST // GRID
    return (token // GRID * cells + spot // cells) * FINEST + token % GRID * cells + spot % cells


@triton.jit
def _weight_gradient(
    maps,
    upstream,
    attention,
    symmetric,
    columns,
    scales,
    batch,
    partials,
    GRID: tl.constexpr,
    GRIDS: tl.constexpr,
    FINEST: tl.constexpr,
    WEIGHTS: tl.constexpr,
    TOKENS: tl.constexpr,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    IMAGES: tl.constexpr,
):
    """Sums over some images of the gradients of one grid's weights, for some values of its tokens."""
    T: tl.constexpr = FINEST * FINEST
    tokens: tl.constexpr = GRID * GRID
    places: tl.constexpr = ROWS // tokens
    r = tl.arange(0, ROWS)
    # Tokens of the same place side by side, so that their sum is one of neighbouring rows.
    n = _sub_token(r // tokens, r % tokens, GRID, FINEST)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    place = _place(n, d, 1, FINEST, C, H, W, C, CHANNELS_LAST)
    upstream_place = _place(n, d, 1, FINEST, C, H, W, len(GRIDS) * C, CHANNELS_LAST)
    scale_sum = tl.zeros([ROWS, BLOCK_D], tl.float32)
    bias_sum = tl.zeros([ROWS, BLOCK_D], tl.float32)
    w_sum = tl.zeros([ROWS, BLOCK_D], tl.float32)
    u_sum = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for image in range(IMAGES):
        b = (tl.program_id(2) * IMAGES + image).to(tl.int64)
        rows = T if b < batch else 0
        inside = (r < rows)[:, None] & (d < C * H * W // T)[None, :]
        x = tl.load(maps + b * (C * H * W) + place, mask=inside, other=0.0)
        source = upstream + b * (len(GRIDS) * C * H * W)
        g = tl.load(source + upstream_place, mask=inside, other=0.0).to(tl.float32)
        bias_sum += g
        if GRID == 1:
            scale_sum += g * x.to(tl.float32)
        else:
            pairs = (r < rows)[:, None] & (r < rows)[None, :]
            mix = _load_attention(attention + b * WEIGHTS, n, n, pairs, GRID, FINEST)
            scale_sum += g * tl.dot(mix, x, input_precision="ieee")
            both = _load_attention(symmetric + b * WEIGHTS, n, n, pairs, GRID, FINEST)
            half = 0.5 * tl.load(scales + b * len(GRIDS), mask=b < batch, other=0.0)
            column = tl.load(columns + b * TOKENS + r % tokens, mask=r < rows, other=0.0)
            w_sum += x.to(tl.float32) * (tl.dot(both, x, input_precision="ieee") * half)
            u_sum += x.to(tl.float32) * column[:, None]
    spot = tl.arange(0, places)
    patch: tl.constexpr = C * (H // GRID) * (W // GRID)
    target = partials + _place(_sub_token(spot, 0, GRID, FINEST), d, GRID, FINEST, C, H, W, C, CHANNELS_LAST)
    inside = (spot < T // tokens)[:, None] & (d < C * H * W // T)[None, :]
    tl.store(target, tl.sum(tl.reshape(scale_sum, [places, tokens, BLOCK_D]), axis=1), mask=inside)
    tl.store(target + patch, tl.sum(tl.reshape(bias_sum, [places, tokens, BLOCK_D]), axis=1), mask=inside)
    if GRID > 1:
        tl.store(target + 2 * patch, tl.sum(tl.reshape(w_sum, [places, tokens, BLOCK_D]), axis=1), mask=inside)
        tl.store(target + 3 * patch, tl.sum(tl.reshape(u_sum, [places, tokens, BLOCK_D]), axis=1), mask=inside)


@triton.jit(do_not_specialize=["batch"])
def weight_gradient_kernel(
    maps,  # (batch, C, H, W)
    upstream,  # (batch, len(GRIDS) * C, H, W)
    attention,  # (batch, WEIGHTS)
    symmetric,  # (batch, WEIGHTS)
    columns,  # (batch, TOKENS) float32
    scales,  # (batch, len(GRIDS)) float32
    batch,
    partials,  # (groups of IMAGES, SUMS) float32: for each grid scale, bias and, but for 1, w and u: (C, H/g, W/g) each
    GRIDS: tl.constexpr,
    FINEST: tl.constexpr,
    WEIGHTS: tl.constexpr,
    TOKENS: tl.constexpr,
    SUMS: tl.constexpr,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    IMAGES: tl.constexpr,
):
    partials += tl.program_id(2).to(tl.int64) * SUMS
    for level in tl.static_range(len(GRIDS)):
        if tl.program_id(1) == level:
            _weight_gradient(
                maps,
                upstream + level * (C if CHANNELS_LAST else C * H * W),
                attention,
                symmetric,
                columns,
                scales + level,
                batch,
                partials,
                GRIDS[level],
                GRIDS,
                FINEST,
                WEIGHTS,
                TOKENS,
                C,
                H,
                W,
                CHANNELS_LAST,
                ROWS,
                BLOCK_D,
                IMAGES,
            )
        tokens = GRIDS[level] * GRIDS[level]
        partials += (4 if GRIDS[level] > 1 else 2) * (C * H * W // tokens)
        if GRIDS[level] > 1:
            attention += tokens * tokens
            symmetric += tokens * tokens
            columns += tokens


def plan_logits_gradient(shape: AttentionShape, tile: Tile) -> Launch:
    """Launch of `logits_gradient_kernel`."""
    blocks = dict(tile.blocks)
    size_blocks = ceil_div(shape.size, blocks["BLOCK_D"])
    blocks["STEPS"] = steps_for(blocks["STEPS"], shape.batch * size_blocks, least=4, programs=256)
    map_pointer = pointer(shape.dtype)
    return Launch(
        logits_gradient_kernel,
        {
            "maps": map_pointer,
            "upstream": map_pointer,
            "projections": (map_pointer,) * len(shape.grids),
            "values": (map_pointer,) * len(shape.grids),
            "batch": "i32",
            "partials": "*fp32",
        },
        {"GRIDS": shape.grids, "ENTRIES": shape.entries, **shape.constants(), **blocks},
        (ceil_div(size_blocks, blocks["STEPS"]), shape.batch),
        tile,
    )


def plan_softmax_gradient(shape: AttentionShape, splits: int, tile: Tile) -> Launch:
    """Launch of `softmax_gradient_kernel` on the partial products of so many splits."""
    map_pointer = pointer(shape.dtype)
    return Launch(
        softmax_gradient_kernel,
        {
            "partials": "*fp32",
            "batch": "i32",
            "attention": map_pointer,
            "symmetric": map_pointer,
            "columns": "*fp32",
            "scales": "*fp32",
        },
        {
            "GRIDS": shape.grids,
            "FINEST": shape.finest,
            "ENTRIES": shape.entries,
            "WEIGHTS": shape.weights,
            "TOKENS": shape.tokens,
            "SIZE": shape.channels * shape.height * shape.width,
            "SPLITS": splits,
            **tile.blocks,
        },
        (len(shape.grids), shape.batch),
        tile,
    )


def plan_input_gradient(shape: AttentionShape, tile: Tile) -> Launch:
    """Launch of `input_gradient_kernel`."""
    blocks = dict(tile.blocks)
    constants = shape.constants()
    blocks["BLOCK_N"] = min(blocks["BLOCK_N"], constants["ROWS"])
    map_pointer = pointer(shape.dtype)
    return Launch(
        input_gradient_kernel,
        {
            "maps": map_pointer,
            "upstream": map_pointer,
            "attention": map_pointer,
            "symmetric": map_pointer,
            "columns": "*fp32",
            "scales": "*fp32",
            "projections": (map_pointer,) * len(shape.grids),
            "values": (map_pointer,) * len(shape.grids),
            "batch": "i32",
            "gradient": map_pointer,
        },
        {
            "GRIDS": shape.grids,
            "WEIGHTS": shape.weights,
            "TOKENS": shape.tokens,
            **constants,
            **blocks,
        },
        (ceil_div(shape.size, tile.blocks["BLOCK_D"]), shape.batch),
        tile,
    )


def plan_weight_gradient(shape: AttentionShape, tile: Tile) -> Launch:
    """Launch of `weight_gradient_kernel`; its grid's last side is the number of groups of images."""
    size_blocks = ceil_div(shape.size, tile.blocks["BLOCK_D"])
    programs_an_image = size_blocks * len(shape.grids)
    # Few groups: each writes the sums of all weights.
    images = steps_for(power_of_two(shape.batch), programs_an_image * shape.batch)
    map_pointer = pointer(shape.dtype)
    return Launch(
        weight_gradient_kernel,
        {
            "maps": map_pointer,
            "upstream": map_pointer,
            "attention": map_pointer,
            "symmetric": map_pointer,
            "columns": "*fp32",
            "scales": "*fp32",
            "batch": "i32",
            "partials": "*fp32",
        },
        {
            "GRIDS": shape.grids,
            "WEIGHTS": shape.weights,
            "TOKENS": shape.tokens,
            "SUMS": sum(count * values for count, values in weight_sums(shape)),
            **shape.constants(),
            **tile.blocks,
            "IMAGES": images,
        },
        (size_blocks, len(shape.grids), ceil_div(shape.batch, images)),
        tile,
    )


def weight_sums(shape: AttentionShape) -> list[tuple[int, int]]:
    """For each grid, how many weights there are (scale, bias; w and u above 1) and the values of each."""
    values = shape.channels * shape.height * shape.width
    return [(4 if grid > 1 else 2, values // grid**2) for grid in shape.grids]


def attend_backward(
    upstream: Tensor,
    maps: Tensor,
    grids: Sequence[int],
    projections: Sequence[Tensor],
    values: Sequence[Tensor],
    tiles: tuple[Tile, Tile, Tile, Tile] | None = None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Gradients of `fused.attend`, on a GPU (or the CPU in Triton's interpreter).

    Args:
        upstream: gradient of its result, (B, len(grids) * C, H, W).
        maps, grids, projections, values: as there.
        tiles: of the four kernels; by default the device's.
    Returns:
        Gradients of the map, in its dtype and layout, of the projections and of the values, in float32.
    """
    require_supported(grids)
    batch, channels, height, width = maps.shape
    layout, dtype = memory_format_of(maps), maps.dtype
    shape = AttentionShape(batch, channels, height, width, tuple(grids), dtype, layout == torch.channels_last)
    maps = maps.contiguous(memory_format=layout)
    upstream = upstream.to(dtype).contiguous(memory_format=layout)
    values = tuple(one.to(dtype).contiguous(memory_format=layout) for one in values)
    given = iter(one.to(dtype).contiguous(memory_format=layout) for one in projections)
    # A grid of one has no projection; its place holds what is not read.
    placed = tuple(next(given) if grid > 1 else value for grid, value in zip(grids, values, strict=True))
    capability = capability_of(maps)
    logits_tile, softmax_tile, input_tile, weight_tile = tiles or (
        tile_for("logits_gradient", capability, dtype),
        tile_for("softmax_gradient", capability, dtype),
        tile_for("input_gradient", capability, dtype),
        tile_for("weight_gradient", capability, dtype),
    )
    logits = plan_logits_gradient(shape, logits_tile)
    weight = plan_weight_gradient(shape, weight_tile)
    splits, groups = logits.grid[0], weight.grid[2]
    device, single = maps.device, torch.float32
    partials = torch.empty(batch, splits, 2, shape.entries, dtype=single, device=device)
    attention = torch.empty(batch, shape.weights, dtype=dtype, device=device)
    symmetric = torch.empty_like(attention)
    columns = torch.empty(batch, shape.tokens, dtype=single, device=device)
    scales = torch.empty(batch, len(grids), dtype=single, device=device)
    sums = torch.empty(groups, weight.constants["SUMS"], dtype=single, device=device)
    gradient = torch.empty_like(maps, memory_format=layout)
    logits(maps, upstream, placed, values, batch, partials)
    plan_softmax_gradient(shape, splits, softmax_tile)(partials, batch, attention, symmetric, columns, scales)
    mixed = (attention, symmetric, columns, scales)
    plan_input_gradient(shape, input_tile)(maps, upstream, *mixed, placed, values, batch, gradient)
    weight(maps, upstream, *mixed, batch, sums)
    grad_projections, grad_values = [], []
    pieces = sums.sum(0).split([count * size for count, size in weight_sums(shape)])
    for grid, (count, _), piece in zip(grids, weight_sums(shape), pieces, strict=True):
        if shape.channels_last:
            weights = piece.reshape(count, height // grid, width // grid, channels).permute(0, 3, 1, 2)
        else:
            weights = piece.reshape(count, channels, height // grid, width // grid)
        grad_values.append(weights[:2])
        if grid > 1:
            grad_projections.append(weights[2:])
    return gradient, grad_projections, grad_values


def multi_size_attention_backward(
    upstream: Tensor, maps: Tensor, grids: Sequence[int], query_key: Sequence[Tensor], value: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The function that `lean.multi_size_attention_backward` defines; gradients of weights are float32."""
    folded = [fold_query_key(one) for one in query_key]
    gradient, grad_projections, grad_values = attend_backward(upstream, maps, grids, folded, value)
    grad_query_key = [
        fold_query_key_backward(grad, one.float()) for grad, one in zip(grad_projections, query_key, strict=True)
    ]
    return gradient, grad_query_key, grad_values
