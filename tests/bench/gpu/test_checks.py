"""Faults planted in the attention: the checks of the GPU run and of the tiles' search must see each of them."""

from dataclasses import replace

import pytest
import torch

from prn_fast.bench.engines.seeded import seeded_model, textured_images
from prn_fast.bench.gpu.network import ALLOWED_DIFFERENCE
from prn_fast.bench.gpu.operations import check_backward, check_forward
from prn_fast.bench.gpu.run import small_plan
from prn_fast.bench.gpu.timing import mean_difference
from prn_fast.bench.gpu.tune import search, trials_of
from prn_fast.kernels import OPTIMIZED
from prn_fast.kernels.multi_size_attention import multi_size_attention, reference
from prn_fast.kernels.multi_size_attention.operation import case as attention_case
from prn_fast.kernels.multi_size_attention.optimized import fold_query_key
from prn_fast.kernels.operation import Draw
from prn_fast.kernels.tiles import tile_for
from prn_fast.model.config import PRNConfig
from prn_fast.model.engine_graph import with_ops

PLAN = small_plan(torch.device("cpu"))
HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


def uniform(maps, grids, query_key, value):
    """All logits alike."""
    return multi_size_attention(maps, grids, [0 * fold_query_key(one) for one in query_key], value)


def negated(maps, grids, query_key, value):
    """The sign of the logits lost."""
    return multi_size_attention(maps, grids, [-fold_query_key(one) for one in query_key], value)


def grid_left_out(maps, grids, query_key, value):
    """The finest grid's tokens keep to themselves."""
    channels = maps.shape[1]
    right = multi_size_attention(maps, grids, query_key, value)
    scale, bias = value[-1].to(maps.dtype)
    right[:, -channels:] = maps * scale.repeat(1, grids[-1], grids[-1]) + bias.repeat(1, grids[-1], grids[-1])
    return right


FAULTS = {"uniform": uniform, "negated": negated, "grid left out": grid_left_out}
faults = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
halves = pytest.mark.parametrize("dtype", HALF.values(), ids=HALF)


@pytest.fixture(params=PLAN.shapes.scales, ids=lambda scale: f"{scale.side}x{scale.side}")
def scale(request):
    return request.param


@halves
def test_the_operation_itself_passes_forward_and_backward(scale, dtype):
    torch.manual_seed(0)
    case = attention_case(2, scale, Draw(dtype, PLAN.device))
    (forward,), (backward,) = check_forward(case, dtype), check_backward(case, dtype)
    assert forward["right"], forward
    assert backward["right"], backward


def test_logits_spread_by_about_one(scale):
    torch.manual_seed(0)
    maps, grids, query_key, _ = attention_case(2, scale, Draw(torch.float32, PLAN.device)).arguments
    for grid, weights in zip(grids[1:], query_key, strict=True):
        tokens = reference.patchify(maps, grid)
        query, key = (reference.project(tokens, *pair) for pair in (weights[:2], weights[2:]))
        spread = (query @ key.transpose(1, 2) / tokens.shape[2]).std(dim=2).mean()
        assert 0.4 < spread < 2.5


@faults
@halves
def test_a_fault_of_the_operation_is_seen_forward_and_backward(scale, dtype, fault):
    torch.manual_seed(0)
    case = replace(attention_case(2, scale, Draw(dtype, PLAN.device)), fused=fault)
    (forward,) = check_forward(case, dtype)
    assert not forward["right"], forward
    (backward,) = check_backward(case, dtype)
    assert not backward["right"], backward


@faults
def test_a_fault_is_refused_by_the_search_for_tiles(fault):
    torch.manual_seed(0)
    dtype = torch.bfloat16
    trials = [replace(case, fused=fault) for case in trials_of("logits", (2,), dtype, PLAN.device, PLAN.shapes)]
    (tried,) = search("logits", [tile_for("logits", (9, 0), dtype)], trials, dtype, PLAN.device, 0.0)
    assert tried.refused.startswith("wrong at")


@pytest.mark.long
@faults
def test_a_fault_in_the_whole_network_is_more_than_rounding_is_allowed(real_network, fault):
    model, images, maps = real_network
    with torch.inference_mode():
        found = with_ops(model, replace(OPTIMIZED, multi_size_attention=fault)).detect(images)[1]
    assert mean_difference(found, maps) > ALLOWED_DIFFERENCE["bf16"] > ALLOWED_DIFFERENCE["fp16"]


@pytest.fixture(scope="module")
def real_network():
    """ResNet-18 at 256 pixels, an image, and its map."""
    model = seeded_model(PRNConfig())
    images = torch.from_numpy(textured_images(1, model.config.image_channels, 1, model.config.image_size))
    with torch.inference_mode():
        return model, images, model.detect(images)[1]
