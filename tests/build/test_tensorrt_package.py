"""From a package to a TensorRT-RTX engine in it, by the builder and by the command."""

import hashlib
import json

import pytest

from prn_fast.build import build_engine
from prn_fast.build.candidate import GRAPH_RUN, BuildOptions
from prn_fast.build.profiles import BatchProfile
from prn_fast.build.tensorrt import ATTEMPTS, MEASURED_IMAGES
from prn_fast.cli import bench
from prn_fast.cli import build_engine as command
from prn_fast.engine import BACKENDS
from prn_fast.engine.parity import TOLERANCES
from prn_fast.errors import EngineError
from prn_fast.package import Package

NAME = "tensorrt-rtx:fp16"


def test_the_package_says_what_was_built_and_what_was_not_run(rtx_package_path):
    package = Package.open(rtx_package_path)
    entry = package.engines[NAME]
    assert entry["verified"] == GRAPH_RUN == "graph verified, engine not run"
    assert entry["verification"]["faults"] == []
    assert entry["verification"]["parity"]["images"] == 24
    assert entry["capabilities"] == ["8.9", "12.0"]
    assert entry["batch"] == "1:2:4"
    assert entry["versions"]["tensorrt-rtx"]
    assert entry["calibration_images"] == MEASURED_IMAGES
    assert len(entry["graph_sha256"]) == 64
    assert entry["report"]["activations_apart"] == []
    folder = package.engine_folder(NAME)
    assert sorted(file.name for file in folder.iterdir()) == ["build.log", "engine.json", "layers.json", "model.engine"]
    description = json.loads((folder / "engine.json").read_text())
    plan = (folder / "model.engine").read_bytes()
    assert description["sha256"] == hashlib.sha256(plan).hexdigest()
    assert entry["engine_bytes"] == len(plan)
    assert description["batch"] == [1, 2, 4]
    layers = json.loads((folder / "layers.json").read_text())
    assert {"name", "kind", "nodes", "inputs", "outputs", "constants"} == set(layers[0])
    assert "Engine generation completed" in (folder / "build.log").read_text()


@pytest.mark.long
def test_what_keeps_more_in_float32_is_tried_next_and_all_is_recorded(package, monkeypatch):
    import dataclasses

    tried = []
    monkeypatch.setitem(TOLERANCES, "fp16", dataclasses.replace(TOLERANCES["fp16"], mean_map=0.0))
    options = BuildOptions(BatchProfile(1, 1, 1), ("8.9",), lambda *_: pytest.fail("nothing that failed is built"))
    with pytest.raises(EngineError, match=r"fp16 failed verification and is not kept: mean map error .* is over 0"):
        build_engine(package, "tensorrt-rtx", "fp16", progress=tried.append, options=options)
    assert sum("not good enough" in line for line in tried) == len(ATTEMPTS["fp16"])
    assert Package.open(package.path).engines == {}
    assert [path for path in (package.path / "engines").rglob("*") if path.is_file()] == []


def test_the_command_lists_engines_and_what_they_need(rtx_package_path, capsys):
    assert bench.main(["--list-engines", str(rtx_package_path)]) == 0
    printed = capsys.readouterr().out
    assert NAME in printed
    assert "8.9, 12.0" in printed
    assert "1:2:4" in printed
    assert GRAPH_RUN in printed
    assert "eager" in printed
    assert bench.main(["--list-engines", str(rtx_package_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "tensorrt-rtx", "--batch", "8:4:2"], "write MIN:OPT:MAX"),
        (["--backend", "tensorrt-rtx", "--compute-capability", "9.0"], "builds for no compute capability 9.0"),
        (["--backend", "tensorrt-rtx", "--precision", "int3"], "no precision 'int3'"),
        (["--backend", "tensorrt"], "TensorRT is not installed"),
        (["--backend", "openvino", "--precision", "fp32", "--batch", "8"], "are built without batch"),
        (["--backend", "openvino", "--precision", "fp32", "--compute-capability", "8.9"], "without capabilities"),
    ],
    ids=["batch", "capability", "precision", "tensorrt", "openvino-batch", "openvino-capability"],
)
def test_the_command_refuses_with_one_line(package, capsys, arguments, message):
    assert command.main([str(package.path), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert Package.open(package.path).engines == {}


def test_every_precision_has_attempts_and_a_tolerance():
    for backend in ("tensorrt", "tensorrt-rtx"):
        assert set(BACKENDS[backend].precisions) == set(ATTEMPTS) <= set(TOLERANCES)
