"""Speed of the steps around the network: opening, checking, copying, cutting tiles, and one whole call."""

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from prn_fast.bench.scenarios.cameras import Tiling
from prn_fast.bench.scenarios.line_camera import Surface
from prn_fast.engine import open_engine
from prn_fast.package import Package

ENGINES = ("eager", "openvino:fp32")


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("batch", [1, 8])
def test_infer(benchmark: BenchmarkFixture, name: str, batch: int, small_package: Package) -> None:
    images = small_package.validation().images[:batch]
    with open_engine(small_package, "eager") as reference:
        expected = reference.infer(images)
    with open_engine(small_package, name) as engine:
        found = benchmark(engine.infer, images)
    np.testing.assert_allclose(found.maps, expected.maps, atol=2e-3)


@pytest.mark.parametrize("name", ENGINES)
def test_open(benchmark: BenchmarkFixture, name: str, small_package: Package) -> None:
    engine = benchmark(open_engine, small_package, name)
    assert engine.name == name


def test_verify_package(benchmark: BenchmarkFixture, small_package: Package) -> None:
    assert benchmark(Package.open, small_package.path).digest == small_package.digest


def test_check_images(benchmark: BenchmarkFixture, small_package: Package) -> None:
    images = small_package.validation().images[:8]
    with open_engine(small_package, "eager") as engine:
        assert benchmark(engine.check, images) is not None


def test_cut_tiles(benchmark: BenchmarkFixture) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 256, 256, 1), dtype=np.uint8)
    surface = Surface(images, np.zeros(8, int), np.arange(8), Tiling(4096, 256, 32), rng)
    tiles = benchmark(surface.tiles, 0)
    assert np.array_equal(tiles[1], surface.strip[:256, 224:480])
