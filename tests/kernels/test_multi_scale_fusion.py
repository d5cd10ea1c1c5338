"""Multi-scale fusion: every formulation against the published one."""

import pytest
import torch

from prn_fast.kernels.multi_scale_fusion import lean, reference
from prn_fast.kernels.multi_scale_fusion.reference import FusionWeights, Projection

# batch, channels of the three scales, height and width of the finest map
CASES = {
    "square": (1, (4, 8, 16), 16, 16),
    "odd-batch-wide-map": (3, (3, 6, 12), 8, 24),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def draw_inputs(normal, case, dtype=torch.float64):
    """Three maps and the six convolutions."""
    batch, (c1, c2, c3), height, width = case
    maps = [
        normal(batch, channels, height // factor, width // factor, dtype=dtype)
        for channels, factor in ((c1, 1), (c2, 2), (c3, 4))
    ]
    shapes = FusionWeights(
        from2_to1=(c1, c2, 1, 1),
        from3_to1=(c1, c3, 1, 1),
        from1_to2=(c2, 1, 3, 3),
        from3_to2=(c2, c3, 1, 1),
        from1_to3=(c3, 1, 5, 5),
        from2_to3=(c3, 1, 3, 3),
    )
    weights = FusionWeights(*(Projection(normal(*s, dtype=dtype), normal(s[0], dtype=dtype)) for s in shapes))
    return maps, weights


@cases
def test_lean_outputs_and_gradients_match_reference(normal, case):
    maps, weights = draw_inputs(normal, case)
    upstream = [normal(*one.shape) for one in maps]
    results = []
    for formulation in (reference, lean):
        leaves = [one.clone().requires_grad_() for one in maps]
        projections = FusionWeights(
            *(Projection(*(t.clone().requires_grad_() for t in projection)) for projection in weights)
        )
        outputs = formulation.multi_scale_fusion(*leaves, projections)
        torch.autograd.backward(outputs, upstream)
        gradients = [leaf.grad for leaf in leaves] + [t.grad for p in projections for t in p]
        results.append(([output.detach() for output in outputs], gradients))
    torch.testing.assert_close(results[1], results[0])
