"""The learned map, in the network and in what engines run; with the learned score, which is taken of it."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from prn_fast.engine.tensor_names import SCREEN_OUTPUT_NAMES
from prn_fast.errors import ConfigError
from prn_fast.kernels import FUSED, OPTIMIZED
from prn_fast.kernels.anomaly_score.reference import map_statistics
from prn_fast.model import engine_graph
from prn_fast.model.config import PRNConfig
from prn_fast.model.engine_graph import EngineGraph, ScreenGraph, screen_distances, screen_images, two_stages
from prn_fast.model.learned_map import LearnedMap
from prn_fast.model.prn import PRN
from prn_fast.model.screen import SCREEN_PATCHES, screen_score
from tests import needs
from tests.small_package import learned_model, small_config, small_model, small_screen, textured_images


@pytest.fixture(scope="module")
def model() -> PRN:
    return learned_model()


def test_the_map_is_the_weighted_sum_that_it_says(model: PRN) -> None:
    images = torch.from_numpy(textured_images(3, 1, 5))
    learned_map = model.learned_map
    assert learned_map is not None
    assert learned_map.names == ("network", "memory", "screen")
    with torch.no_grad():
        scores, maps = model.detect(images)
        logits, features, residuals = model.examine(model.normalize(images))
        distances = learned_map.memory(features[1], features[2])  # type: ignore[misc]
        screened = learned_map.screen(features, residuals)  # type: ignore[misc]
        views = learned_map.views(features, residuals)
    torch.testing.assert_close(views[:, 1:], screened)
    # The middle is a plain mean of 3 x 3, a corner one of 2 x 2.
    torch.testing.assert_close(views[:, 0, 4, 3], distances[:, 3:6, 2:5].mean((1, 2)))
    torch.testing.assert_close(views[:, 0, 0, 0], distances[:, :2, :2].mean((1, 2)))
    raised = functional.interpolate(views, scale_factor=8, mode="bilinear")
    assert learned_map.weights.tolist() == pytest.approx([0.4, 0.3, 0.5])
    expected = 0.4 * logits[:, 0] + 0.3 * raised[:, 0] + 0.5 * raised[:, 1] - 1.2
    torch.testing.assert_close(maps, torch.sigmoid(expected), rtol=1e-4, atol=1e-5)
    assert model.learned_score is not None
    decision = map_statistics(expected[:, None]) @ model.learned_score.weights + model.learned_score.intercept
    torch.testing.assert_close(scores, torch.sigmoid(decision), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beside", [{"memory": 12}, {"screen_width": 8}, {"memory": 12, "screen_width": 8}], ids=str)
def test_without_weights_the_map_is_the_network_s(beside: dict) -> None:
    made = small_model(small_config(map="learned", **beside))
    images = torch.from_numpy(textured_images(2, 1, 5))
    with torch.no_grad():
        torch.testing.assert_close(made.detect(images)[1], torch.sigmoid(made(made.normalize(images))[:, 0]))


def test_nan_in_the_network_s_map_stays_where_it_is(model: PRN) -> None:
    learned_map = copy.deepcopy(model.learned_map)
    assert learned_map is not None
    learned_map.set_weights(torch.tensor([0.0, 1.0, 1.0, 0.0]))
    logits = torch.zeros(1, 1, 64, 64)
    logits[0, 0, 5, 7] = torch.nan
    found = learned_map.weigh(logits, torch.ones(1, 2, 8, 8))
    assert torch.isnan(found[0, 0, 5, 7])
    assert torch.isnan(found).sum() == 1


@pytest.mark.parametrize(
    ("ops", "dtype"),
    [
        pytest.param(OPTIMIZED, torch.float64, id="optimized-fp64"),
        pytest.param(OPTIMIZED, torch.float32, id="optimized-fp32"),
        pytest.param(FUSED, torch.float32, id="fused-fp32"),
        pytest.param(FUSED, torch.float16, id="fused-fp16"),
    ],
)
def test_engines_give_the_map_and_score_of_the_model(model: PRN, ops: object, dtype: torch.dtype) -> None:
    images = torch.from_numpy(textured_images(2, 1, 3))
    double = copy.deepcopy(model).double()
    with torch.no_grad():
        expected, expected_maps = double.detect(images)
        scores, maps = EngineGraph(double if dtype == torch.float64 else model, ops, dtype)(images)
    assert scores.dtype == maps.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.02}[dtype]
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(maps.double(), expected_maps, rtol=0, atol=tolerance)


@pytest.mark.long
@needs.library("onnxruntime", "tensorrt")
@needs.library("openvino", "openvino")
def test_the_exported_graph_gives_the_map_and_score_of_the_model(model: PRN, tmp_path: Path) -> None:
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


def test_in_two_stages_map_and_score_are_the_same(model: PRN) -> None:
    images = torch.from_numpy(textured_images(2, 1, 3))
    graph = EngineGraph(model, OPTIMIZED)
    first, second = two_stages(graph, small_screen(model, seed=1))
    with torch.no_grad():
        torch.testing.assert_close(second(*first(images)[2:]), graph(images))


@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-5), (torch.float16, 4e-2)], ids=str)
def test_a_screen_reads_the_distances_to_the_networks_memory(model: PRN, dtype, tolerance) -> None:
    images = torch.from_numpy(textured_images(3, 1, 11))
    screen = small_screen(model, seed=2)
    assert model.learned_map is not None
    assert screen.view_weights is not None
    with torch.no_grad():
        features, residuals = model.frozen(images)
        logits = screen(features, residuals) * screen.view_weights[0] + screen.view_weights[2]
        distances = model.learned_map.views(features, residuals)[:, :1]
        expected = screen_score(logits + distances * screen.view_weights[1], screen.level_weights)
        without = screen_score(logits, screen.level_weights)
        graph = EngineGraph(model, OPTIMIZED, dtype)
        for found in (screen_images(model, screen, images), ScreenGraph(graph, screen)(images)):
            for one, wanted in zip(found, expected, strict=True):
                torch.testing.assert_close(one, wanted, rtol=0, atol=tolerance)
    assert (expected[0] - without[0]).abs().max() > 3 * tolerance
    weights = two_stages(graph, screen)[0].screen.view_weights
    torch.testing.assert_close(weights, screen.view_weights, rtol=0, atol=0)


def test_a_screen_compares_with_the_first_patches_of_a_memory(model: PRN, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.from_numpy(textured_images(2, 1, 11))
    memory = model.learned_map.memory  # type: ignore[union-attr]
    with torch.no_grad():
        features, _ = model.frozen(images)
        every = screen_distances(model, features)
        monkeypatch.setattr(engine_graph, "SCREEN_PATCHES", 10)
        first = screen_distances(model, features)
        expected = memory(features[1], features[2], 10)  # type: ignore[misc]
    assert SCREEN_PATCHES >= len(memory.patches) > 10  # type: ignore[union-attr]
    assert every is not None
    assert first is not None
    torch.testing.assert_close(first[:, 0, 3, 3], expected[:, 2:5, 2:5].mean((1, 2)))
    assert (first >= every - 1e-4).all()
    assert (first > every + 1e-2).any()


def test_a_screen_that_reads_a_memory_is_refused_by_a_network_without_one(model: PRN) -> None:
    plain = small_model(small_config())
    with pytest.raises(ConfigError, match="the network has none"):
        screen_images(plain, small_screen(model), torch.from_numpy(textured_images(1, 1, 3)))


@needs.library("openvino", "openvino")
def test_the_exported_screen_computes_the_distances(model: PRN, tmp_path: Path) -> None:
    import openvino

    from prn_fast.build.export import export_screen

    images = textured_images(3, 1, 7)
    screen = small_screen(model, seed=2)
    export_screen(model, screen, tmp_path / "screen.onnx")
    compiled = openvino.Core().compile_model(tmp_path / "screen.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({"images": images})
    with torch.no_grad():
        expected = screen_images(model, screen, torch.from_numpy(images))
    for name, wanted in zip(SCREEN_OUTPUT_NAMES, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(found[name]), wanted, rtol=0, atol=1e-4)


def test_training_a_network_leaves_its_learned_map_alone(model: PRN) -> None:
    assert model.learned_map is not None
    parameters = list(model.learned_map.parameters())
    assert parameters
    assert not any(one.requires_grad for one in parameters)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"screen_width": 8}, "a published map none"),
        ({"memory": 8}, "a published map none"),
        ({"map": "learned"}, "weighs one of them or both"),
        ({"map": "learned", "memory": -1}, "must be 0 or more"),
        ({"map": "other"}, "choose published or learned"),
    ],
    ids=str,
)
def test_a_memory_and_a_screen_belong_to_a_learned_map(change: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        small_config(**change)


def test_packages_from_before_learned_maps_open_and_former_scores_are_named() -> None:
    former = dataclasses.asdict(small_config(score="learned"))
    del former["map"]
    assert PRNConfig.from_dict(former).map == "published"
    with pytest.raises(ConfigError, match=r"development version.*train it again"):
        PRNConfig.from_dict({**former, "screen_width": 40})


def test_weights_are_in_the_order_of_the_names() -> None:
    learned_map = LearnedMap(small_config(map="learned", memory=5))
    learned_map.set_weights(torch.tensor([0.5, 2.0, -1.0]))
    found = learned_map.weigh(torch.ones(1, 1, 16, 16), torch.full((1, 1, 2, 2), 3.0))
    torch.testing.assert_close(found, torch.full((1, 1, 16, 16), 5.5))
