"""The end of the decoder: Triton's kernels against the definition."""

import pytest
import torch
from torch.nn import functional

from prn_fast.kernels.launch import Tile
from prn_fast.kernels.logit_head import fused, logit_head, reference, traffic
from tests.kernels.kernel_checks import assert_rounded
from tests.kernels.number_formats import dtypes_and_layouts, layouts

# batch, channels in and inside, height, width, factor
CASES = {"square": (1, 16, 16, 4, 4, 4), "odd": (2, 5, 19, 3, 5, 4), "double": (1, 3, 4, 7, 3, 2)}
# Tiles that end inside the map, and several blocks of channels on either side.
TILES = (Tile({"TILE_H": 4, "TILE_W": 8, "BLOCK_C": 16, "BLOCK_K": 16}), Tile({"BLOCK": 128}))
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def draw(normal, case, dtype, layout=torch.contiguous_format):
    """Arguments of the operation."""
    batch, inputs, channels, height, width, factor = case
    maps = normal(batch, inputs, height, width, dtype=dtype).to(memory_format=layout)
    weight = (normal(channels, inputs, 3, 3) * (9 * inputs) ** -0.5).to(dtype).to(memory_format=layout)
    out_weight = (normal(1, channels, 3, 3) * (9 * channels) ** -0.5).to(dtype)
    return maps, weight, normal(channels, dtype=dtype), out_weight, normal(1, dtype=dtype), factor


def in_float64(arguments):
    return [one.double() if torch.is_tensor(one) else one for one in arguments]


@cases
@dtypes_and_layouts
def test_triton_matches_float64(normal, case, dtype, layout):
    arguments = draw(normal, case, dtype, layout)
    logits = fused.logit_head(*arguments, tiles=TILES)
    assert logits.is_contiguous()
    assert_rounded(logits, reference.logit_head(*in_float64(arguments)), typical=4.0 if dtype == torch.float32 else 2.0)


def test_triton_with_the_tables_tiles(normal):
    arguments = draw(normal, CASES["odd"], torch.float32)
    assert_rounded(fused.logit_head(*arguments), reference.logit_head(*in_float64(arguments)), typical=4.0)


def test_nan_comes_out_as_nan(normal):
    maps, *rest = draw(normal, CASES["odd"], torch.float32)
    maps[1, 2, 1, 2] = torch.nan
    expected, found = reference.logit_head(maps, *rest), fused.logit_head(maps, *rest, tiles=TILES)
    assert expected.isnan().any()
    assert found[expected.isnan()].isnan().all()
    assert not found[0].isnan().any()


def _convolved(maps, weight, bias, out_weight, out_bias, factor, *, corners=True, relu=True, padding="constant"):
    raised = functional.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=corners)
    hidden = functional.conv2d(functional.pad(raised, (1, 1, 1, 1), padding), weight, bias)
    return functional.conv2d(hidden.clamp_min(0) if relu else hidden, out_weight, out_bias, padding=1)


FAULTS = {
    "corners not aligned": {"corners": False},
    "no ReLU": {"relu": False},
    "padded by repeating": {"padding": "replicate"},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_the_comparison_sees_a_planted_fault(normal, fault):
    arguments = draw(normal, CASES["odd"], torch.float16)
    assert_rounded(_convolved(*in_float64(arguments)), reference.logit_head(*in_float64(arguments)), typical=1.0)
    wrong = _convolved(*in_float64(arguments), **fault).half()
    with pytest.raises(AssertionError):
        assert_rounded(wrong, reference.logit_head(*in_float64(arguments)), typical=2.0)


@layouts
def test_operation_is_well_formed(normal, layout):
    arguments = draw(normal, CASES["odd"], torch.float32, layout)
    torch.library.opcheck(logit_head, arguments, test_utils=("test_schema", "test_faketensor"))


def test_bytes_are_those_of_the_tensors():
    fused_bytes = traffic.bytes_moved(2, 320, 1000, 500, 2)
    assert (fused_bytes.read, fused_bytes.written) == ((640 + 500) * 2 + 72000, 72000 + 4000)
    published = traffic.published_bytes_moved(2, 320, 5, 7, 1000, 500, 2)
    assert published.read == 2 * (2 * (320 + 5000 + 7000 + 7000 + 7000 + 1000) + 500)
    assert published.written == 2 * 2 * (5000 + 3 * 7000 + 2 * 1000)
