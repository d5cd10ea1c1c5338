"""Prototype residual: every formulation against the published one."""

import pytest
import torch

from prn_fast.kernels.prototype_residual import lean, reference

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
    assert torch.equal(
        formulation.prototype_residual(prototypes, prototypes), torch.zeros(5, 3, 4, 4).double()
    )


@pytest.mark.parametrize("formulation", [reference, lean], ids=["reference", "lean"])
def test_a_tie_takes_the_lowest_index(formulation):
    # 1e-6 is lost beside 2**20 in float32, so that both prototypes are exactly equally far.
    step = 2.0**20
    features = torch.zeros(1, 1, 1, 2)
    prototypes = torch.tensor([[[[step, 2 * step]]], [[[2 * step, step]]]])
    residual = formulation.prototype_residual(features, prototypes)
    assert residual.flatten().tolist() == [step**2, 4 * step**2]
