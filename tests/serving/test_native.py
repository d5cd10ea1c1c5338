"""Graphs for the server's own backends: what is exported, and what it answers where such a backend is not at hand."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from prn_fast.build.export import serialise
from prn_fast.build.served import ServedGraph
from prn_fast.cli.serve import main
from prn_fast.engine import open_engine
from prn_fast.engine.served import MAPS, RAW_SCORES, SCORES, VERDICTS
from prn_fast.engine.tensorrt_file import DESCRIPTION_FILE, ENGINE_FILE, Description
from prn_fast.errors import ConfigError
from prn_fast.package import Package
from prn_fast.serving.repository import CONFIG, package_folder
from prn_fast.serving.tritonserver import Ports, TritonServer
from tests import needs
from tests.serving.conftest import START_SECONDS
from tests.small_package import SIDE, small_config, textured_images, write_package

# Graphs are exported anew, with scores and verdicts in them.
pytestmark = pytest.mark.long
OUTPUTS = (SCORES, RAW_SCORES, VERDICTS, MAPS)
# A model of the Python backend that does what the ONNX Runtime backend does.
STAND_IN = """
import onnxruntime, pathlib, torch
import triton_python_backend_utils as backend

class TritonPythonModel:
    def initialize(self, args):
        folder = pathlib.Path(args["model_repository"]) / args["model_version"]
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])

    def execute(self, requests):
        responses = []
        for request in requests:
            images = torch.from_dlpack(backend.get_input_tensor_by_name(request, "images")).numpy()
            names = [one.name for one in self.session.get_outputs()]
            found = self.session.run(names, {"images": images})
            tensors = [backend.Tensor.from_dlpack(name, torch.from_numpy(one)) for name, one in zip(names, found)]
            responses.append(backend.InferenceResponse(tensors))
        return responses
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Package, Path]:
    """A package with a screen, and a repository with its ONNX graph; do not change them."""
    folder = tmp_path_factory.mktemp("native")
    package = write_package(folder / "tiles.prn", screen=True)
    options = ["--native", "onnx", "--batch", "16", "--queue", "10", "--delay-ms", "1"]
    assert main(["export", str(package.path), str(folder / "models"), *options]) == 0
    return package, folder / "models"


def config_of(model: Path):
    """A configuration as the server's own definition of it reads it."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse((model / CONFIG).read_text(), model_config_pb2.ModelConfig())


def with_tensorrt(
    package: Package, folder: Path, precision: str = "fp16", content: bytes = b"a serialised engine", least: int = 1
) -> Package:
    """The package with an engine that no library has built; the server alone would read it."""
    folder.mkdir()
    (folder / ENGINE_FILE).write_bytes(content)
    bindings = ({"name": "images", "type": "UInt8", "dimensions": [-1, SIDE, SIDE, 1]},)
    digest = hashlib.sha256(content).hexdigest()
    Description("tensorrt", "10.0", precision, ("8.9",), (least, 8, 12), digest, bindings).write(folder)
    assert (folder / DESCRIPTION_FILE).is_file()
    package.add_engine(f"tensorrt:{precision}", folder, {"backend": "tensorrt", "precision": precision})
    return Package.open(package.path)


def test_the_graph_gives_scores_verdicts_and_maps_of_the_package(exported) -> None:
    package, models = exported
    version = models / "tiles" / "1"
    assert sorted(entry.name for entry in version.iterdir()) == ["model.onnx", "tiles.prn"]
    assert Package.open(package_folder(version)).digest == package.digest
    images = textured_images(33, 1, 4)
    with open_engine(package, "optimized", early_exit=False) as engine:
        local = engine.infer(images)
    assert 0 < local.defective.sum() < len(images)
    session = onnxruntime.InferenceSession(str(version / "model.onnx"), providers=["CPUExecutionProvider"])
    scores, raw_scores, verdicts, maps = session.run(list(OUTPUTS), {"images": images})
    assert verdicts.dtype == np.uint8
    np.testing.assert_array_equal(verdicts[:, 0].astype(bool), local.defective)
    np.testing.assert_allclose(scores[:, 0], local.scores, atol=1e-4)
    np.testing.assert_array_equal(scores >= 0.5, verdicts)
    np.testing.assert_allclose(raw_scores[:, 0], local.raw_scores, atol=1e-4)
    np.testing.assert_allclose(maps, local.maps, atol=1e-3)


class Brightness(torch.nn.Module):
    """Stands in for a network: the raw score of an image is its lightest pixel."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = images[..., 0].float() / 255
        return maps.amax((1, 2)), maps


def test_verdicts_are_decided_in_float64() -> None:
    """As everywhere: no rounding of the threshold turns one over."""
    images = np.full((1, SIDE, SIDE, 1), 150, np.uint8)
    raw = Brightness()(torch.from_numpy(images))[0].double().item()
    for threshold, verdict in ((raw, 1), (np.nextafter(raw, 1.0), 0), (np.nextafter(raw, 0.0), 1)):
        content = serialise(ServedGraph(Brightness(), float(threshold)), small_config(), OUTPUTS)
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        scores, raw_scores, verdicts, _ = session.run(list(OUTPUTS), {"images": images})
        assert raw_scores[0, 0] == raw
        assert verdicts.tolist() == [[verdict]]
        assert (scores[0, 0] >= 0.5) == verdict
        assert scores[0, 0] == pytest.approx(0.5, abs=1e-6)


@needs.library("tritonclient", "serve")
def test_the_configuration_is_one_that_the_server_knows(exported) -> None:
    package, models = exported
    config = config_of(models / "tiles")
    assert (config.backend, config.max_batch_size) == ("onnxruntime", 16)
    assert [one.name for one in config.output] == list(OUTPUTS)
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 10
    assert config.dynamic_batching.priority_levels == 2
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    assert [one.batch_size for one in config.model_warmup] == [1, 16]
    assert float(config.parameters["threshold"].string_value) == package.calibration("threshold")
    assert config.parameters["digest"].string_value == package.digest


@needs.library("tritonclient", "serve")
def test_a_tensorrt_engine_is_exported_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = with_tensorrt(write_package(tmp_path / "tiles.prn"), tmp_path / "built")
    models = tmp_path / "models"
    assert main(["export", str(package.path), str(models), "--native", "tensorrt:fp16"]) == 0
    assert "next: tritonserver --model-repository=" in capsys.readouterr().out
    assert (models / "tiles" / "1" / "model.plan").read_bytes() == b"a serialised engine"
    config = config_of(models / "tiles")
    # No more than the engine was built for.
    assert (config.backend, config.max_batch_size) == ("tensorrt", 12)
    assert [(one.name, list(one.dims), one.HasField("reshape")) for one in config.output] == [
        ("scores", [1], True),
        ("maps", [SIDE, SIDE], False),
    ]
    assert config.instance_group[0].kind == config.instance_group[0].KIND_GPU
    for options, message in (
        (["--native", "openvino:int8"], "the server has no backend for it; choose onnx or tensorrt:PRECISION"),
        (["--native", "tensorrt:fp32"], "holds no engine tensorrt:fp32; build it on the server's kind of GPU"),
        (["--native", "onnx"], "is served by the backend tensorrt, not onnxruntime; choose another name"),
        ([], "is served by the backend tensorrt, not python; choose another name"),
        (["--native", "onnx", "--engine", "optimized"], "is served without the engine optimized"),
    ):
        assert main(["export", str(package.path), str(models), *options]) == 2
        assert message in capsys.readouterr().err


@needs.tritonserver
def test_a_server_that_nobody_can_watch_is_not_run(exported) -> None:
    with pytest.raises(ConfigError, match="is for the backend onnxruntime, whose answers nobody here can watch"):
        TritonServer(exported[1], Ports(grpc=0, http=0, metrics=0))


@needs.tritonserver
@pytest.mark.long
def test_the_real_server_takes_the_configuration(exported, tmp_path: Path) -> None:
    """With the graph run by ONNX Runtime in the Python backend: the bundled server has no other backend."""
    import tritonclient.grpc as library

    package, models = exported
    shutil.copytree(models, tmp_path / "models")
    model = tmp_path / "models" / "tiles"
    (model / CONFIG).write_text((model / CONFIG).read_text().replace('"onnxruntime"', '"python"', 1))
    (model / "1" / "model.onnx").rename(tmp_path / "model.onnx")
    with TritonServer(tmp_path / "models", Ports(grpc=0, http=0, metrics=0), tmp_path / "log") as server:
        (model / "1" / "model.py").write_text(STAND_IN)
        (tmp_path / "model.onnx").rename(model / "1" / "model.onnx")
        server.start()
        server.wait(START_SECONDS)
        client = library.InferenceServerClient(server.addresses()[0].split("/")[2])
        told = client.get_model_config("tiles", as_json=True)["config"]
        assert told["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 10, json.dumps(told)
        images = textured_images(5, 1, 4)
        asked = library.InferInput("images", images.shape, "UINT8")
        asked.set_data_from_numpy(images)
        result = client.infer("tiles", [asked], priority=1)
        client.close()
    with open_engine(package, "optimized", early_exit=False) as engine:
        local = engine.infer(images)
    np.testing.assert_array_equal(result.as_numpy(VERDICTS)[:, 0].astype(bool), local.defective)
    np.testing.assert_allclose(result.as_numpy(MAPS), local.maps, atol=1e-3)


def test_another_engine_of_the_same_package_is_another_version(tmp_path: Path) -> None:
    package = with_tensorrt(write_package(tmp_path / "tiles.prn"), tmp_path / "half")
    package = with_tensorrt(package, tmp_path / "eight", "int8", b"another engine")
    models = tmp_path / "models"
    for precision, version in (("fp16", "1"), ("int8", "2"), ("int8", "2")):
        assert main(["export", str(package.path), str(models), "--native", f"tensorrt:{precision}"]) == 0
        assert sorted(path.name for path in (models / "tiles").iterdir() if path.is_dir())[-1] == version
    assert (models / "tiles" / "2" / "model.plan").read_bytes() == b"another engine"


def test_an_engine_that_takes_no_single_image_is_not_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = with_tensorrt(write_package(tmp_path / "tiles.prn"), tmp_path / "built", least=4)
    assert main(["export", str(package.path), str(tmp_path / "models"), "--native", "tensorrt:fp16"]) == 2
    assert "build it again with --batch 1:8:12" in capsys.readouterr().err
