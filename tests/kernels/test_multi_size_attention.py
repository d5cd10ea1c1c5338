"""Multi-size attention: every formulation against the published one."""

import pytest
import torch

from prn_fast.kernels.launch import Tile
from prn_fast.kernels.multi_size_attention import (
    fused,
    multi_size_attention,
    multi_size_attention_backward,
    optimized,
    reference,
    traffic,
)
from prn_fast.kernels.multi_size_attention import gradient as fused_gradient
from prn_fast.kernels.multi_size_attention.geometry import supports
from tests.kernels.kernel_checks import assert_rounded
from tests.kernels.number_formats import dtypes_and_layouts, layouts

# batch, channels, height, width, grids
CASES = {
    "square": (1, 4, 16, 16, (1, 2, 4, 8)),
    "odd-channels-wide-map": (3, 5, 8, 24, (1, 2, 4, 8)),
    "repeated-grid": (2, 3, 4, 4, (1, 2, 4, 4)),
    "six-by-six-patches": (1, 3, 12, 12, (1, 2, 4, 6)),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def draw_weights(normal, channels, height, width, grids, dtype=torch.float64):
    """Projections away from the identity, strong enough that attention is far from uniform."""
    query_key, value = [], []
    for grid in grids:
        patch = (channels, height // grid, width // grid)
        if grid > 1:
            strength = torch.tensor([4.0, 1.0, 2.0, 1.0], dtype=dtype).reshape(4, 1, 1, 1)
            query_key.append(strength * normal(4, *patch, dtype=dtype))
        value.append(normal(2, *patch, dtype=dtype))
    return query_key, value


@cases
def test_optimized_backward_matches_the_gradients_of_optimized(normal, case):
    batch, channels, height, width, grids = case
    maps = normal(batch, channels, height, width)
    query_key, value = draw_weights(normal, channels, height, width, grids)
    upstream = normal(batch, len(grids) * channels, height, width)
    inputs = [tensor.requires_grad_() for tensor in (maps, *query_key, *value)]
    output = optimized.multi_size_attention(maps, grids, query_key, value)
    expected = torch.autograd.grad(output, inputs, upstream, materialize_grads=True)
    with torch.no_grad():
        grad_maps, grad_query_key, grad_value = optimized.multi_size_attention_backward(
            upstream, maps, grids, query_key, value
        )
    torch.testing.assert_close([grad_maps, *grad_query_key, *grad_value], list(expected))


@cases
def test_optimized_output_and_gradients_match_reference(normal, case):
    batch, channels, height, width, grids = case
    maps = normal(batch, channels, height, width)
    query_key, value = draw_weights(normal, channels, height, width, grids)
    upstream = normal(batch, len(grids) * channels, height, width)
    results = []
    for formulation in (reference, optimized):
        leaves = [tensor.clone().requires_grad_() for tensor in (maps, *query_key, *value)]
        leaf_query_key, leaf_value = leaves[1 : 1 + len(query_key)], leaves[1 + len(query_key) :]
        output = formulation.multi_size_attention(leaves[0], grids, leaf_query_key, leaf_value)
        output.backward(upstream)
        results.append((output.detach(), [leaf.grad for leaf in leaves]))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("formulation", [reference, optimized], ids=["reference", "optimized"])
def test_permuting_patches_permutes_outputs(normal, formulation):
    maps = normal(2, 3, 8, 8)
    query_key, value = draw_weights(normal, 3, 8, 8, (4,))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1), device="cpu")

    def permuted(tensor):
        return reference.unpatchify(reference.patchify(tensor, 4)[:, order], 4, 3, 8, 8)

    expected = permuted(formulation.multi_size_attention(maps, (4,), query_key, value))
    torch.testing.assert_close(formulation.multi_size_attention(permuted(maps), (4,), query_key, value), expected)


@pytest.mark.parametrize("formulation", [reference, optimized], ids=["reference", "optimized"])
def test_equal_tokens_give_uniform_attention(normal, formulation):
    # All tokens alike: whatever the weights of the mean, it is the token itself.
    maps = normal(1, 3, 2, 2).repeat(1, 1, 4, 4)
    query_key, value = draw_weights(normal, 3, 8, 8, (4,))
    scale, bias = value[0]
    expected = maps * scale.repeat(1, 4, 4) + bias.repeat(1, 4, 4)
    torch.testing.assert_close(formulation.multi_size_attention(maps, (4,), query_key, value), expected)


@pytest.mark.parametrize("formulation", [reference, optimized], ids=["reference", "optimized"])
def test_zero_query_averages_all_tokens(normal, formulation):
    maps = normal(1, 3, 8, 8)
    query_key, value = draw_weights(normal, 3, 8, 8, (2,))
    query_key[0][:2] = 0
    mean = reference.patchify(maps, 2).mean(1, keepdim=True).expand(-1, 4, -1)
    expected = reference.unpatchify(mean, 2, 3, 8, 8) * value[0][0].repeat(1, 2, 2) + value[0][1].repeat(1, 2, 2)
    torch.testing.assert_close(formulation.multi_size_attention(maps, (2,), query_key, value), expected)


@pytest.mark.parametrize("formulation", [reference, optimized], ids=["reference", "optimized"])
def test_a_single_token_is_only_scaled_and_shifted(normal, formulation):
    maps, value = normal(2, 3, 4, 6), [normal(2, 3, 4, 6)]
    expected = maps * value[0][0] + value[0][1]
    torch.testing.assert_close(formulation.multi_size_attention(maps, (1,), [], value), expected)


TILES = (
    Tile({"BLOCK_D": 16, "STEPS": 2}),
    Tile({"BLOCK_ROWS": 4}),
    Tile({"BLOCK_D": 16, "STEPS": 2, "BLOCK_B": 2}),
)


def fused_attention(maps, grids, query_key, value):
    return fused.attend(maps, grids, [fused.fold_query_key(one) for one in query_key], value, TILES)


KERNEL_CASES = {
    "square": (1, 4, 16, 16, (1, 2, 4, 8)),
    "odd-channels-wide-map": (3, 5, 8, 24, (1, 2, 4, 8)),
    "repeated-grid": (2, 3, 4, 4, (1, 2, 4, 4)),
    "four-tokens-fill-no-tile": (5, 2, 6, 4, (2,)),
}
kernel_cases = pytest.mark.parametrize("case", KERNEL_CASES.values(), ids=KERNEL_CASES)


@dtypes_and_layouts
@kernel_cases
def test_triton_output_matches_reference(normal, case, dtype, layout):
    batch, channels, height, width, grids = case
    maps = normal(batch, channels, height, width, dtype=dtype).to(memory_format=layout)
    query_key, value = draw_weights(normal, channels, height, width, grids, dtype)
    expected = reference.multi_size_attention(
        maps.double(), grids, [one.double() for one in query_key], [one.double() for one in value]
    )
    output = fused_attention(maps, grids, query_key, value)
    assert output.is_contiguous(memory_format=layout)
    assert_rounded(output, expected)


GRADIENT_TILES = (
    Tile({"BLOCK_D": 16, "STEPS": 2}),
    Tile({}),
    Tile({"BLOCK_D": 16, "BLOCK_N": 32}),
    Tile({"BLOCK_D": 16}),
)


@dtypes_and_layouts
@kernel_cases
def test_triton_gradients_match_float64(normal, case, dtype, layout):
    batch, channels, height, width, grids = case
    maps = normal(batch, channels, height, width, dtype=dtype).to(memory_format=layout)
    query_key, value = draw_weights(normal, channels, height, width, grids, dtype)
    # Folded before, so that the rounding of the fold is not part of the comparison.
    projections = [optimized.fold_query_key(one) for one in query_key]
    upstream = normal(batch, len(grids) * channels, height, width, dtype=dtype)
    expected = optimized.multi_size_attention_backward(
        upstream.double(), maps.double(), grids, [one.double() for one in projections], [one.double() for one in value]
    )
    gradient, *weights = gradients = fused_gradient.attend_backward(
        upstream, maps, grids, projections, value, GRADIENT_TILES
    )
    assert gradient.is_contiguous(memory_format=layout)
    # In half precision attention, its gradient, queries and scaled gradients are rounded before they are multiplied.
    # In float32 the softmax turns rounding steps of logits of some tens into as many of its own.
    typical = 16.0 if dtype == torch.float32 else 2.0
    assert_rounded(gradient, expected[0], typical, worst=8 * typical)
    for results, wanted in zip(weights, expected[1:], strict=True):
        for result, one in zip(results, wanted, strict=True):
            assert result.dtype == torch.float32
            assert_rounded(result.to(dtype), one, typical, worst=8 * typical)
    again = fused_gradient.attend_backward(upstream, maps, grids, projections, value, GRADIENT_TILES)
    assert all(torch.equal(*pair) for pair in zip(flat(gradients), flat(again), strict=True))


@pytest.mark.parametrize("folded", [False, True], ids=["query-and-key", "folded"])
def test_triton_gradients_of_query_and_key_match_optimized(normal, folded):
    maps = normal(2, 3, 8, 8, dtype=torch.float32)
    query_key, value = draw_weights(normal, 3, 8, 8, (1, 2, 4), torch.float32)
    if folded:
        query_key = [optimized.fold_query_key(one) for one in query_key]
    arguments = (normal(2, 9, 8, 8, dtype=torch.float32), maps, (1, 2, 4), query_key, value)
    result = fused_gradient.multi_size_attention_backward(*arguments)
    torch.testing.assert_close(
        flat(result), flat(optimized.multi_size_attention_backward(*arguments)), rtol=1e-4, atol=1e-4
    )


def test_triton_gradients_smaller_than_half_precision_holds_keep_their_size(normal):
    # Y holds 1/D beside a small upstream gradient: in float16 it would be zero.
    maps = normal(1, 8, 16, 16, dtype=torch.float16)
    query_key, value = draw_weights(normal, 8, 16, 16, (2,), torch.float16)
    projections = [optimized.fold_query_key(query_key[0])]
    upstream = normal(1, 8, 16, 16, dtype=torch.float16) * 1e-4
    expected = optimized.multi_size_attention_backward(
        upstream.double(), maps.double(), (2,), [projections[0].double()], [value[0].double()]
    )
    _, grad_projections, _ = fused_gradient.attend_backward(upstream, maps, (2,), projections, value, GRADIENT_TILES)
    error = (grad_projections[0] - expected[1][0]).square().mean().sqrt()
    assert error <= 4 * torch.finfo(torch.float16).eps * expected[1][0].square().mean().sqrt()


def test_gradients_have_the_dtype_and_layout_of_their_inputs(normal):
    maps = normal(2, 3, 8, 8, dtype=torch.bfloat16).to(memory_format=torch.channels_last).requires_grad_()
    query_key, value = draw_weights(normal, 3, 8, 8, (1, 2), torch.float32)
    query_key, value = leaves(query_key), leaves(value)
    multi_size_attention(maps, (1, 2), query_key, value).sum().backward()
    assert maps.grad.dtype == torch.bfloat16
    assert maps.grad.is_contiguous(memory_format=torch.channels_last)
    assert {one.grad.dtype for one in (*query_key, *value)} == {torch.float32}


def flat(gradients):
    return [gradients[0], *gradients[1], *gradients[2]]


def test_triton_equal_tokens_give_the_token_itself(normal):
    maps = normal(1, 3, 2, 2, dtype=torch.float32).repeat(1, 1, 4, 4)
    query_key, value = draw_weights(normal, 3, 8, 8, (4,), torch.float32)
    scale, bias = value[0].repeat(1, 1, 4, 4)
    assert_rounded(fused_attention(maps, (4,), query_key, value), (maps * scale + bias).double())


def test_triton_permuting_patches_permutes_outputs(normal):
    maps = normal(2, 3, 8, 8, dtype=torch.float32)
    query_key, value = draw_weights(normal, 3, 8, 8, (4,), torch.float32)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1), device="cpu")

    def permuted(tensor):
        return reference.unpatchify(reference.patchify(tensor, 4)[:, order], 4, 3, 8, 8)

    expected = permuted(fused_attention(maps, (4,), query_key, value))
    assert_rounded(fused_attention(permuted(maps).contiguous(), (4,), query_key, value), expected.double())


def test_kernels_refuse_grids_they_do_not_take():
    assert not any(supports(grids) for grids in [(1, 2, 4, 6), (1,), (16,)])
    with pytest.raises(ValueError, match="powers of two"):
        fused.attend(torch.zeros(1, 1, 12, 12), (6,), [], [])


def leaves(tensors):
    return [tensor.clone().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("grids", [(1, 2, 4, 8), (1, 6)], ids=["powers-of-two", "six-by-six"])
def test_operation_is_well_formed_and_differentiable(normal, grids):
    side = 8 if 8 in grids else 12
    maps = normal(2, 3, side, side)
    query_key, value = draw_weights(normal, 3, side, side, grids)
    arguments = (maps.requires_grad_(), list(grids), leaves(query_key), leaves(value))
    torch.library.opcheck(multi_size_attention, arguments)
    upstream = normal(2, len(grids) * 3, side, side)
    constants = ([one.detach() for one in query_key], [one.detach() for one in value])
    torch.library.opcheck(multi_size_attention_backward, (upstream, maps.detach(), list(grids), *constants))
    torch.testing.assert_close(multi_size_attention(*arguments), reference.multi_size_attention(*arguments))
    expected = torch.autograd.grad(
        reference.multi_size_attention(*arguments).square().sum(), [maps, *arguments[2], *arguments[3]]
    )
    actual = torch.autograd.grad(multi_size_attention(*arguments).square().sum(), [maps, *arguments[2], *arguments[3]])
    torch.testing.assert_close(actual, expected)


@layouts
def test_operation_survives_compile_and_export(normal, layout):
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            query_key, value = draw_weights(normal, 3, 8, 8, (1, 2, 4), torch.float32)
            self.query_key, self.value = torch.nn.ParameterList(query_key), torch.nn.ParameterList(value)

        def forward(self, maps):
            return multi_size_attention(maps, (1, 2, 4), list(self.query_key), list(self.value)).relu()

    layer, maps = Layer().eval(), normal(2, 3, 8, 8, dtype=torch.float32).to(memory_format=layout)
    expected = layer(maps)
    assert expected.is_contiguous(memory_format=layout)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")(maps)
    torch.testing.assert_close(compiled, expected)
    parameters = list(layer.parameters())
    gradients = torch.autograd.grad(compiled.square().sum(), parameters)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum(), parameters))
    program = torch.export.export(layer, (maps,))
    assert any(node.target is torch.ops.prn_fast.multi_size_attention.default for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(maps), expected)


def test_traffic_of_a_small_case():
    # 2 images of 3 x 4 x 4 half values (96 bytes each), grids 1 and 2, 5 splits.
    moved = traffic.bytes_moved(2, 3, 4, 4, (1, 2), 5, 2)
    partials, attention, weights = 2 * 5 * (4 * 4) * 4, 2 * 16 * 2, (2 * 48 + 2 * 12 + 2 * 12) * 2
    assert moved.read == 2 * 192 + weights + partials + attention
    assert moved.written == 2 * 192 + partials + attention
    published = traffic.published_bytes_moved(2, 3, 4, 4, (1, 2), 2)
    assert (published.read, published.written) == ((5 + 12) * 192, (5 + 10) * 192)
