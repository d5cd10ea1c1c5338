"""Multi-scale fusion: every formulation against the published one."""

import pytest
import torch

from prn_fast.kernels import multi_scale_fusion as operation
from prn_fast.kernels.launch import Tile
from prn_fast.kernels.multi_scale_fusion import fused, lean, reference, traffic, upsample_add
from prn_fast.kernels.multi_scale_fusion.reference import FusionWeights, Projection
from tests.kernels.kernel_checks import assert_rounded

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
@pytest.mark.parametrize("formulation", [lean, operation], ids=["lean", "operation"])
def test_outputs_and_gradients_match_reference(normal, case, formulation):
    maps, weights = draw_inputs(normal, case)
    upstream = [normal(*one.shape) for one in maps]
    results = []
    for one in (reference, formulation):
        leaves = [tensor.clone().requires_grad_() for tensor in maps]
        projections = FusionWeights(
            *(Projection(*(t.clone().requires_grad_() for t in projection)) for projection in weights)
        )
        outputs = one.multi_scale_fusion(*leaves, projections)
        torch.autograd.backward(outputs, upstream)
        gradients = [leaf.grad for leaf in leaves] + [t.grad for p in projections for t in p]
        results.append(([output.detach() for output in outputs], gradients))
    torch.testing.assert_close(results[1], results[0])


layouts = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"]
)


@layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(
    ("shape", "coarse_sizes"),
    [
        pytest.param((1, 4, 16, 16), [(8, 8), (4, 4)], id="square"),
        pytest.param((3, 5, 8, 24), [(4, 12), (2, 6)], id="odd-channels-wide-map"),
        pytest.param((2, 3, 7, 1), [(3, 1), (1, 1)], id="single-pixels"),
    ],
)
def test_triton_upsample_add_matches_float64(normal, shape, coarse_sizes, dtype, layout):
    batch, channels, _, _ = shape
    full = [normal(*shape, dtype=dtype).to(memory_format=layout) for _ in range(2)]
    coarse = [normal(batch, channels, *size, dtype=dtype).to(memory_format=layout) for size in coarse_sizes]
    expected = lean.upsample_add([one.double() for one in full], [one.double() for one in coarse])
    output = fused.upsample_add(full, coarse, Tile({"BLOCK": 64}))
    assert output.is_contiguous(memory_format=layout)
    assert_rounded(output, expected)


@layouts
def test_operation_is_well_formed(normal, layout):
    full = [normal(2, 3, 8, 6).to(memory_format=layout).requires_grad_() for _ in range(2)]
    torch.library.opcheck(upsample_add, (full, [normal(2, 3, 4, 3).requires_grad_()]))


def test_operation_survives_compile_and_export(normal):
    maps, weights = draw_inputs(normal, CASES["square"], torch.float32)

    class Fusion(torch.nn.Module):
        def forward(self, x1, x2, x3):
            return operation.multi_scale_fusion(x1, x2, x3, weights)

    expected = Fusion()(*maps)
    compiled = torch.compile(Fusion(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*maps), expected)
    program = torch.export.export(Fusion(), tuple(maps))
    assert sum(node.target is torch.ops.prn_fast.upsample_add.default for node in program.graph.nodes) == 2
    torch.testing.assert_close(program.module()(*maps), expected)


def test_traffic_of_a_small_case():
    # 2 images, target of 12 half values, coarse maps of 3 and 1.
    moved = traffic.bytes_moved(2, 12, 1, [3, 1], 2)
    assert (moved.read, moved.written) == (48 + 16, 48)
    published = traffic.published_bytes_moved(2, 12, (2, 4), 2)
    assert (published.read, published.written) == (10 * 48, 10 * 48)
