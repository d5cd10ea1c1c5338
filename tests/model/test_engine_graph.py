"""The network as engines run it, in every formulation and precision, against the model in float64."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor

from prn_fast.errors import ConfigError
from prn_fast.kernels import FUSED, OPERATIONS, OPTIMIZED, Ops, multi_scale_fusion
from prn_fast.kernels.anomaly_score import fused as score
from prn_fast.kernels.convolution_relu import fused as convolution
from prn_fast.kernels.convolution_relu.operation import of_the_network, plan
from prn_fast.kernels.launch import noted
from prn_fast.kernels.logit_head import fused as logit_head
from prn_fast.kernels.multi_scale_fusion import fused as fusion
from prn_fast.kernels.multi_size_attention import fused as attention
from prn_fast.kernels.operation import REAL
from prn_fast.kernels.prototype_residual import fused as residual
from prn_fast.kernels.tile_normalize import fused as normalize
from prn_fast.kernels.uncomputed import Uncomputed
from prn_fast.model.config import PRNConfig
from prn_fast.model.engine_graph import EngineGraph, fold_attention, fold_batch_norm, two_stages
from prn_fast.model.prn import PRN
from prn_fast.model.screen import Screen, screen_score
from tests.small_package import small_config, small_model, small_screen, textured_images

# Mean difference of maps and largest of scores, in 0..1. Rounding grows through a network with random weights.
TOLERANCES = {
    torch.float32: (1e-5, 1e-4),
    torch.float16: (0.01, 0.01),
    torch.bfloat16: (0.06, 0.05),
}


@pytest.fixture(scope="module")
def model() -> PRN:
    return small_model(small_config())


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.from_numpy(textured_images(2, 1, 3))


@pytest.fixture(scope="module")
def expected(model: PRN, images: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return copy.deepcopy(model).double().detect(images)


def fused_graph(model: PRN, dtype: torch.dtype) -> EngineGraph:
    return EngineGraph(model, FUSED, dtype, torch.channels_last)


def test_grey_images_go_in_as_one_channel_where_all_are_normalised_alike():
    """Three equal channels cost a tenth of the screen; ResNet's differ in what the zeros at the edge stand for."""
    grey = torch.from_numpy(textured_images(2, 1, 3))
    for config, ops, channels in [
        (small_config(), OPTIMIZED, 1),
        (small_config(), FUSED, 3),
        (small_config(3), OPTIMIZED, 3),
        (PRNConfig(image_size=64, image_channels=1, prototypes=(3, 3, 3), attention_layers=1), OPTIMIZED, 3),
    ]:
        model = small_model(config).double()
        graph = EngineGraph(model, ops)
        images = grey.expand(*grey.shape[:-1], config.image_channels)
        assert graph.model.normalize(images).shape[1] == graph.model.backbone.first.in_channels == channels
        assert model.normalize(images).shape[1] == model.backbone.first.in_channels == 3
        with torch.no_grad():
            torch.testing.assert_close(graph(images), model.detect(images), rtol=1e-9, atol=1e-9)
            # As the bench does; and the wrong number of channels is refused.
            logits = graph.model.logits(graph.model.normalize(images))
            torch.testing.assert_close(logits, model.logits(model.normalize(images)), rtol=1e-9, atol=1e-9)
            with pytest.raises(ConfigError, match=rf"this model takes \(B, {channels}, 64, 64\)"):
                graph.model.logits(torch.zeros(2, 4 - channels, 64, 64, dtype=torch.float64))


def test_every_batch_norm_is_folded_and_the_model_left_alone(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = EngineGraph(model, FUSED, torch.float16, torch.channels_last)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in graph.modules())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_folding_attention_twice_is_folding_it_once(model):
    folded = fold_attention(fold_batch_norm(model))
    once = [value.clone() for name, value in folded.state_dict().items() if ".query_key." in name]
    assert all(len(value) == 2 for value in once)
    twice = [value for name, value in fold_attention(folded).state_dict().items() if ".query_key." in name]
    torch.testing.assert_close(twice, once, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("config", "ops"),
    [
        pytest.param(small_config(), FUSED, id="elementwise-fused"),
        pytest.param(small_config(projection="pointwise"), OPTIMIZED, id="pointwise-optimized"),
        pytest.param(small_config(residual="absolute"), FUSED, id="absolute-fused"),
        pytest.param(PRNConfig(image_size=64, prototypes=(3, 2, 4), attention_layers=1), FUSED, id="resnet18-fused"),
    ],
)
def test_the_graph_is_the_model_exactly(config, ops):
    model = small_model(config).double()
    images = torch.from_numpy(textured_images(2, config.image_channels, 3))
    with torch.no_grad():
        graph = EngineGraph(model, ops, memory_format=torch.channels_last)
        torch.testing.assert_close(graph(images), model.detect(images), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=["fp32", "fp16", "bf16"])
def test_every_precision_stays_within_its_tolerance(model, images, expected, dtype):
    scores, maps = fused_graph(model, dtype)(images)
    assert scores.dtype == maps.dtype == torch.float32
    mean_map, most_score = TOLERANCES[dtype]
    assert (maps - expected[1]).abs().mean() <= mean_map
    assert (scores - expected[0]).abs().max() <= most_score


# What FUSED runs on a GPU.
KERNELS = Ops(
    prototype_residual=residual.prototype_residual,
    multi_scale_fusion=partial(multi_scale_fusion.with_raise_to, raise_to=fusion.project_upsample_add),
    multi_size_attention=attention.multi_size_attention,
    normalize_images=normalize.normalize_images,
    anomaly_score=score.anomaly_score,
    convolution_relu=convolution.convolution_relu,
    logit_head=logit_head.logit_head,
    learned_score=score.learned_score,
)


@pytest.mark.long
def test_the_whole_network_with_its_kernels_in_the_interpreter(model, images, expected):
    scores, maps = EngineGraph(model, KERNELS, torch.float16, torch.channels_last)(images[:1])
    mean_map, most_score = TOLERANCES[torch.float16]
    assert (maps - expected[1][:1]).abs().mean() <= mean_map
    assert (scores - expected[0][:1]).abs().max() <= most_score


def test_the_networks_convolutions_are_those_that_are_compiled_and_tuned():
    graph = EngineGraph(PRN(PRNConfig(), FUSED).eval(), FUSED, torch.float16, torch.channels_last)
    with torch.inference_mode(), noted() as launches, Uncomputed(op for one in OPERATIONS for op in one.registered):
        graph(torch.empty(1, 256, 256, 3, dtype=torch.uint8))
    found = {tuple(one.constants.items()) for one in launches if one.kernel is convolution.convolve_add_relu_kernel}
    listed = [tuple(plan(one, 1, torch.float16, (9, 0)).constants.items()) for one in of_the_network(REAL)]
    assert found == set(listed)
    assert len(listed) == len(found) == 24


def test_weights_are_stored_as_they_are_used(model):
    for name, value in fused_graph(model, torch.bfloat16).state_dict().items():
        assert value.dtype == torch.bfloat16, name
        assert value.ndim < 4 or value.is_contiguous(memory_format=torch.channels_last), name


def operations(program: torch.export.ExportedProgram) -> set[str]:
    return {str(node.target) for node in program.graph.nodes if str(node.target).startswith("prn_fast.")}


def test_fused_graph_survives_export_with_its_operations_whole(model, images):
    graph = fused_graph(model, torch.float32)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(graph, (images,), dynamic_shapes=({0: batch},))
    whole = {"prn_fast.prototype_residual.default", "prn_fast.multi_size_attention.default"}
    assert whole < operations(program)
    for part in (images, images[:1]):
        torch.testing.assert_close(program.module()(part), graph(part), rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_fused_graph_survives_compile_in_one_piece(model, images):
    graph = fused_graph(model, torch.float32)
    compiled = torch.compile(graph, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), graph(images), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def screen(model: PRN) -> Screen:
    return small_screen(model)


@pytest.mark.parametrize("ops", [OPTIMIZED, FUSED], ids=["optimized", "fused"])
def test_two_stages_in_a_row_are_the_graph_bit_for_bit(model, screen, images, ops):
    graph = EngineGraph(model, ops, memory_format=torch.channels_last)
    first, second = two_stages(graph, screen)
    with torch.no_grad():
        torch.testing.assert_close(second(*first(images)[2:]), graph(images), rtol=0, atol=0)


def test_the_second_stage_takes_any_images_of_the_first_in_any_order(model, screen):
    images = torch.from_numpy(textured_images(5, 1, 8))
    graph = EngineGraph(model).double()
    first, second = two_stages(graph, screen)
    chosen = torch.tensor([4, 0, 3])
    with torch.no_grad():
        scores, maps = second(*(tensor[chosen] for tensor in first(images)[2:]))
        expected_scores, expected_maps = graph(images)
    torch.testing.assert_close(scores, expected_scores[chosen], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(maps, expected_maps[chosen], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 1e-4), (torch.bfloat16, 0.2)])
def test_the_first_stage_screens_as_the_screen_does(model, screen, images, dtype, tolerance):
    first, _ = two_stages(EngineGraph(model, FUSED, dtype, torch.channels_last), screen)
    with torch.no_grad():
        features = model.backbone.scales(model.normalize(images))
        expected_scores, expected_maps = screen_score(screen(features, model.residuals(features)), screen.level_weights)
        scores, maps, *scales = first(images)
    assert maps.shape == (2, 8, 8)
    assert {tensor.dtype for tensor in scales} == {dtype}
    torch.testing.assert_close(scores.float(), expected_scores, rtol=0, atol=tolerance)
    torch.testing.assert_close(maps.float(), expected_maps, rtol=0, atol=tolerance)


def test_building_the_stages_leaves_the_screen_alone(model, screen):
    before = {name: value.clone() for name, value in screen.state_dict().items()}
    first, _ = two_stages(EngineGraph(model, FUSED, torch.float16), screen)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in first.modules())
    for name, value in screen.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_level_keeps_its_precision(model, screen, dtype):
    first, _ = two_stages(EngineGraph(model, OPTIMIZED, dtype), screen)
    assert first.screen.out.weight.dtype == dtype
    assert first.screen.level_weights.dtype == torch.float32
    assert screen.level_weights.any()
    torch.testing.assert_close(first.screen.level_weights, screen.level_weights, rtol=0, atol=0)
