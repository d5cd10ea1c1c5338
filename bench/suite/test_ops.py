"""Speed of each operation in each formulation at the real network's shapes; outputs are checked in the same run."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from prn_fast.kernels import LEAN, PUBLISHED, Ops
from prn_fast.kernels.anomaly_score.reference import anomaly_score
from prn_fast.model.attention import MultiSizeAttentionLayer
from prn_fast.model.config import PRNConfig
from prn_fast.model.fusion import MultiScaleFusion

FORMULATIONS = {"published": PUBLISHED, "lean": LEAN}
BATCH = 1


def measure(benchmark: BenchmarkFixture, device: torch.device, function: Callable[..., Any], *inputs: Any) -> Any:
    """Benchmark a call; the clock stops when a GPU has finished."""

    def call() -> Any:
        out = function(*inputs)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return out

    benchmark.extra_info |= {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    with torch.inference_mode():
        return benchmark(call)


@pytest.fixture(params=FORMULATIONS, ids=str)
def ops(request: pytest.FixtureRequest) -> Ops:
    return FORMULATIONS[request.param]


@pytest.mark.parametrize("scale", [0, 1, 2])
def test_prototype_residual(
    benchmark: BenchmarkFixture, ops: Ops, scale: int, config: PRNConfig, device: torch.device
) -> None:
    shape = (config.channels[scale], config.sides[scale], config.sides[scale])
    features = torch.randn(BATCH, *shape, device=device)
    prototypes = torch.randn(config.prototypes[scale], *shape, device=device)
    found = measure(benchmark, device, ops.prototype_residual, features, prototypes)
    assert torch.allclose(found, PUBLISHED.prototype_residual(features, prototypes), atol=1e-4)


def test_multi_scale_fusion(benchmark: BenchmarkFixture, ops: Ops, config: PRNConfig, device: torch.device) -> None:
    torch.manual_seed(1)
    module = MultiScaleFusion(config.channels, ops).to(device).eval()
    torch.manual_seed(1)
    reference = MultiScaleFusion(config.channels, PUBLISHED).to(device).eval()
    maps = _maps(config, 1, device)
    found = measure(benchmark, device, module, *maps)
    with torch.inference_mode():
        for own, expected in zip(found, reference(*maps), strict=True):
            assert torch.allclose(own, expected, atol=1e-4)


@pytest.mark.parametrize("scale", [0, 1, 2])
def test_multi_size_attention(
    benchmark: BenchmarkFixture, ops: Ops, scale: int, config: PRNConfig, device: torch.device
) -> None:
    width, side = 2 * config.channels[scale], config.sides[scale]
    layers = []
    for formulation in (ops, PUBLISHED):
        torch.manual_seed(1)
        layers.append(MultiSizeAttentionLayer(config, width, side, formulation).to(device).eval())
    maps = torch.randn(BATCH, width, side, side, device=device)
    found = measure(benchmark, device, layers[0], maps)
    with torch.inference_mode():
        assert torch.allclose(found, layers[1](maps), atol=1e-3)


def test_anomaly_score(benchmark: BenchmarkFixture, config: PRNConfig, device: torch.device) -> None:
    logits = torch.randn(BATCH, 1, config.image_size, config.image_size, device=device)
    scores, maps = measure(benchmark, device, anomaly_score, logits)
    assert torch.equal(maps, torch.sigmoid(logits[:, 0]))
    assert scores.shape == (BATCH,)


def _maps(config: PRNConfig, times: int, device: torch.device) -> list[Tensor]:
    return [
        torch.randn(BATCH, times * channels, side, side, device=device)
        for channels, side in zip(config.channels, config.sides, strict=True)
    ]
