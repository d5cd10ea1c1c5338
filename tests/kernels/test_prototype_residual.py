"""Prototype residual: every formulation against the published one."""

import pytest
import torch

from prn_fast.kernels.launch import Tile
from prn_fast.kernels.prototype_residual import candidates, fused, optimized, prototype_residual, reference, traffic
from tests.kernels.kernel_checks import assert_rounded

SHAPES = {
    "one-map-one-prototype": (1, 1, 4, 6, 6),
    "odd-channels": (3, 5, 7, 6, 10),
    "many-prototypes": (2, 39, 3, 5, 4),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@shapes
def test_optimized_order_is_half_the_published_squares_up_to_a_term_of_the_image(normal, shape):
    batch, count, *map_shape = shape
    features, prototypes = normal(batch, *map_shape), normal(count, *map_shape)
    halves = reference.prototype_distances(features, prototypes).square() / 2
    order = optimized.distance_order(features, prototypes)
    torch.testing.assert_close(order - order[:, :1], halves - halves[:, :1])


@shapes
def test_optimized_residual_and_gradient_match_reference(normal, shape):
    batch, count, *map_shape = shape
    features, prototypes = normal(batch, *map_shape), normal(count, *map_shape)
    upstream = normal(batch, *map_shape)
    results = []
    for formulation in (reference, optimized):
        leaf = features.clone().requires_grad_()
        residual = formulation.prototype_residual(leaf, prototypes)
        residual.backward(upstream)
        results.append((residual.detach(), leaf.grad))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("formulation", [reference, optimized], ids=["reference", "optimized"])
def test_a_prototype_is_its_own_nearest_with_zero_residual(normal, formulation):
    prototypes = normal(5, 3, 4, 4)
    assert torch.equal(formulation.prototype_residual(prototypes, prototypes), torch.zeros(5, 3, 4, 4).double())


@pytest.mark.parametrize("formulation", [reference, optimized], ids=["reference", "optimized"])
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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
def test_operation_is_well_formed_and_differentiable(normal, layout):
    features = normal(2, 3, 4, 6).to(memory_format=layout).requires_grad_()
    prototypes = normal(5, 3, 4, 6)
    torch.library.opcheck(prototype_residual, (features, prototypes))
    torch.testing.assert_close(
        torch.autograd.grad(prototype_residual(features, prototypes).square().sum(), features),
        torch.autograd.grad(reference.prototype_residual(features, prototypes).square().sum(), features),
    )


def test_backward_takes_the_prototype_of_the_forward_in_half_precision():
    # The second lies nearer by a hundred-thousandth of the squared distance, which half precision does not see.
    prototypes = torch.ones(2, 3, 4, 5).half()
    prototypes[0, 0, 0, 0] += 1 / 1024
    prototypes[1] = -1
    features = torch.zeros(1, 3, 4, 5).half().requires_grad_()
    gradient = torch.autograd.grad(prototype_residual(features, prototypes).sum(), features)[0]
    assert (gradient == 2).all()
    assert fused.nearest_prototype(features.detach(), prototypes, TILES[0]).item() == 1
    chosen = fused.prototype_residual(features.detach(), prototypes, tiles=TILES)
    assert (chosen == 1).all()


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


# -- on tensor cores --

CANDIDATE_TILES = (
    Tile({"BLOCK_B": 16, "BLOCK_D": 32, "STEPS": 2}),
    Tile({"BLOCK_D": 64, "STEPS": 2}),
    Tile({"BLOCK_D": 64, "STEPS": 2}),
)
HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])


def on_tensor_cores(features, prototypes):
    """The residual, and which prototype was taken."""
    output = torch.empty_like(features, memory_format=torch.preserve_format)
    candidates.write_residual(features, prototypes, output, (9, 0), CANDIDATE_TILES)
    return output, candidates.nearest_prototype(features, prototypes, (9, 0), CANDIDATE_TILES[:2])


def nearest_in_float64(features, prototypes):
    return reference.prototype_distances(features.double(), prototypes.double()).argmin(dim=1)


@HALVES
@pytest.mark.parametrize("shape", [(3, 8, 3, 5, 7), (17, 9, 1, 4, 9)], ids=str)
def test_tensor_cores_give_the_residual_of_the_reference(normal, shape, dtype):
    batch, count, *map_shape = shape
    # Far from zero, beside which they differ little: an uncentred product would cancel.
    features, prototypes = (30 + normal(one, *map_shape) for one in (batch, count))
    features, prototypes = features.to(dtype), prototypes.to(dtype)
    output, nearest = on_tensor_cores(features, prototypes)
    assert nearest.tolist() == nearest_in_float64(features, prototypes).tolist()
    assert_rounded(output, reference.prototype_residual(features.double(), prototypes.double()))


@HALVES
def test_tensor_cores_choose_between_near_ties_as_float64_does(normal, dtype):
    count, size = 12, (3, 4, 16)
    prototypes = normal(count, *size).to(dtype)
    # Each map lies between two prototypes or three, nearer to one of them by a hair that products of rounded
    # differences do not see.
    pairs = [(first, second) for first in range(0, count, 3) for second in (first + 1, first + 5)]
    maps = []
    for first, second in pairs:
        middle = (prototypes[first].double() + prototypes[second % count].double()) / 2
        maps.append((middle + 1e-3 * normal(*size)).to(dtype))
    maps.append((sum(prototypes[k].double() for k in (2, 7, 9)) / 3).to(dtype))
    features = torch.stack(maps)
    distances = reference.prototype_distances(features.double(), prototypes.double()).sort(dim=1).values
    assert (distances[:-1, 1] / distances[:-1, 0] - 1).median() < 0.01
    _, nearest = on_tensor_cores(features, prototypes)
    assert nearest.tolist() == nearest_in_float64(features, prototypes).tolist()


def test_the_second_look_decides_where_the_first_is_blind(normal):
    # Far from the mean, where these three lie, half precision rounds their differences to nothing.
    prototypes = normal(9, 2, 4, 8).half()
    prototypes[:6] += 3000
    prototypes[6:] = 1 + torch.arange(3)[:, None, None, None] / 1024
    features = prototypes[[8, 6, 7]].clone()
    _, nearest = on_tensor_cores(features, prototypes)
    assert nearest.tolist() == [8, 6, 7]
    centre = prototypes.double().mean(dim=0)
    centred = (prototypes.double() - centre).half()
    assert torch.equal(centred[6], centred[7])


def test_tensor_cores_take_the_lowest_index_on_a_tie_and_keep_nan_visible(normal):
    prototypes = normal(9, 3, 4, 4, dtype=torch.float32).half()
    prototypes[6] = prototypes[2]
    features = prototypes[[6, 4, 2]].clone()
    features[1] = float("nan")
    output, nearest = on_tensor_cores(features, prototypes)
    assert nearest[[0, 2]].tolist() == [2, 2]
    assert (output[[0, 2]] == 0).all()
    assert output[1].isnan().all()


def test_tensor_cores_are_taken_where_arithmetic_takes_longer_than_memory():
    half = torch.float16, (9, 0)
    assert fused.pays(32, 20, *half)
    assert fused.pays(128, 13, *half)
    assert not fused.pays(16, 20, *half)
    assert not fused.pays(1, 256, *half)
    assert not fused.pays(128, 257, *half)
    assert not fused.pays(128, 7, *half)
    assert not fused.pays(32, 20, torch.float32, (9, 0))
    assert not fused.pays(32, 20, torch.float16, (7, 5))


def test_many_maps_go_to_tensor_cores_and_backward_takes_the_same_prototypes(normal, monkeypatch):
    features, prototypes = normal(40, 2, 3, 4).half(), normal(16, 2, 3, 4).half()
    monkeypatch.setattr(fused, "partial_distances", None)
    residual = fused.prototype_residual(features, prototypes)
    nearest = fused.nearest_prototype(features, prototypes)
    assert_rounded(residual, reference.prototype_residual(features.double(), prototypes.double()))
    assert nearest.tolist() == nearest_in_float64(features, prototypes).tolist()


def test_bytes_on_tensor_cores_are_those_of_the_tensors():
    batch, count, size, looked, splits, look_splits = 3, 10, 500, 4, 7, 5
    moved = traffic.candidate_bytes_moved(batch, count, size, looked, splits, look_splits, 2)
    partials, found = batch * count * splits * 4, batch * looked * look_splits * 4 + batch * looked * 4
    # Twelve candidates of ten prototypes are all of them.
    assert moved.read == (3 * batch + count + count + batch) * size * 2 + partials + found
    assert moved.written == partials + found + batch * size * 2
