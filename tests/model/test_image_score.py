"""The learned image score: memory, statistics and weights, in the network and in what engines run."""

import copy
from pathlib import Path

import pytest
import torch

from prn_fast.errors import ConfigError
from prn_fast.kernels import FUSED, OPTIMIZED
from prn_fast.kernels.anomaly_score.reference import map_statistics
from prn_fast.model.engine_graph import EngineGraph, two_stages
from prn_fast.model.image_score import LearnedScore
from prn_fast.model.memory import PatchMemory, farthest_points, memory_size, patches_of, remember
from prn_fast.model.prn import PRN
from tests import needs
from tests.small_package import small_config, small_model, small_screen, textured_images

WEIGHTS = torch.tensor([0.1, -0.2, 0.3, -0.2, 0.1, 0.2, -0.3, 0.4, 0.4, 0.2, -0.6])


@pytest.fixture(scope="module")
def model() -> PRN:
    """With a memory of 40 patches of other images, and a screen."""
    made = small_model(small_config(score="learned", memory=40, screen_width=8))
    images = made.normalize(torch.from_numpy(textured_images(6, 1, 9)))
    assert made.score is not None
    assert made.score.memory is not None
    made.score.memory.patches.copy_(remember(made.backbone, [images], 6, 40))
    assert made.score.screen is not None
    made.score.screen.load_state_dict(small_screen(made).state_dict())
    made.score.set_weights(WEIGHTS)
    return made


def test_the_points_kept_cover_the_others() -> None:
    clusters = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = (clusters[:, None] + 0.1 * torch.randn(3, 20, 2, generator=torch.Generator().manual_seed(0))).flatten(0, 1)
    chosen = farthest_points(points, 3)
    assert sorted((chosen // 20).tolist()) == [0, 1, 2]
    # Farthest points bound the distance of every point to the nearest kept one: it falls as more are kept.
    kept = [points[farthest_points(points, count)] for count in (3, 10, 60)]
    covered = [(points[:, None] - one).square().sum(2).amin(1).max() for one in kept]
    assert covered[0] > covered[1] > covered[2] == 0


def test_a_memory_holds_the_patches_of_its_images_and_measures_to_the_nearest(model: PRN) -> None:
    images = model.normalize(torch.from_numpy(textured_images(2, 1, 4)))
    _, fine, coarse, _ = model.backbone(images)
    patches = patches_of(fine, coarse)
    assert patches.shape == (2, 8, 8, 152)
    # The middle of the stride-8 channels is a plain mean of 3 x 3.
    torch.testing.assert_close(patches[1, 3, 5, :40], fine[1, :, 2:5, 4:7].mean((1, 2)))
    memory = PatchMemory(64, model.config)
    memory.patches = patches[0].flatten(0, 1)
    found = memory(fine, coarse)
    assert found[0].max() < 0.01 * found[1].mean()
    expected = (patches[1].flatten(0, 1)[:, None] - memory.patches).square().sum(2).sqrt().amin(1)
    torch.testing.assert_close(found[1].flatten(), expected, rtol=1e-3, atol=1e-3)
    again = [remember(model.backbone, [images], 2, 20, seed) for seed in (3, 3, 4)]
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])
    assert [memory_size(wanted, 2, model.config) for wanted in (20, 1000)] == [20, 128]


def test_the_score_is_the_weighted_sum_that_it_says(model: PRN) -> None:
    images = torch.from_numpy(textured_images(3, 1, 5))
    assert model.score is not None
    with torch.no_grad():
        scores, maps = model.detect(images)
        features = model.features(model.normalize(images))
        residuals = model.residuals(features[:3])
        logits = model.logits_of_features(features)
        statistics = model.score.statistics(logits, features[:3], residuals)
        assert len(model.score.names) == statistics.shape[1] == 10
        torch.testing.assert_close(statistics[:, :5], map_statistics(logits))
        screened = model.score.screen(features[:3], residuals)
        torch.testing.assert_close(statistics[:, 5], screened.flatten(1).topk(2).values.mean(1))
        torch.testing.assert_close(statistics[:, 6], screened.mean((1, 2, 3)))
        torch.testing.assert_close(statistics[:, 7], screened.flatten(1).std(1, correction=0))
        torch.testing.assert_close(scores, torch.sigmoid(statistics @ WEIGHTS[:-1] + WEIGHTS[-1]))
        torch.testing.assert_close(maps, torch.sigmoid(logits[:, 0]))


def test_without_weights_the_published_pixels_decide() -> None:
    score = LearnedScore(small_config(score="learned"))
    logits = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    mean = logits.flatten(1).topk(100).values.mean(1)
    torch.testing.assert_close(score(logits, [], [], OPTIMIZED), torch.sigmoid(mean))
    assert score.names == ("largest 1", "largest 10", "largest 100", "mean", "spread")


@pytest.mark.parametrize(
    ("ops", "dtype"),
    [
        pytest.param(OPTIMIZED, torch.float64, id="optimized-fp64"),
        pytest.param(OPTIMIZED, torch.float32, id="optimized-fp32"),
        pytest.param(FUSED, torch.float32, id="fused-fp32"),
        pytest.param(FUSED, torch.float16, id="fused-fp16"),
    ],
)
def test_engines_score_as_the_model_does(model: PRN, ops: object, dtype: torch.dtype) -> None:
    images = torch.from_numpy(textured_images(2, 1, 3))
    double = copy.deepcopy(model).double()
    with torch.no_grad():
        expected, _ = double.detect(images)
        scores, _ = EngineGraph(double if dtype == torch.float64 else model, ops, dtype)(images)
    assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.02}[dtype]
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=tolerance)


@pytest.mark.long
@needs.library("onnxruntime", "tensorrt")
@needs.library("openvino", "openvino")
def test_the_exported_graph_scores_as_the_model_does(model: PRN, tmp_path: Path) -> None:
    import onnxruntime
    import openvino

    from prn_fast.build.export import export_onnx

    images = textured_images(3, 1, 7)
    graph = export_onnx(model, tmp_path / "graph.onnx")
    session = onnxruntime.InferenceSession(graph)
    compiled = openvino.Core().compile_model(tmp_path / "graph.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({"images": images})
    with torch.no_grad():
        expected = model.detect(torch.from_numpy(images))
    for scores, maps in (session.run(["scores", "maps"], {"images": images}), (found["scores"], found["maps"])):
        torch.testing.assert_close(torch.from_numpy(scores), expected[0], rtol=0, atol=1e-4)
        torch.testing.assert_close(torch.from_numpy(maps), expected[1], rtol=0, atol=1e-4)


def test_in_two_stages_the_score_is_the_same(model: PRN) -> None:
    images = torch.from_numpy(textured_images(2, 1, 3))
    graph = EngineGraph(model, OPTIMIZED)
    first, second = two_stages(graph, small_screen(model, seed=1))
    with torch.no_grad():
        torch.testing.assert_close(second(*first(images)[2:]), graph(images))


def test_training_a_network_leaves_the_screen_of_its_score_alone(model: PRN) -> None:
    assert model.score is not None
    assert not [name for name, one in model.score.named_parameters() if one.requires_grad]
    assert len(list(model.score.named_parameters())) > 0


def test_a_screen_belongs_to_a_learned_score() -> None:
    with pytest.raises(ConfigError, match="is read by a learned score"):
        small_config(screen_width=8)
