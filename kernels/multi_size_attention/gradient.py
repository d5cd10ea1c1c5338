# mypy: allow-untyped-defs
"""Backward of multi-size attention in four Triton kernels.

For one grid with tokens x_i of D values, w and u of `optimized.py`, attention A, upstream gradient G_i, the value's
scale s and bias b (out_i = s sum_j A_ij x_j + b):

    dA_ij = sum_d s_d G_id x_jd
    Y_ij  = A_ij (dA_ij - sum_k A_ik dA_ik) / D     gradient of the logit before its division by D
    S     = Y + Y^T,   c_j = sum_i Y_ij
    dx_j  = sum_i A_ij s G_i + w (S x)_j + u c_j    x as value, as query and key, as key of the bias
    ds    = sum G_i (A x)_i,   db = sum G_i,   dw = 1/2 sum x_j (S x)_j,   du = sum c_j x_j

The sums of weights' gradients run over images and tokens; gradients of the map add up over grids. A grid of one token
has dx = s G, ds = sum G x, db = sum G. Sub-tokens are as in `fused.py`, and so is `G`:

1. `logits_gradient_kernel` reads the map and the gradients of all grids but 1 once, and adds up logits, again, and dA
   over D: (B, splits, 2, entries) float32, only the entries of equal places.
2. `softmax_gradient_kernel` adds up splits and places; writes A, S, c. S goes into the map's dtype divided by its
   largest magnitude, which is kept beside it: Y holds 1/D, too small for half precision.
3. `input_gradient_kernel` writes dx: reads the map and all gradients once.
4. `weight_gradient_kernel` takes one grid and some values of all tokens through several images, and writes the sums of
   those images, float32; PyTorch adds up the groups of images. It reads all gradients once, and the map for each grid.

No atomics: the same result on every run. Products add up in float32.
"""

from collections.abc import Mapping, Sequence
from typing import Any

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
    _load_attention,
    _load_weights,
    _place,
    _query,
    _store_products,
    _sub_token,
    _token,
)
from prn_fast.kernels.multi_size_attention.geometry import Geometry
from prn_fast.kernels.multi_size_attention.optimized import fold_query_key, fold_query_key_backward
from prn_fast.kernels.tiles import tile_for


@triton.jit
def _scaled_gradient(upstream, values, n, d, GRID: tl.constexpr, G: tl.constexpr):
    """s G of one grid for some values of sub-tokens n."""
    inside = (n < G.sub_tokens)[:, None] & (d < G.size)[None, :]
    place = _place(n, d, 1, len(G.grids) * G.channels, G)
    scale, _ = _load_weights(values, n, d, GRID, G)
    return scale.to(tl.float32) * tl.load(upstream + place, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _add_products(logits, gradients, maps, upstream, projections, values, n, d, GRID: tl.constexpr, G: tl.constexpr):
    """Products of one grid's queries, and of its scaled gradients, with the map, over some values."""
    inside = (n < G.sub_tokens)[:, None] & (d < G.size)[None, :]
    x = tl.load(maps + _place(n, d, 1, G.channels, G), mask=inside, other=0.0)
    query = _query(projections, x, n, d, GRID, G)
    scaled = _scaled_gradient(upstream, values, n, d, GRID, G).to(x.dtype)
    logits = tl.dot(query, tl.trans(x), logits, input_precision="ieee")
    gradients = tl.dot(scaled, tl.trans(x), gradients, input_precision="ieee")
    return logits, gradients


@triton.jit(do_not_specialize=["batch"])
def logits_gradient_kernel(
    maps,  # (batch, C, H, W)
    upstream,  # (batch, len(grids) * C, H, W)
    projections,  # for each grid: (2, C, H/g, W/g), w and u; not read for a grid of one
    values,  # for each grid: (2, C, H/g, W/g), scale and bias
    batch,
    partials,  # (batch, splits, 2, ENTRIES) float32: products of the logits, of their gradients
    G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEPS: tl.constexpr,
):
    # A shape takes no attribute.
    ROWS: tl.constexpr = G.rows
    b = tl.program_id(1).to(tl.int64)
    maps += b * G.values
    upstream += b * (len(G.grids) * G.values)
    target = partials + (b * tl.num_programs(0) + tl.program_id(0)) * (2 * G.entries)
    n = tl.arange(0, ROWS)
    # One grid after another: the sums of all would not fit into registers, and the cache keeps the map's values.
    for level in tl.static_range(len(G.grids)):
        if G.grids[level] > 1:
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
                    G.grids[level],
                    G,
                )
            _store_products(logits, target, n, G.grids[level], G)
            _store_products(gradients, target + G.entries, n, G.grids[level], G)
            target += G.sub_tokens * G.grids[level] * G.grids[level]
        upstream += G.channels if G.channels_last else G.values


@triton.jit
def _softmax_gradient(
    partials,
    attention,
    symmetric,
    columns,
    scale,
    GRID: tl.constexpr,
    G: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """A, S and c of one grid of one image."""
    tokens: tl.constexpr = GRID * GRID
    spots: tl.constexpr = G.sub_tokens // tokens
    i = tl.arange(0, tokens)
    entry = (i[:, None, None] * tokens + i[None, :, None]) * spots + tl.arange(0, spots)[None, None, :]
    products = tl.zeros([tokens, tokens, spots], tl.float32)
    gradients = tl.zeros([tokens, tokens, spots], tl.float32)
    for split in range(SPLITS):
        products += tl.load(partials + split * (2 * G.entries) + entry)
        gradients += tl.load(partials + split * (2 * G.entries) + G.entries + entry)
    # Divided by the length of a token.
    logits = tl.sum(products, axis=2) * (tokens / G.values)
    exponents = tl.exp(logits - tl.max(logits, axis=1, keep_dims=True))
    weights = exponents / tl.sum(exponents, axis=1, keep_dims=True)
    gradient = tl.sum(gradients, axis=2)
    gradient = weights * (gradient - tl.sum(weights * gradient, axis=1, keep_dims=True)) * (tokens / G.values)
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
    scales,  # (batch, len(grids)) float32: the largest magnitude
    G: tl.constexpr,
    SPLITS: tl.constexpr,
):
    b = tl.program_id(1).to(tl.int64)
    partials += b * (SPLITS * 2 * G.entries)
    attention += b * G.weights
    symmetric += b * G.weights
    columns += b * G.tokens
    for level in tl.static_range(len(G.grids)):
        if G.grids[level] > 1:
            if tl.program_id(0) == level:
                scale = scales + b * len(G.grids) + level
                _softmax_gradient(partials, attention, symmetric, columns, scale, G.grids[level], G, SPLITS)
            tokens = G.grids[level] * G.grids[level]
            partials += G.sub_tokens * tokens
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
    GRID: tl.constexpr,
    G: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """`total` + A^T (s G), and S x, of one grid for some values of all sub-tokens, BLOCK_N of them at a time."""
    mixed = tl.zeros(total.shape, tl.float32)
    for start in range(0, total.shape[0], BLOCK_N):
        m = start + tl.arange(0, BLOCK_N)
        inside = (m < G.sub_tokens)[:, None] & (d < G.size)[None, :]
        x = tl.load(maps + _place(m, d, 1, G.channels, G), mask=inside, other=0.0)
        scaled = _scaled_gradient(upstream, values, m, d, GRID, G).to(x.dtype)
        pairs = (m < G.sub_tokens)[:, None] & (n < G.sub_tokens)[None, :]
        mix = _load_attention(attention, m, n, pairs, GRID, G)
        both = _load_attention(symmetric, m, n, pairs, GRID, G)
        total = tl.dot(tl.trans(mix), scaled, total, input_precision="ieee")
        mixed = tl.dot(tl.trans(both), x, mixed, input_precision="ieee")
    return total, mixed


@triton.jit(do_not_specialize=["batch"])
def input_gradient_kernel(
    maps,  # (batch, C, H, W)
    upstream,  # (batch, len(grids) * C, H, W)
    attention,  # (batch, WEIGHTS)
    symmetric,  # (batch, WEIGHTS)
    columns,  # (batch, TOKENS) float32
    scales,  # (batch, len(grids)) float32
    projections,  # for each grid: (2, C, H/g, W/g), w and u; not read for a grid of one
    values,  # for each grid: (2, C, H/g, W/g), scale and bias
    batch,
    gradient,  # (batch, C, H, W)
    G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # A shape takes no attribute.
    ROWS: tl.constexpr = G.rows
    b = tl.program_id(1).to(tl.int64)
    n = tl.arange(0, ROWS)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = (n < G.sub_tokens)[:, None] & (d < G.size)[None, :]
    place = b * G.values + _place(n, d, 1, G.channels, G)
    maps += b * G.values
    upstream += b * (len(G.grids) * G.values)
    attention += b * G.weights
    symmetric += b * G.weights
    columns += b * G.tokens
    total = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for level in tl.static_range(len(G.grids)):
        tokens = G.grids[level] * G.grids[level]
        if G.grids[level] == 1:
            total += _scaled_gradient(upstream, values[level], n, d, 1, G)
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
                G.grids[level],
                G,
                BLOCK_N,
            )
            largest = tl.load(scales + b * len(G.grids) + level)
            column = tl.load(columns + _token(n, G.grids[level], G), mask=n < G.sub_tokens, other=0.0)
            w, u = _load_weights(projections[level], n, d, G.grids[level], G)
            total += w.to(tl.float32) * (mixed * largest) + u.to(tl.float32) * column[:, None]
            attention += tokens * tokens
            symmetric += tokens * tokens
            columns += tokens
        upstream += G.channels if G.channels_last else G.values
    tl.store(gradient + place, total.to(gradient.dtype.element_ty), mask=inside)


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
    G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    IMAGES: tl.constexpr,
):
    """Sums over some images of the gradients of one grid's weights, for some values of its tokens."""
    # A shape takes no attribute.
    ROWS: tl.constexpr = G.rows
    tokens: tl.constexpr = GRID * GRID
    places: tl.constexpr = ROWS // tokens
    r = tl.arange(0, ROWS)
    # Tokens of the same place lie side by side, so that their sum is one over neighbouring rows.
    n = _sub_token(r // tokens, r % tokens, GRID, G)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    place = _place(n, d, 1, G.channels, G)
    upstream_place = _place(n, d, 1, len(G.grids) * G.channels, G)
    scale_sum = tl.zeros([ROWS, BLOCK_D], tl.float32)
    bias_sum = tl.zeros([ROWS, BLOCK_D], tl.float32)
    w_sum = tl.zeros([ROWS, BLOCK_D], tl.float32)
    u_sum = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for image in range(IMAGES):
        b = (tl.program_id(2) * IMAGES + image).to(tl.int64)
        rows = G.sub_tokens if b < batch else 0
        inside = (r < rows)[:, None] & (d < G.size)[None, :]
        x = tl.load(maps + b * G.values + place, mask=inside, other=0.0)
        source = upstream + b * (len(G.grids) * G.values)
        g = tl.load(source + upstream_place, mask=inside, other=0.0).to(tl.float32)
        bias_sum += g
        if GRID == 1:
            scale_sum += g * x.to(tl.float32)
        else:
            pairs = (r < rows)[:, None] & (r < rows)[None, :]
            mix = _load_attention(attention + b * G.weights, n, n, pairs, GRID, G)
            scale_sum += g * tl.dot(mix, x, input_precision="ieee")
            both = _load_attention(symmetric + b * G.weights, n, n, pairs, GRID, G)
            half = 0.5 * tl.load(scales + b * len(G.grids), mask=b < batch, other=0.0)
            column = tl.load(columns + b * G.tokens + r % tokens, mask=r < rows, other=0.0)
            w_sum += x.to(tl.float32) * (tl.dot(both, x, input_precision="ieee") * half)
            u_sum += x.to(tl.float32) * column[:, None]
    spot = tl.arange(0, places)
    patch: tl.constexpr = G.channels * (G.height // GRID) * (G.width // GRID)
    target = partials + _place(_sub_token(spot, 0, GRID, G), d, GRID, G.channels, G)
    inside = (spot < G.sub_tokens // tokens)[:, None] & (d < G.size)[None, :]
    tl.store(target, tl.sum(tl.reshape(scale_sum, [places, tokens, BLOCK_D]), axis=1), mask=inside)
    tl.store(target + patch, tl.sum(tl.reshape(bias_sum, [places, tokens, BLOCK_D]), axis=1), mask=inside)
    if GRID > 1:
        tl.store(target + 2 * patch, tl.sum(tl.reshape(w_sum, [places, tokens, BLOCK_D]), axis=1), mask=inside)
        tl.store(target + 3 * patch, tl.sum(tl.reshape(u_sum, [places, tokens, BLOCK_D]), axis=1), mask=inside)


@triton.jit(do_not_specialize=["batch"])
def weight_gradient_kernel(
    maps,  # (batch, C, H, W)
    upstream,  # (batch, len(grids) * C, H, W)
    attention,  # (batch, WEIGHTS)
    symmetric,  # (batch, WEIGHTS)
    columns,  # (batch, TOKENS) float32
    scales,  # (batch, len(grids)) float32
    batch,
    partials,  # (groups of IMAGES, SUMS) float32: for each grid scale, bias and, above 1, w and u: (C, H/g, W/g) each
    G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    IMAGES: tl.constexpr,
):
    partials += tl.program_id(2).to(tl.int64) * G.sums
    for level in tl.static_range(len(G.grids)):
        if tl.program_id(1) == level:
            _weight_gradient(
                maps,
                upstream + level * (G.channels if G.channels_last else G.values),
                attention,
                symmetric,
                columns,
                scales + level,
                batch,
                partials,
                G.grids[level],
                G,
                BLOCK_D,
                IMAGES,
            )
        tokens = G.grids[level] * G.grids[level]
        partials += (4 if G.grids[level] > 1 else 2) * (G.values // tokens)
        if G.grids[level] > 1:
            attention += tokens * tokens
            symmetric += tokens * tokens
            columns += tokens


def _plan(
    kernel: Any,
    inputs: Mapping[str, str | tuple[str, ...]],
    outputs: Mapping[str, str],
    geometry: Geometry,
    blocks: Mapping[str, int],
    grid: tuple[int, ...],
    tile: Tile,
) -> Launch:
    return Launch(kernel, {**inputs, "batch": "i32", **outputs}, {"G": geometry, **blocks}, grid, tile)


def _mixed(dtype: torch.dtype) -> dict[str, str]:
    """What `softmax_gradient_kernel` writes."""
    return {"attention": pointer(dtype), "symmetric": pointer(dtype), "columns": "*fp32", "scales": "*fp32"}


def plan_logits_gradient(geometry: Geometry, batch: int, dtype: torch.dtype, tile: Tile) -> Launch:
    """Launch of `logits_gradient_kernel`."""
    blocks = dict(tile.blocks)
    size_blocks = ceil_div(geometry.size, blocks["BLOCK_D"])
    blocks["STEPS"] = steps_for(blocks["STEPS"], batch * size_blocks, least=4, programs=256)
    maps, weights = pointer(dtype), (pointer(dtype),) * len(geometry.grids)
    inputs: dict[str, str | tuple[str, ...]]
    inputs = {"maps": maps, "upstream": maps, "projections": weights, "values": weights}
    grid = (ceil_div(size_blocks, blocks["STEPS"]), batch)
    return _plan(logits_gradient_kernel, inputs, {"partials": "*fp32"}, geometry, blocks, grid, tile)


def plan_softmax_gradient(geometry: Geometry, batch: int, splits: int, dtype: torch.dtype, tile: Tile) -> Launch:
    """Launch of `softmax_gradient_kernel` on the partial products of all splits."""
    blocks = {"SPLITS": splits, **tile.blocks}
    grid = (len(geometry.grids), batch)
    return _plan(softmax_gradient_kernel, {"partials": "*fp32"}, _mixed(dtype), geometry, blocks, grid, tile)


def plan_input_gradient(geometry: Geometry, batch: int, dtype: torch.dtype, tile: Tile) -> Launch:
    """Launch of `input_gradient_kernel`."""
    blocks = {**tile.blocks, "BLOCK_N": min(tile.blocks["BLOCK_N"], geometry.rows)}
    maps, weights = pointer(dtype), (pointer(dtype),) * len(geometry.grids)
    inputs: dict[str, str | tuple[str, ...]]
    inputs = {"maps": maps, "upstream": maps, **_mixed(dtype), "projections": weights, "values": weights}
    grid = (ceil_div(geometry.size, blocks["BLOCK_D"]), batch)
    return _plan(input_gradient_kernel, inputs, {"gradient": maps}, geometry, blocks, grid, tile)


def plan_weight_gradient(geometry: Geometry, batch: int, dtype: torch.dtype, tile: Tile) -> Launch:
    """Launch of `weight_gradient_kernel`; its grid's last side is the number of groups of images."""
    size_blocks = ceil_div(geometry.size, tile.blocks["BLOCK_D"])
    # Few groups: each writes the sums of all weights.
    images = steps_for(power_of_two(batch), size_blocks * len(geometry.grids) * batch)
    maps = pointer(dtype)
    inputs = {"maps": maps, "upstream": maps, **_mixed(dtype)}
    grid = (size_blocks, len(geometry.grids), ceil_div(batch, images))
    blocks = {**tile.blocks, "IMAGES": images}
    return _plan(weight_gradient_kernel, inputs, {"partials": "*fp32"}, geometry, blocks, grid, tile)


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
    geometry, layout, dtype = Geometry.of(maps, grids), memory_format_of(maps), maps.dtype
    batch, channels, height, width = maps.shape
    maps = maps.contiguous(memory_format=layout)
    upstream = upstream.to(dtype).contiguous(memory_format=layout)
    values = tuple(one.to(dtype).contiguous(memory_format=layout) for one in values)
    given = iter(one.to(dtype).contiguous(memory_format=layout) for one in projections)
    # A grid of one has no projection; its place holds an unread tensor.
    placed = tuple(next(given) if grid > 1 else value for grid, value in zip(grids, values, strict=True))
    capability = capability_of(maps)
    logits_tile, softmax_tile, input_tile, weight_tile = tiles or (
        tile_for("logits_gradient", capability, dtype),
        tile_for("softmax_gradient", capability, dtype),
        tile_for("input_gradient", capability, dtype),
        tile_for("weight_gradient", capability, dtype),
    )
    logits = plan_logits_gradient(geometry, batch, dtype, logits_tile)
    weight = plan_weight_gradient(geometry, batch, dtype, weight_tile)
    splits, groups = logits.grid[0], weight.grid[2]
    device, single = maps.device, torch.float32
    partials = torch.empty(batch, splits, 2, geometry.entries, dtype=single, device=device)
    attention = torch.empty(batch, geometry.weights, dtype=dtype, device=device)
    symmetric = torch.empty_like(attention)
    columns = torch.empty(batch, geometry.tokens, dtype=single, device=device)
    scales = torch.empty(batch, len(grids), dtype=single, device=device)
    sums = torch.empty(groups, geometry.sums, dtype=single, device=device)
    gradient = torch.empty_like(maps, memory_format=layout)
    logits(maps, upstream, placed, values, batch, partials)
    mixed = (attention, symmetric, columns, scales)
    plan_softmax_gradient(geometry, batch, splits, dtype, softmax_tile)(partials, batch, *mixed)
    plan_input_gradient(geometry, batch, dtype, input_tile)(maps, upstream, *mixed, placed, values, batch, gradient)
    weight(maps, upstream, *mixed, batch, sums)
    grad_projections, grad_values = [], []
    pieces = sums.sum(0).split([count * size for count, size in geometry.weight_sums])
    for grid, (count, _), piece in zip(grids, geometry.weight_sums, pieces, strict=True):
        if geometry.channels_last:
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
    """The function that `optimized.multi_size_attention_backward` defines; gradients of weights are float32."""
    folded = [fold_query_key(one) for one in query_key]
    gradient, grad_projections, grad_values = attend_backward(upstream, maps, grids, folded, value)
    grad_query_key = [
        fold_query_key_backward(grad, one.float()) for grad, one in zip(grad_projections, query_key, strict=True)
    ]
    return gradient, grad_query_key, grad_values
