import shutil

import numpy as np
import pytest

from prn_fast.engine import Engine, default_engine, open_engine
from prn_fast.errors import EngineError, PackageError
from prn_fast.package import MANIFEST, Package, describe, serialize_manifest
from tests.small_package import SIDE, textured_images


@pytest.mark.parametrize("name", ["eager", "optimized"])
def test_colour_packages_take_colour(tmp_path, name):
    from tests.small_package import write_package

    with open_engine(write_package(tmp_path / "colour.prn", channels=3), name) as engine:
        assert engine.infer(textured_images(2, 3, 0)).maps.shape == (2, SIDE, SIDE)


def test_an_output_that_is_not_a_number_never_passes():
    class Broken(Engine):
        def run(self, images):
            maps = np.zeros((len(images), SIDE, SIDE), np.float32)
            maps[-1, 3, 3] = np.nan
            return np.zeros(len(images), np.float32), maps

    with pytest.raises(EngineError, match="NaN"):
        Broken("broken", SIDE, 1, 2).infer(np.zeros((3, SIDE, SIDE, 1), np.uint8))


def test_an_answer_of_another_number_is_never_spread_over_the_images():
    class One(Engine):
        def run(self, images):
            return np.zeros(1, np.float32), np.zeros((1, SIDE, SIDE), np.float32)

    images = textured_images(3, 1, 0)
    with One("one", SIDE, 1, 4) as engine:
        engine.infer(images[:1])
        with pytest.raises(EngineError, match=r"one: gives scores \(1,\) and maps \(1, 64, 64\) for 3 images"):
            engine.infer(images)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorflow", "unknown backend 'tensorflow'"),
        ("openvino:int3", "no precision 'int3'"),
        ("openvino:bf16", "prn-build-engine .* --backend openvino --precision bf16"),
        ("eager:fp16", "no precision 'fp16'"),
        ("optimized:fp16", "no precision 'fp16'"),
        (3, "named by a string"),
    ],
)
def test_engines_that_are_not_there_say_what_to_do(built_package_path, name, message):
    with pytest.raises(EngineError, match=message):
        open_engine(built_package_path, name)


def test_the_former_name_of_an_engine_still_opens_it(package):
    with open_engine(package, "lean") as engine:
        assert engine.name == "optimized"


def test_a_missing_library_names_the_extra(built_package_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(EngineError, match=r"pip install 'prn-fast\[openvino\]'"):
        open_engine(built_package_path, "openvino:fp32")


def test_an_altered_engine_is_not_loaded(built_package_path, tmp_path):
    copied = tmp_path / "copied.prn"
    shutil.copytree(built_package_path, copied)
    package = Package.open(copied)
    graph = package.engine_path("openvino:fp32") / "model.bin"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(PackageError, match=r"model\.bin"):
        open_engine(package, "openvino:fp32")


def replaced(old, new):
    def change(content):
        assert old in content
        return content.replace(old, new, 1)

    return change


DAMAGES = {
    "text cut": ("model.xml", lambda content: content[: len(content) // 2]),
    "text empty": ("model.xml", lambda content: b""),
    "no text": ("model.xml", lambda content: b"\x00\xff" * 500),
    "weights cut": ("model.bin", lambda content: content[: len(content) // 2]),
    "weights empty": ("model.bin", lambda content: b""),
    "unknown operation": ("model.xml", replaced(b'type="Convolution"', b'type="Consolation"')),
    "shapes that do not fit": ("model.xml", replaced(b'strides="2, 2"', b'strides="2, 7"')),
    "no number": ("model.xml", replaced(b'strides="2, 2"', b'strides="2, x"')),
    "another input": ("model.xml", replaced(b'shape="?,64,64,1"', b'shape="?,64,64,3"')),
    "fixed number of images": ("model.xml", replaced(b'shape="?,64,64,1"', b'shape="3,64,64,1"')),
    "another name": ("model.xml", lambda content: content.replace(b'names="scores"', b'names="stores"')),
    "arithmetic left out": (
        "model.xml",
        lambda content: content.replace(b"<prn_fast>", b"<x>").replace(b"</prn_fast>", b"</x>"),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_graph_with_new_hashes_is_one_line(built_package_path, tmp_path, damage):
    """Nothing is left that tells of the damage but the graph itself."""
    copied = Package.open(shutil.copytree(built_package_path, tmp_path / "copied.prn"))
    file, change = DAMAGES[damage]
    path = copied.engine_path("openvino:fp32") / file
    before = path.read_bytes()
    path.write_bytes(change(before))
    assert path.read_bytes() != before
    copied.manifest["files"][path.relative_to(copied.path).as_posix()] = describe(path)
    (copied.path / MANIFEST).write_bytes(serialize_manifest(copied.manifest))
    with (
        pytest.raises(EngineError, match=r"engines/openvino-fp32\.\w+/model\.xml: ") as caught,
        open_engine(copied.path, "openvino:fp32") as engine,
    ):
        engine.infer(textured_images(1, 1, 0))
    assert "\n" not in str(caught.value)
    assert "again" in str(caught.value)


def test_the_best_engine_is_the_default(built_package_path, package):
    assert default_engine(Package.open(built_package_path)) == "openvino:fp32"
    assert default_engine(package) == "optimized"
    with open_engine(package) as engine:
        assert engine.name == "optimized"


def test_opening_an_engine_module_does_not_import_torch():
    import subprocess
    import sys

    code = "import sys, prn_fast.engine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
