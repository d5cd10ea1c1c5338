"""Multi-scale fusion: every formulation against the published one."""

import pytest
import torch

from prn_fast.kernels import multi_scale_fusion as operation
from prn_fast.kernels.launch import Tile
from prn_fast.kernels.multi_scale_fusion import (
    fuse_scale,
    fused,
    optimized,
    project_upsample_add,
    reference,
    traffic,
)
from prn_fast.kernels.multi_scale_fusion.reference import FusionWeights, Projection
from tests.kernels.kernel_checks import assert_rounded
from tests.kernels.number_formats import dtypes, dtypes_and_layouts, layouts

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
@pytest.mark.parametrize("formulation", [optimized, operation], ids=["optimized", "operation"])
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


def draw_sum(normal, full, shape, coarse, dtype):
    """So many full maps of a shape, coarse maps (channels, height, width) and their projections."""
    batch, channels = shape[:2]
    return (
        [normal(*shape, dtype=dtype) for _ in range(full)],
        [normal(batch, *size, dtype=dtype) for size in coarse],
        [normal(channels, size[0], 1, 1, dtype=dtype) / size[0] ** 0.5 for size in coarse],
        [normal(channels, dtype=dtype) for _ in coarse],
    )


def widened(arguments):
    return [[one.double() for one in tensors] for tensors in arguments]


SMALL_TILE = Tile({"TILE_H": 4, "TILE_W": 8, "BLOCK_C": 16, "BLOCK_K": 16})
SUMS = {
    "two-sources": (1, (1, 4, 16, 16), [(8, 8, 8), (16, 4, 4)]),
    "odd-channels-wide-map": (2, (3, 5, 8, 24), [(7, 4, 12), (21, 2, 6)]),
    "more-channels-than-a-block": (1, (1, 19, 9, 7), [(33, 5, 4)]),
    "single-pixels": (2, (2, 3, 7, 1), [(2, 3, 1), (5, 1, 1)]),
    "one-pixel-from-more": (1, (3, 17, 1, 1), [(3, 4, 2)]),
}


@dtypes_and_layouts
@pytest.mark.parametrize("case", SUMS.values(), ids=SUMS)
def test_triton_project_upsample_add_matches_float64(normal, case, dtype, layout):
    full, coarse, weights, biases = draw_sum(normal, *case, dtype)
    full, coarse = ([one.to(memory_format=layout) for one in maps] for maps in (full, coarse))
    expected = optimized.project_upsample_add(*widened((full, coarse, weights, biases)))
    output = fused.project_upsample_add(full, coarse, weights, biases, tile=SMALL_TILE)
    assert output.is_contiguous(memory_format=layout)
    assert_rounded(output, expected)


# sets; batch, channels, height and width; coarse maps; fine maps, side of their kernel, stride, channels of a group
SCALES = {
    "middle": (2, (2, 8, 8, 6), [(6, 4, 3)], [((4, 16, 12), 3, 2, 1)]),
    "coarsest": (2, (1, 16, 4, 5), [], [((4, 16, 20), 5, 4, 1), ((8, 8, 10), 3, 2, 1)]),
    "odd": (3, (2, 10, 5, 7), [(3, 3, 4)], [((15, 9, 13), 3, 2, 3), ((5, 18, 27), 5, 4, 1)]),
    "more-channels-than-a-block": (1, (1, 38, 3, 3), [], [((19, 6, 6), 3, 2, 1)]),
}


def draw_scale(normal, case, dtype, layout=torch.contiguous_format):
    """Arguments of `fuse_scale`."""
    sets, (batch, channels, height, width), coarse, fine = case

    def maps(sizes):
        return [normal(batch, *one, dtype=dtype).to(memory_format=layout) for _ in range(sets) for one in sizes]

    def weights(shapes):
        return [normal(channels, *one, dtype=dtype) / (one[0] * one[1] ** 2) ** 0.5 for one in shapes]

    return (
        maps([(channels, height, width)]),
        maps(coarse),
        weights([(one[0], 1, 1) for one in coarse]),
        [normal(channels, dtype=dtype) for _ in coarse],
        maps([one for one, *_ in fine]),
        weights([(group, kernel, kernel) for _, kernel, _, group in fine]),
        [normal(channels, dtype=dtype) for _ in fine],
        [stride for _, _, stride, _ in fine],
        sets,
    )


def expected_of_scale(arguments):
    return optimized.fuse_scale(*widened(arguments[:7]), *arguments[7:])


@dtypes_and_layouts
@pytest.mark.parametrize("case", SCALES.values(), ids=SCALES)
def test_triton_fuses_all_that_comes_to_a_scale(normal, case, dtype, layout):
    arguments = draw_scale(normal, case, dtype, layout)
    output = fused.fuse_scale(*arguments, tile=SMALL_TILE)
    assert output.is_contiguous(memory_format=layout)
    assert_rounded(output, expected_of_scale(arguments))


def planted(arguments, place, change):
    return [change(one) if number == place else one for number, one in enumerate(arguments)]


FAULTS = {
    "sets exchanged": (4, lambda maps: maps[len(maps) // 2 :] + maps[: len(maps) // 2]),
    "kernel mirrored": (5, lambda weights: [one.flip(2) for one in weights]),
    "kernel transposed": (5, lambda weights: [one.transpose(2, 3) for one in weights]),
    "channels of another group": (4, lambda maps: [one.roll(1, 1) for one in maps]),
    "shifted by a pixel": (4, lambda maps: [one.roll(1, 3) for one in maps]),
    "no bias": (6, lambda biases: [0 * one for one in biases]),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_the_comparison_sees_a_planted_fault(normal, fault):
    arguments = draw_scale(normal, SCALES["middle"], torch.bfloat16)
    with pytest.raises(AssertionError):
        assert_rounded(fused.fuse_scale(*planted(arguments, *fault), tile=SMALL_TILE), expected_of_scale(arguments))


@layouts
def test_an_engine_s_fusion_of_two_sets_is_that_of_each_side_by_side(normal, layout):
    sets, (_, weights) = (
        [draw_inputs(normal, CASES["square"])[0] for _ in range(2)],
        draw_inputs(normal, CASES["square"]),
    )
    both = [[one.to(memory_format=layout) for one in maps] for maps in zip(*sets, strict=True)]
    each = [reference.multi_scale_fusion(*maps, weights) for maps in sets]
    expected = [torch.cat(pair, dim=1) for pair in zip(*each, strict=True)]
    for formulation in (reference, optimized, operation):
        torch.testing.assert_close(formulation.multi_scale_fusion(*both, weights), tuple(expected))
    fuse_scale_arguments = draw_scale(normal, SCALES["odd"], torch.float32, layout)
    torch.library.opcheck(fuse_scale, fuse_scale_arguments, test_utils=("test_schema", "test_faketensor"))


def test_triton_upsampling_keeps_a_constant_map(normal):
    # Bilinear weights sum to one: what is constant on the coarse map is constant on the full one.
    full, coarse = [torch.zeros(1, 4, 13, 11)], [torch.ones(1, 3, 6, 5) * 0.37]
    weights, biases = [normal(4, 3, 1, 1, dtype=torch.float32)], [normal(4, dtype=torch.float32)]
    expected = 0.37 * weights[0].double().sum((1, 2, 3)) + biases[0]
    output = fused.project_upsample_add(full, coarse, weights, biases, tile=SMALL_TILE)
    assert_rounded(output, expected.reshape(1, 4, 1, 1).expand_as(output))


@pytest.mark.parametrize(("full", "coarse"), [(64, 32), (64, 16), (7, 3), (5, 1), (1, 4), (9, 9)])
@pytest.mark.parametrize("tile", [1, 2, 8, 16])
def test_a_tile_covers_the_coarse_positions_it_needs(full, coarse, tile):
    neighbours = optimized.interpolation_weights(full, coarse) > 0
    spans = []
    for start in range(0, full, tile):
        needed = neighbours[start : start + tile].any(0).nonzero()
        first = start * (coarse - 1) // max(full - 1, 1)
        assert first <= needed.min()
        spans.append(needed.max().item() - first + 1)
    assert max(spans) <= fused.under_tile(tile, full, coarse)


def test_few_images_take_smaller_tiles_so_that_every_multiprocessor_has_one():
    blocks = {"TILE_H": 8, "TILE_W": 16, "BLOCK_C": 64, "BLOCK_K": 64}
    assert fused.fit_tile(blocks, 32, 64, 64, 64) == blocks
    small = fused.fit_tile(blocks, 1, 64, 64, 64)
    assert fused.grid_of(small, 1, 64, 64, 64) == (64, 2, 1)


@pytest.mark.long
@layouts
def test_operation_is_well_formed(normal, layout):
    arguments = draw_sum(normal, 2, (2, 3, 8, 6), [(5, 4, 3), (4, 2, 2)], torch.float64)
    arguments[0][0] = arguments[0][0].to(memory_format=layout)
    arguments = [[one.requires_grad_() for one in tensors] for tensors in arguments]
    torch.library.opcheck(project_upsample_add, tuple(arguments))


@dtypes
def test_gradients_match_float64(normal, dtype):
    arguments = draw_sum(normal, *SUMS["odd-channels-wide-map"], dtype)
    upstream = normal(3, 5, 8, 24, dtype=dtype)
    results = []
    for function, tensors in ((optimized.project_upsample_add, widened(arguments)), (project_upsample_add, arguments)):
        leaves = [[one.clone().requires_grad_() for one in group] for group in tensors]
        flat = [one for group in leaves for one in group]
        output = function(*leaves)
        results.append(torch.autograd.grad(output, flat, upstream.to(output.dtype)))
    for expected, result in zip(*results, strict=True):
        # Three roundings in half precision: along each side, and of the result. In float32 a weight's gradient adds up
        # 576 products with a rounding each, in an order that the processor decides.
        assert_rounded(result, expected, typical=4.0 if dtype == torch.float32 else 2.0)


@pytest.mark.parametrize(("full", "coarse"), [(64, 32), (7, 3), (5, 1), (1, 4)])
def test_interpolation_weights_are_what_pytorch_interpolates_with(full, coarse):
    # One channel an impulse.
    impulses = torch.eye(coarse, dtype=torch.float64).reshape(1, coarse, coarse, 1)
    expected = torch.nn.functional.interpolate(impulses, (full, 1), mode="bilinear", align_corners=True)
    torch.testing.assert_close(optimized.interpolation_weights(full, coarse), expected[0, :, :, 0].T)


def test_operation_survives_compile_and_export(normal):
    maps, weights = draw_inputs(normal, CASES["square"], torch.float32)

    class Fusion(torch.nn.Module):
        def forward(self, x1, x2, x3):
            return operation.multi_scale_fusion(x1, x2, x3, weights)

    expected = Fusion()(*maps)
    compiled = torch.compile(Fusion(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*maps), expected)
    program = torch.export.export(Fusion(), tuple(maps))
    assert sum(node.target is torch.ops.prn_fast.fuse_scale.default for node in program.graph.nodes) == 3
    torch.testing.assert_close(program.module()(*maps), expected)


def test_traffic_of_a_small_case():
    # 2 images, target of 3 channels and 4 half values each, from 5 channels of 3 values and 6 channels of 1.
    moved = traffic.bytes_moved(2, 3, 4, 1, [(5, 3), (6, 1)], 2)
    assert moved.read == 2 * (12 + 15 + 6) * 2 + (3 * 5 + 3 + 3 * 6 + 3) * 2
    assert moved.written == 2 * 12 * 2
    published = traffic.published_bytes_moved(2, 3, 4, [5, 6], 2)
    # Upsampled: written and read; projected: written and read; the sum so far: read and written.
    assert (published.read, published.written) == ((20 + 24 + 4 * 12) * 4, (20 + 24 + 4 * 12) * 4)
