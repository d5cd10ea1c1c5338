"""A learned map and score in built engines, each verified against the published formulation by the build itself."""

import pytest
import torch

from prn_fast import open_engine
from prn_fast.build import build_engine
from prn_fast.build.candidate import BuildOptions
from prn_fast.build.profiles import BatchProfile
from prn_fast.package import Package
from tests import needs
from tests.small_package import textured_images, write_package


@pytest.fixture
def package(tmp_path) -> Package:
    return write_package(tmp_path / "learned.prn", screen=True, learned=True)


@pytest.mark.long
@needs.library("openvino", "openvino")
def test_openvino_gives_the_learned_map_and_score(package):
    build_engine(package, "openvino", "fp32")
    images, model = textured_images(8, 1, seed=3), package.model()
    with open_engine(package.path, "openvino:fp32", early_exit=False) as engine:
        found = engine.infer(images)
    with torch.no_grad():
        scores, maps = model.detect(torch.from_numpy(images))
        own = torch.sigmoid(model(model.normalize(torch.from_numpy(images))))[:, 0]
    assert abs(found.raw_scores - scores.numpy()).max() < 1e-3
    assert abs(found.maps - maps.numpy()).max() < 1e-3
    # Not the network's own map.
    assert abs(found.maps - own.numpy()).max() > 0.1


@pytest.mark.long
@needs.library("tensorrt_rtx_bindings", "tensorrt")
def test_tensorrt_builds_an_engine_with_a_learned_map(package):
    build_engine(package, "tensorrt-rtx", "fp16", options=BuildOptions(BatchProfile(1, 2, 4), ("8.9", "12.0")))
    assert "screen" in Package.open(package.path).engines["tensorrt-rtx:fp16"]
