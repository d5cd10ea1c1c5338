"""TensorRT-RTX engines of a package with a screen: two real ones, built here, and the runner over stand-ins of both."""

import json
import shutil

import numpy as np
import pytest
from onnx import numpy_helper

from prn_fast.build import build_engine
from prn_fast.build.candidate import GRAPH_RUN, BuildOptions, ScreenCandidate
from prn_fast.build.profiles import BatchProfile
from prn_fast.build.tensorrt import SCREEN_ATTEMPTS, Subject, Target
from prn_fast.build.tensorrt.compile import compile_graph
from prn_fast.build.tensorrt.report import convolution_types, parse_listing
from prn_fast.engine.early_exit import moved
from prn_fast.engine.optimized import OptimizedEngine
from prn_fast.engine.tensorrt import NETWORK, SCREEN
from prn_fast.engine.tensorrt_flavours import FLAVOURS
from prn_fast.errors import EngineError
from prn_fast.package import Package
from tests.engine.host_gpu import open_on_host
from tests.engine.test_tensorrt import OnDevice
from tests.small_package import SIDE, write_package

# Real engines are built, of network and screen.
pytestmark = pytest.mark.long

NAME = "tensorrt-rtx:fp16"
RTX = FLAVOURS["tensorrt-rtx"]
OPTIONS = BuildOptions(BatchProfile(1, 2, 4), ("8.9",))


@pytest.fixture(scope="module")
def screened(tmp_path_factory):
    package = write_package(tmp_path_factory.mktemp("screened") / "small.prn", screen=True)
    build_engine(package, "tensorrt-rtx", "fp16", options=OPTIONS)
    return package


@pytest.fixture
def copied(screened, tmp_path):
    package = Package.open(shutil.copytree(screened.path, tmp_path / "copied.prn"))
    return package, package.engine_folder(NAME)


# -- built -------------------------------------------------------------------------------------------------------------


def test_the_screen_is_built_beside_the_network_and_its_graph_verified(screened):
    entry, folder = screened.engines[NAME], screened.engine_folder(NAME)
    assert entry["verified"] == GRAPH_RUN
    assert entry["screen"] == screened.screen_digest
    assert entry["early_exit"]["lost"] <= entry["early_exit"]["float_lost"]
    assert abs(entry["early_exit"]["exit_share"] - entry["early_exit"]["float_exit_share"]) <= 0.05
    assert entry["early_exit"]["engine_bytes"] < entry["engine_bytes"]
    files = {"build.log", "engine.json", "layers.json", "model.engine"}
    assert {file.name for file in (folder / "screen").iterdir()} == files
    description = json.loads((folder / "screen" / "engine.json").read_text())
    shapes = {one["name"]: (one["type"], one["dimensions"][1:]) for one in description["bindings"]}
    assert shapes == {
        "images": ("UInt8", [SIDE, SIDE, 1]),
        "screen_scores": ("Float", []),
        "screen_maps": ("Float", [SIDE // 8, SIDE // 8]),
    }


def subject(package, precision, folder):
    target = Target(RTX, RTX.load(), precision, OPTIONS.batch, ("12.0",), lambda *_: None, folder / "timing.cache")
    return Subject(package, target, folder, package.screen())


def test_in_eight_bits_the_backbone_is_quantised_and_roots_are_not(screened, tmp_path):
    attempt = SCREEN_ATTEMPTS["int8"][0]
    assert "model.backbone" in attempt.quantized
    typed = subject(screened, "int8", tmp_path).typed(attempt).model
    # The published backbone has channels whose weights are all but zero; float16 would make a zero of their scale.
    fed = {name for node in typed.graph.node if "QuantizeLinear" in node.op_type for name in node.input[1:2]}
    scales = [numpy_helper.to_array(one) for one in typed.graph.initializer if one.name in fed]
    assert len(scales) > 40
    assert all((scale > 0).all() for scale in scales)
    compiled = compile_graph(RTX, typed.SerializeToString(), BatchProfile(1, 1, 1), ("12.0",))
    layers, _ = parse_listing(compiled.listing)
    assert convolution_types(layers)["Int8"] > 20
    types = {one.name: one.type.tensor_type.elem_type for one in typed.graph.value_info}
    roots = [node for node in typed.graph.node if node.op_type == "Sqrt"]
    assert len(roots) == 4  # of three residuals, and of the spread of the logits
    assert {types.get(root.input[0], 1) for root in roots} == {1}  # float32


def test_a_screen_that_does_not_pass_is_left_out(screened, tmp_path, monkeypatch):
    """The planted fault of a head that returns a constant: the whole network is verified, and nothing leaves."""
    from prn_fast.build import tensorrt

    package = Package.open(shutil.copytree(screened.path, tmp_path / "constant.prn"))

    class Constant(OptimizedEngine):
        def screen(self, images):
            scores, maps = super().screen(images)
            return np.full_like(scores, 1.0), np.full_like(maps, 1.0)

    def screens(package, target, folder, runs_here):
        (folder / "screen").mkdir(exist_ok=True)
        yield ScreenCandidate({}, lambda: Constant(package, screen_only=True), lambda: pytest.fail("it was kept"))

    monkeypatch.setattr(tensorrt, "screens", screens)
    monkeypatch.setattr(Target, "build_into", lambda self, folder, typed: (folder / "model.engine").touch() or {})
    said = []
    entry = build_engine(package, "tensorrt-rtx", "fp16", progress=said.append, options=OPTIONS)
    assert "screen" not in entry
    assert any("flagged defects would leave" in line for line in said)
    assert any("will run all images whole" in line for line in said)
    assert not (package.engine_folder(NAME) / "screen").exists()


# -- run, over stand-ins for both engines: image i is grey of value i --------------------------------------------------


def grey(values):
    return np.repeat(np.uint8(values), SIDE * SIDE).reshape(-1, SIDE, SIDE, 1)


MIXES = {
    "all leave": [0, 1, 2, 3, 4, 5, 6],
    "none leaves": [255, 254, 253, 252, 251],
    "one of many stays": [1, 2, 3, 4, 250, 5, 6, 7, 8, 9, 10],
    "mixed": [250, 3, 251, 252, 4, 5, 253, 254, 6],
}


@pytest.mark.parametrize("place", ["host", "device"])
@pytest.mark.parametrize("smallest", [1, 2])
@pytest.mark.parametrize("mix", MIXES)
def test_each_image_gets_its_own_answer_wherever_it_lies(screened, mix, smallest, place):
    values = np.array(MIXES[mix])
    images = grey(values)
    with open_on_host(screened.path, smallest, early_exit=True) as engine:
        cut = engine.screening.cut
        assert 10 / 255 < cut < 250 / 255, "the values of the mixes lie on both sides"
        found = engine.infer(OnDevice(images) if place == "device" else images)
        leaves = values / 255 < cut
        np.testing.assert_array_equal(found.exited, leaves)
        expected = np.where(leaves, moved(values / 255, cut, engine.pixel_threshold), values / 255)
        np.testing.assert_allclose(found.maps[:, 5, 5], expected, atol=1e-5)
        assert not found.defective[leaves].any()
        whole = len(engine._programs[NETWORK].context.read)
        assert whole == -(-int((~leaves).sum()) // engine.batch)


def test_the_wrong_rows_gathered_on_the_gpu_would_show(screened, monkeypatch):
    """The planted fault of an order mixed up in the gathering."""
    from prn_fast.engine import tensorrt

    of = tensorrt.DeviceRows.of
    monkeypatch.setattr(tensorrt.DeviceRows, "of", lambda images, rows: of(images, rows[::-1]))
    values = np.array(MIXES["mixed"])
    with open_on_host(screened.path, early_exit=True) as engine:
        found = engine.infer(OnDevice(grey(values)))
    stay = ~found.exited
    assert np.abs(found.maps[stay, 5, 5] - values[stay] / 255).max() > 0.005


def test_a_shared_engine_leaves_early_too_and_the_screen_runs_alone(screened):
    values = np.array(MIXES["mixed"])
    with open_on_host(screened.path, early_exit=True) as engine:
        other = engine.share()
        np.testing.assert_array_equal(other.infer(grey(values)).maps, engine.infer(grey(values)).maps)
        assert other._programs[SCREEN].context is not engine._programs[SCREEN].context
        other.close()
    with open_on_host(screened.path, screen_only=True) as alone:
        assert set(alone._programs) == {SCREEN}
        np.testing.assert_array_equal(alone.infer(grey(values)).exited, values / 255 < alone.screening.cut)
    with open_on_host(screened.path) as whole:
        assert set(whole._programs) == {NETWORK}
        assert not whole.infer(grey(values)).exited.any()


def test_an_engine_built_without_the_screen_runs_whole_and_not_alone(copied):
    package, folder = copied
    shutil.rmtree(folder / "screen")
    with open_on_host(package, folder=folder, early_exit=True) as engine:
        assert engine.screening is None
    with pytest.raises(EngineError, match=r"tensorrt-rtx:fp16 was built without the screen; build it again"):
        open_on_host(package, folder=folder, screen_only=True)


def test_the_screens_files_are_checked_as_the_networks_are(copied):
    package, folder = copied
    plan = folder / "screen" / "model.engine"
    plan.write_bytes(plan.read_bytes()[:-1])
    with pytest.raises(EngineError, match=r"screen/model\.engine: is truncated or altered"):
        open_on_host(package, folder=folder, early_exit=True)
