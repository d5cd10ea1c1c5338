"""Plugins compute what their operation is defined to compute: other batches than the optimum, tactics, layouts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from prn_fast.build.tensorrt_plugins.formulation import PLUGINS, PluginGraph
from prn_fast.errors import EngineError
from prn_fast.kernels.anomaly_score import plugin as score_plugin
from prn_fast.kernels.anomaly_score.reference import anomaly_score
from prn_fast.kernels.multi_scale_fusion import plugin as fusion_plugin
from prn_fast.kernels.multi_scale_fusion.optimized import project_upsample_add
from prn_fast.kernels.multi_size_attention import plugin as attention_plugin
from prn_fast.kernels.multi_size_attention.reference import multi_size_attention
from prn_fast.kernels.prototype_residual import plugin as prototype_residual_plugin
from prn_fast.kernels.prototype_residual.reference import prototype_residual
from tests.build.interpreted_plugins import InterpretedGraph
from tests.kernels.kernel_checks import assert_rounded

pytestmark = pytest.mark.long

# Kernels settled for this batch work on two and four images a program; the batches fill their last program or do not.
OPTIMUM = 8
BATCHES = (1, 5)

Draw = Callable[..., Tensor]


@pytest.fixture
def normal() -> Draw:
    """Standard normal tensors from one seeded stream."""
    generator = torch.Generator().manual_seed(20221203)

    def draw(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return draw


forms = pytest.mark.parametrize(
    ("capability", "dtype", "tactic", "channels_last"),
    [
        pytest.param((8, 6), torch.float16, 1, False, id="half-rows"),
        pytest.param((9, 0), torch.float16, 2, True, id="half-second-tactic-channels-last"),
        pytest.param((7, 5), torch.float32, 1, True, id="float-channels-last"),
        pytest.param((7, 5), torch.float32, 2, False, id="float-second-tactic-rows"),
    ],
)


def graph(capability, tactic, channels_last) -> InterpretedGraph:
    return InterpretedGraph(capability, OPTIMUM, tactic, channels_last)


@forms
def test_residual(normal, capability, dtype, tactic, channels_last):
    plugins = graph(capability, tactic, channels_last)
    prototypes = normal(5, 8, 6, 10, dtype=dtype)
    for batch in (*BATCHES, 9):
        features = normal(batch, 8, 6, 10, dtype=dtype)
        expected = prototype_residual(features.double(), prototypes.double())
        assert_rounded(prototype_residual_plugin.prototype_residual(plugins, features, prototypes), expected)


@forms
def test_attention(normal, capability, dtype, tactic, channels_last):
    plugins = graph(capability, tactic, channels_last)
    grids = (1, 2, 4, 8)
    value = [normal(2, 3, 8 // grid, 16 // grid, dtype=dtype) for grid in grids]
    query_key = [normal(4, 3, 8 // grid, 16 // grid, dtype=dtype) for grid in grids[1:]]
    for batch in BATCHES:
        maps = normal(batch, 3, 8, 16, dtype=dtype)
        expected = multi_size_attention(
            maps.double(), grids, [one.double() for one in query_key], [one.double() for one in value]
        )
        found = attention_plugin.multi_size_attention(plugins, maps, grids, query_key, value)
        # Attention weights are rounded to the maps' type before they mix.
        assert_rounded(found, expected, typical=2.0)


@forms
@pytest.mark.parametrize("coarse", [((16, 4, 5), (7, 2, 3)), ((9, 3, 2),)], ids=["two-coarse", "two-full"])
def test_fusion(normal, capability, dtype, tactic, channels_last, coarse):
    plugins = graph(capability, tactic, channels_last)
    channels = 35
    weights = [normal(channels, one[0], 1, 1, dtype=dtype) for one in coarse]
    biases = [normal(channels, dtype=dtype) for _ in coarse]
    for batch in BATCHES:
        full = [normal(batch, channels, 8, 10, dtype=dtype) for _ in range(3 - len(coarse))]
        maps = [normal(batch, *one, dtype=dtype) for one in coarse]
        wide = [[one.double() for one in part] for part in (full, maps, weights, biases)]
        expected = project_upsample_add(*wide)
        # The projected map is rounded before it is upsampled.
        assert_rounded(fusion_plugin.project_upsample_add(plugins, full, maps, weights, biases), expected, typical=2.0)


@forms
def test_score(normal, capability, dtype, tactic, channels_last):
    plugins = graph(capability, tactic, channels_last)
    for batch in BATCHES:
        logits = 3 * normal(batch, 1, 40, 60, dtype=dtype)
        scores, maps = score_plugin.anomaly_score(plugins, logits)
        expected_scores, expected_maps = anomaly_score(logits.double())
        assert_rounded(scores, expected_scores)
        assert_rounded(maps, expected_maps)


def test_a_plugin_has_another_number_of_programs_for_a_map_than_its_tile_would_take(normal):
    # "splits" comes from a float32 graph; the graph in half precision keeps it, with the tile of half precision.
    features, prototypes = normal(3, 8, 6, 10, dtype=torch.float32), normal(5, 8, 6, 10, dtype=torch.float32)
    expected = prototype_residual(features.double(), prototypes.double())
    for splits in (1, 2, 3, 7):
        plugins = graph((8, 6), 1, False)
        (partials,) = plugins.node(PLUGINS["distance"], [features, prototypes], splits=splits)
        assert partials.shape == (3, 5, splits)
        (residual,) = plugins.node(PLUGINS["residual"], [features, prototypes, partials])
        assert_rounded(residual, expected)


def test_grids_that_no_plugin_takes_are_refused(normal):
    maps = normal(1, 2, 12, 12, dtype=torch.float32)
    with pytest.raises(EngineError, match="no plugin attends over grids"):
        attention_plugin.multi_size_attention(PluginGraph((8, 6), OPTIMUM), maps, (1, 6), [], [])
