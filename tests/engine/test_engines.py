import numpy as np
import pytest
import torch

from prn_fast.engine import BACKENDS, Engine, default_engine, open_engine
from prn_fast.errors import EngineError, PackageError
from prn_fast.package import Package
from tests.small_package import SIDE, textured_images

ENGINES = ("eager", "lean", "openvino:fp32")


@pytest.fixture(scope="module", params=ENGINES)
def engine(request, built_package_path):
    with open_engine(built_package_path, request.param, batch=4) as opened:
        yield opened


@pytest.fixture(scope="module")
def expected(built_package_path):
    """Reference maps of eleven images, from the module itself in float64."""
    images = textured_images(11, 1, 77)
    model = Package.open(built_package_path).model().double()
    with torch.no_grad():
        scores, maps = model.detect(torch.from_numpy(images))
    return images, scores.numpy(), maps.numpy()


def test_any_number_of_images_is_split_and_agrees_with_the_module(engine, expected):
    images, scores, maps = expected
    found = engine.infer(images)
    assert found.scores.dtype == found.maps.dtype == np.float32
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)
    np.testing.assert_allclose(found.maps, maps, atol=1e-3)


@pytest.mark.parametrize("count", [1, 3])
def test_parts_give_the_same_as_the_whole(engine, expected, count):
    images, scores, _ = expected
    np.testing.assert_allclose(engine.infer(images[:count]).scores, scores[:count], atol=1e-4)


def test_torch_tensors_and_strided_arrays_are_taken(engine, expected):
    images, scores, _ = expected
    np.testing.assert_allclose(engine.infer(torch.from_numpy(images[:2])).scores, scores[:2], atol=1e-4)
    wide = np.zeros((2, SIDE, 2 * SIDE, 1), np.uint8)
    wide[:, :, ::2] = images[:2]
    np.testing.assert_allclose(engine.infer(wide[:, :, ::2]).scores, scores[:2], atol=1e-4)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, SIDE, SIDE, 1), np.float32), "dtype float32"),
        (np.zeros((SIDE, SIDE, 1), np.uint8), r"takes \(N, 64, 64, 1\)"),
        (np.zeros((1, SIDE, SIDE, 3), np.uint8), r"takes \(N, 64, 64, 1\)"),
        (np.zeros((1, 1, SIDE, SIDE), np.uint8), r"takes \(N, 64, 64, 1\)"),
        (np.zeros((0, SIDE, SIDE, 1), np.uint8), "no images"),
        ([[1, 2], [3, 4]], "numpy array or a torch tensor"),
        (None, "numpy array or a torch tensor"),
    ],
    ids=["dtype", "one-image", "channels", "channel-first", "empty", "list", "none"],
)
def test_bad_input_is_refused_before_anything_runs(engine, images, message):
    with pytest.raises(EngineError, match=message):
        engine.infer(images)


@pytest.mark.parametrize("name", ["eager", "lean"])
def test_colour_packages_take_colour(tmp_path, name):
    from tests.small_package import write_package

    with open_engine(write_package(tmp_path / "colour.prn", channels=3), name) as engine:
        assert engine.infer(textured_images(2, 3, 0)).maps.shape == (2, SIDE, SIDE)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_output_that_is_not_a_number_never_passes(backend):
    class Broken(Engine):
        def run(self, images):
            maps = np.zeros((len(images), SIDE, SIDE), np.float32)
            maps[-1, 3, 3] = np.nan
            return np.zeros(len(images), np.float32), maps

    with pytest.raises(EngineError, match="NaN"):
        Broken(backend, SIDE, 1, 2).infer(np.zeros((3, SIDE, SIDE, 1), np.uint8))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorflow", "unknown backend 'tensorflow'"),
        ("openvino:int3", "no precision 'int3'"),
        ("openvino:bf16", "prn-build-engine .* --backend openvino --precision bf16"),
        ("eager:fp16", "no precision 'fp16'"),
        ("lean:fp16", "no precision 'fp16'"),
    ],
)
def test_engines_that_are_not_there_say_what_to_do(built_package_path, name, message):
    with pytest.raises(EngineError, match=message):
        open_engine(built_package_path, name)


def test_a_missing_library_names_the_extra(built_package_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(EngineError, match=r"pip install 'prn-fast\[openvino\]'"):
        open_engine(built_package_path, "openvino:fp32")


def test_an_altered_engine_is_not_loaded(built_package_path, tmp_path):
    import shutil

    copied = tmp_path / "copied.prn"
    shutil.copytree(built_package_path, copied)
    package = Package.open(copied)
    graph = copied / "engines" / "openvino-fp32" / "model.bin"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(PackageError, match=r"model\.bin"):
        open_engine(package, "openvino:fp32")


def test_the_best_engine_is_the_default(built_package_path, package):
    assert default_engine(Package.open(built_package_path)) == "openvino:fp32"
    assert default_engine(package) == "lean"
    with open_engine(package) as engine:
        assert engine.name == "lean"


def test_opening_an_engine_module_does_not_import_torch():
    import subprocess
    import sys

    code = "import sys, prn_fast.engine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
