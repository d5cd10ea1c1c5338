"""Prototype residual: every formulation against the published one."""

import pytest
import torch

from prn_fast.kernels.launch import Tile
from prn_fast.kernels.prototype_residual import fused, lean, prototype_residual, reference, traffic
from tests.kernels.kernel_checks import assert_rounded

SHAPES = {
    "one-map-one-prototype": (1, 1, 4, 6, 6),
    "odd-channels": (3, 5, 7, 6, 10),
    "many-prototypes": (2, 39, 3, 5, 4),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@shapes
def test_lean_order_is_half_the_published_squares_up_to_a_term_of_the_image(normal, shape):
    batch, count, *map_shape = shape
    features, prototypes = normal(batch, *map_shape), normal(count, *map_shape)
    halves = reference.prototype_distances(features, prototypes).square() / 2
    order = lean.distance_order(features, prototypes)
    torch.testing.assert_close(order - order[:, :1], halves - halves[:, :1])


@shapes
def test_lean_residual_and_gradient_match_reference(normal, shape):
    batch, count, *map_shape = shape
    features, prototypes = normal(batch, *map_shape), normal(count, *map_shape)
    upstream = normal(batch, *map_shape)
    results = []
    for formulation in (reference, lean):
        leaf = features.clone().requires_grad_()
        residual = formulation.prototype_residual(leaf, prototypes)
        residual.backward(upstream)
        results.append((residual.detach(), leaf.grad))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("formulation", [reference, lean], ids=["reference", "lean"])
def test_a_prototype_is_its_own_nearest_with_zero_residual(normal, formulation):
    prototypes = normal(5, 3, 4, 4)
    assert torch.equal(formulation.prototype_residual(prototypes, prototypes), torch.zeros(5, 3, 4, 4).double())


@pytest.mark.parametrize("formulation", [reference, lean], ids=["reference", "lean"])
def test_a_tie_takes_the_lowest_index(formulation):
    # 1e-6 is lost beside 2**20 in float32, so that both prototypes are exactly equally far.
    step = 2.0**20
    features = torch.zeros(1, 1, 1, 2)
    prototypes = torch.tensor([[[[step, 2 * step]]], [[[2 * step, step]]]])
    residual = formulation.prototype_residual(features, prototypes)
    assert residual.flatten().tolist() == [step**2, 4 * step**2]


TILES = (Tile({"BLOCK_B": 2, "BLOCK_K": 4, "BLOCK_D": 64, "STEPS": 2}), Tile({"BLOCK_D": 64, "STEPS": 2}))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
@shapes
def test_triton_residual_matches_reference(normal, shape, dtype, layout):
    batch, count, *map_shape = shape
    features = normal(batch, *map_shape, dtype=dtype).to(memory_format=layout)
    prototypes = normal(count, *map_shape, dtype=dtype)
    expected = reference.prototype_residual(features.double(), prototypes.double())
    residual = fused.prototype_residual(features, prototypes, tiles=TILES)
    assert residual.is_contiguous(memory_format=layout)
    assert_rounded(residual, expected)


def test_triton_adds_up_more_partial_sums_than_it_holds_at_once(normal):
    features, prototypes = normal(2, 3, 24, 31, dtype=torch.float32), normal(68, 3, 24, 31, dtype=torch.float32)
    distance = fused.plan_distance(2, 68, 3 * 24 * 31, torch.float32, TILES[0])
    blocks = fused.plan_residual(2, 68, 3 * 24 * 31, distance.grid[0], torch.float32, TILES[1]).constants
    assert blocks["SPLITS"] > blocks["BLOCK_SPLITS"]
    expected = reference.prototype_residual(features.double(), prototypes.double())
    assert_rounded(fused.prototype_residual(features, prototypes, tiles=TILES), expected)


@pytest.mark.parametrize("count", [1, 5])
def test_triton_residual_of_half_precision_takes_the_nearest_by_exact_differences(normal, count):
    # Two thousand times farther from zero than from each other: |f|^2 - 2 f p + |p|^2 would cancel to noise.
    prototypes = (1 + torch.arange(count)[:, None, None, None] / 1024 + torch.zeros(count, 3, 4, 5)).half()
    residual = fused.prototype_residual(prototypes, prototypes, tiles=TILES)
    assert (residual == 0).all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
def test_triton_residual_fills_half_of_a_larger_map(normal, layout):
    features = normal(2, 3, 4, 6, dtype=torch.float32).to(memory_format=layout)
    prototypes = normal(5, 3, 4, 6, dtype=torch.float32)
    both = torch.full((2, 6, 4, 6), 7.0).to(memory_format=layout)
    fused.prototype_residual(features, prototypes, out=both[:, 3:], tiles=TILES)
    assert_rounded(both[:, 3:], reference.prototype_residual(features.double(), prototypes.double()))
    assert (both[:, :3] == 7).all()


def test_triton_finds_a_prototype_itself_and_the_lowest_index_on_a_tie(normal):
    prototypes = normal(5, 3, 4, 4, dtype=torch.float32)
    assert (fused.prototype_residual(prototypes, prototypes, tiles=TILES) == 0).all()
    step = 2.0**20
    tied = torch.tensor([[[[step, 2 * step]]], [[[2 * step, step]]]])
    residual = fused.prototype_residual(torch.zeros(1, 1, 1, 2), tied, tiles=TILES)
    assert residual.flatten().tolist() == [step**2, 4 * step**2]


def test_triton_keeps_nan_visible(normal):
    features = normal(2, 3, 4, 4, dtype=torch.float32)
    features[1] = float("nan")
    residual = fused.prototype_residual(features, normal(3, 3, 4, 4, dtype=torch.float32), tiles=TILES)
    assert residual[0].isfinite().all()
    assert residual[1].isnan().all()


def test_triton_refuses_an_output_of_another_layout(normal):
    features = normal(1, 3, 4, 4, dtype=torch.float32)
    with pytest.raises(ValueError, match="layout"):
        fused.prototype_residual(features, features, out=torch.empty(1, 3, 4, 4).transpose(2, 3), tiles=TILES)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
def test_operation_is_well_formed_and_differentiable(normal, layout):
    features = normal(2, 3, 4, 6).to(memory_format=layout).requires_grad_()
    prototypes = normal(5, 3, 4, 6)
    torch.library.opcheck(prototype_residual, (features, prototypes))
    torch.testing.assert_close(
        torch.autograd.grad(prototype_residual(features, prototypes).square().sum(), features),
        torch.autograd.grad(reference.prototype_residual(features, prototypes).square().sum(), features),
    )


def test_operation_survives_compile_and_export(normal):
    class Residual(torch.nn.Module):
        def forward(self, features, prototypes):
            return prototype_residual(features, prototypes) + 1

    inputs = normal(2, 3, 4, 6, dtype=torch.float32), normal(5, 3, 4, 6, dtype=torch.float32)
    expected = Residual()(*inputs)
    compiled = torch.compile(Residual(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), expected)
    program = torch.export.export(Residual(), inputs)
    assert any(node.target is torch.ops.prn_fast.prototype_residual.default for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(*inputs), expected)


def test_traffic_of_a_small_case():
    # 2 maps and 3 prototypes of 10 half values, 4 splits: 24 partial sums of 4 bytes.
    moved = traffic.bytes_moved(2, 3, 10, 4, 2)
    assert (moved.read, moved.written) == (2 * 40 + (3 + 2) * 20 + 96, 96 + 40)
    published = traffic.published_bytes_moved(2, 3, 10, 2)
    assert (published.read, published.written) == (6 * 120 + 3 * 40, 4 * 120 + 2 * 40)
