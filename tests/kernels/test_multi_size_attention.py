"""Multi-size attention: every formulation against the published one."""

import pytest
import torch

from prn_fast.kernels.launch import Tile
from prn_fast.kernels.multi_size_attention import fused, lean, multi_size_attention, reference, traffic
from tests.kernels.kernel_checks import assert_rounded

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
def test_lean_output_and_gradients_match_reference(normal, case):
    batch, channels, height, width, grids = case
    maps = normal(batch, channels, height, width)
    query_key, value = draw_weights(normal, channels, height, width, grids)
    upstream = normal(batch, len(grids) * channels, height, width)
    results = []
    for formulation in (reference, lean):
        leaves = [tensor.clone().requires_grad_() for tensor in (maps, *query_key, *value)]
        leaf_query_key, leaf_value = leaves[1 : 1 + len(query_key)], leaves[1 + len(query_key) :]
        output = formulation.multi_size_attention(leaves[0], grids, leaf_query_key, leaf_value)
        output.backward(upstream)
        results.append((output.detach(), [leaf.grad for leaf in leaves]))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("formulation", [reference, lean], ids=["reference", "lean"])
def test_permuting_patches_permutes_outputs(normal, formulation):
    maps = normal(2, 3, 8, 8)
    query_key, value = draw_weights(normal, 3, 8, 8, (4,))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))

    def permuted(tensor):
        return reference.unpatchify(reference.patchify(tensor, 4)[:, order], 4, 3, 8, 8)

    expected = permuted(formulation.multi_size_attention(maps, (4,), query_key, value))
    torch.testing.assert_close(formulation.multi_size_attention(permuted(maps), (4,), query_key, value), expected)


@pytest.mark.parametrize("formulation", [reference, lean], ids=["reference", "lean"])
def test_equal_tokens_give_uniform_attention(normal, formulation):
    # All tokens alike: whatever the weights of the mean, it is the token itself.
    maps = normal(1, 3, 2, 2).repeat(1, 1, 4, 4)
    query_key, value = draw_weights(normal, 3, 8, 8, (4,))
    scale, bias = value[0]
    expected = maps * scale.repeat(1, 4, 4) + bias.repeat(1, 4, 4)
    torch.testing.assert_close(formulation.multi_size_attention(maps, (4,), query_key, value), expected)


@pytest.mark.parametrize("formulation", [reference, lean], ids=["reference", "lean"])
def test_zero_query_averages_all_tokens(normal, formulation):
    maps = normal(1, 3, 8, 8)
    query_key, value = draw_weights(normal, 3, 8, 8, (2,))
    query_key[0][:2] = 0
    mean = reference.patchify(maps, 2).mean(1, keepdim=True).expand(-1, 4, -1)
    expected = reference.unpatchify(mean, 2, 3, 8, 8) * value[0][0].repeat(1, 2, 2) + value[0][1].repeat(1, 2, 2)
    torch.testing.assert_close(formulation.multi_size_attention(maps, (2,), query_key, value), expected)


@pytest.mark.parametrize("formulation", [reference, lean], ids=["reference", "lean"])
def test_a_single_token_is_only_scaled_and_shifted(normal, formulation):
    maps, value = normal(2, 3, 4, 6), [normal(2, 3, 4, 6)]
    expected = maps * value[0][0] + value[0][1]
    torch.testing.assert_close(formulation.multi_size_attention(maps, (1,), [], value), expected)


TILES = (
    Tile({"BLOCK_D": 16, "STEPS": 2}),
    Tile({"BLOCK_ROWS": 4}),
    Tile({"BLOCK_D": 16, "STEPS": 2, "BLOCK_B": 2}),
)
layouts = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"]
)


def fused_attention(maps, grids, query_key, value):
    return fused.attend(maps, grids, [fused.fold_query_key(one) for one in query_key], value, TILES)


# Triton's interpreter multiplies bfloat16 tiles as if they were integers; test_aot.py compiles that path.
@layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize(
    "case",
    [
        pytest.param((1, 4, 16, 16, (1, 2, 4, 8)), id="square"),
        pytest.param((3, 5, 8, 24, (1, 2, 4, 8)), id="odd-channels-wide-map"),
        pytest.param((2, 3, 4, 4, (1, 2, 4, 4)), id="repeated-grid"),
        pytest.param((5, 2, 6, 4, (2,)), id="four-tokens-fill-no-tile"),
    ],
)
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


def test_triton_equal_tokens_give_the_token_itself(normal):
    maps = normal(1, 3, 2, 2, dtype=torch.float32).repeat(1, 1, 4, 4)
    query_key, value = draw_weights(normal, 3, 8, 8, (4,), torch.float32)
    scale, bias = value[0].repeat(1, 1, 4, 4)
    assert_rounded(fused_attention(maps, (4,), query_key, value), (maps * scale + bias).double())


def test_triton_permuting_patches_permutes_outputs(normal):
    maps = normal(2, 3, 8, 8, dtype=torch.float32)
    query_key, value = draw_weights(normal, 3, 8, 8, (4,), torch.float32)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))

    def permuted(tensor):
        return reference.unpatchify(reference.patchify(tensor, 4)[:, order], 4, 3, 8, 8)

    expected = permuted(fused_attention(maps, (4,), query_key, value))
    assert_rounded(fused_attention(permuted(maps).contiguous(), (4,), query_key, value), expected.double())


def test_kernels_refuse_grids_they_do_not_take():
    assert not any(fused.supports(grids) for grids in [(1, 2, 4, 6), (1,), (16,)])
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
