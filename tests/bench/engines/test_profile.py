"""Where the time goes, and what is measured around the network."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from prn_fast.bench.engines.agreement import Agreement
from prn_fast.bench.engines.answers import ask
from prn_fast.bench.engines.baselines import BASELINES, open_any
from prn_fast.bench.engines.network_only import network_milliseconds
from prn_fast.bench.engines.profile import PARTS, part_of_layer, profile
from prn_fast.bench.machine.ceilings import NetworkTraffic, best_seconds, copy_rate, traffic_of
from prn_fast.bench.machine.hardware_state import hardware_state_warnings, read_hardware_state
from prn_fast.engine import open_engine
from prn_fast.engine.parity import TOLERANCES
from prn_fast.package import Package
from tests.small_package import small_config


@pytest.fixture
def torch_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("torch_threads", [1], indirect=True)
def test_the_published_convolutions_are_not_profiled_group_by_group(
    torch_threads: int, built_package_path: str
) -> None:
    package = Package.open(built_package_path)
    with open_engine(package, "eager") as engine:
        found = profile(engine, package, package.validation().images[:2])
    assert (found is None) == (not torch.cuda.is_available())


@pytest.mark.parametrize(
    ("name", "torch_threads"),
    [
        # The published convolutions, group by group.
        pytest.param("eager", 2, marks=pytest.mark.long),
        pytest.param("optimized", 2, marks=pytest.mark.long),
        ("optimized", 1),
        ("openvino:fp32", 2),
    ],
    indirect=["torch_threads"],
)
def test_every_part_of_the_network_takes_time(name: str, torch_threads: int, built_package_path: str) -> None:
    package = Package.open(built_package_path)
    with open_engine(package, name) as engine:
        found = profile(engine, package, package.validation().images[:2])
    assert found is not None
    assert tuple(found.parts_ms) == PARTS
    for part in ("backbone", "residual", "fusion", "attention", "decoder"):
        assert found.parts_ms[part] > 0, part
    assert found.total_ms == pytest.approx(sum(found.parts_ms.values()))
    assert found.rows == sorted(found.rows, key=lambda row: -row.ms)


def test_profiling_leaves_the_engine_as_it_was(package: Package) -> None:
    images = package.validation().images[:4]
    with open_engine(package, "eager") as engine:
        before = engine.infer(images)
        profile(engine, package, images)
        after = engine.infer(images)
        assert "normalize" not in vars(engine.model)
        assert not any(module._forward_hooks for module in engine.model.modules())
    assert np.array_equal(before.maps, after.maps)


@pytest.mark.parametrize(
    ("layer", "part"),
    [("/model/backbone/conv1/Conv", "backbone"), ("model.fusion2.up", "fusion"), ("TopK_3", "scoring")],
)
def test_layers_of_other_backends_are_sorted_by_their_names(layer: str, part: str) -> None:
    assert part_of_layer(layer) == part


def test_a_backend_that_profiles_itself_is_asked(package: Package) -> None:
    class Profiling:
        name = "tensorrt-rtx:fp16"

        def profile(self, images: np.ndarray) -> list[tuple[str, str, float]]:
            return [("model.decoder.out", "convolution", 0.2), ("model.backbone.conv1", "convolution", 0.3)]

    found = profile(Profiling(), package, package.validation().images[:1])
    assert found is not None
    assert (found.source, found.total_ms) == ("tensorrt-rtx", 0.5)
    assert [row.part for row in found.rows] == ["backbone", "decoder"]


def test_the_network_alone_is_timed_where_it_can_be(built_package_path: str) -> None:
    package = Package.open(built_package_path)
    images = package.validation().images[:1]
    with open_engine(package, "eager") as eager, open_engine(package, "openvino:fp32") as graph:
        assert network_milliseconds(eager, images)["warm"] > 0
        assert network_milliseconds(graph, images) is None


def test_half_precision_eager_agrees_within_its_tolerance(package: Package) -> None:
    validation = package.validation()
    images, labels = validation.images[::3], validation.labels[::3]
    with open_engine(package, "eager") as reference, open_any(package, "eager:bf16", 8) as half:
        found = Agreement.of(ask(half, images), ask(reference, images), labels)
    assert found.faults(TOLERANCES["bf16"]) == []
    assert found.parity.max_map > 0


@pytest.mark.long
def test_plain_exports_compute_what_eager_computes(package: Package) -> None:
    images = package.validation().images[:3]
    with open_engine(package, "eager") as reference:
        expected = reference.infer(images)
    for name in ("onnxruntime:fp32", "openvino-plain:fp32"):
        with open_any(package, name, 8) as engine:
            found = engine.infer(images)
            assert engine.name == name
        np.testing.assert_allclose(found.maps, expected.maps, atol=2e-3)
    assert set(BASELINES) >= {"eager:bf16", "compile:fp32", "compile-max:fp32"}


def test_traffic_is_that_of_operands() -> None:
    traffic = traffic_of(small_config())
    weights = sum(value.numel() for value in _weights(small_config()))
    # Weights of convolutions are read once a call, whatever the batch; biases and prototypes are beside them.
    assert 0.8 * weights < traffic.values_per_call < 1.2 * weights
    assert traffic.values_per_image > 0
    assert NetworkTraffic(10, 4).bytes_per_image(2, "fp32") == 4 * (10 + 4 / 2)
    assert NetworkTraffic(10, 4).bytes_per_image(4, "int8") == 11.0


def _weights(config: object) -> list:
    from prn_fast.model.prn import PRN

    return [value for value in PRN(config).parameters() if value.ndim == 4]


def test_rates_are_positive() -> None:
    assert copy_rate(0.01) > 1e8
    assert best_seconds(lambda: None, 0.0) >= 0


def test_conditions_are_read_and_changes_warn() -> None:
    now = read_hardware_state()
    assert set(now) == {"cpu_mhz", "cpu_celsius", "cpu_throttled", "load_average", "gpus"}
    gpu = {"name": "H100", "sm_mhz": 1900, "memory_mhz": 2600, "celsius": 60, "watts": 300.0, "throttled": []}
    start = now | {"cpu_mhz": 3000.0, "cpu_throttled": 1, "gpus": [gpu]}
    hot = gpu | {"sm_mhz": 1200, "throttled": ["temperature"]}
    end = now | {"cpu_mhz": 2000.0, "cpu_throttled": 5, "gpus": [hot]}
    assert hardware_state_warnings(start, start) == []
    warnings = "; ".join(hardware_state_warnings(start, end))
    for part in ("3000 to 2000 MHz", "throttled because of its temperature", "1900 to 1200 MHz", "H100 is throttled"):
        assert part in warnings
