"""What a GPU is asked about TensorRT engines: an engine that fails costs its own row."""

import argparse
from types import SimpleNamespace

import pytest

from prn_fast.bench.gpu import tensorrt
from prn_fast.engine.tensorrt_flavours import Flavour
from prn_fast.errors import EngineError


@pytest.fixture
def package(tmp_path):
    """Three engines of one flavour, without files."""
    engines = {f"tensorrt:{precision}": {"backend": "tensorrt"} for precision in ("fp16", "bf16", "fp32")}
    return SimpleNamespace(path=tmp_path, engines=engines, validation=list, engine_folder=tmp_path.joinpath)


@pytest.fixture
def library(monkeypatch):
    """A library that can be imported and reads no engine."""
    monkeypatch.setattr(Flavour, "load", lambda self: argparse.Namespace(__version__="1.0"))


def test_an_engine_that_fails_costs_one_row_whatever_its_error(monkeypatch, library, package):
    opened = []
    errors = [EngineError("built for another GPU"), RuntimeError("CUDA error\nsecond line"), MemoryError()]

    def open_engine(package, name, **options):
        opened.append(options)
        raise errors[len(opened) - 1]

    monkeypatch.setattr(tensorrt, "open_engine", open_engine)
    found = [row for row in tensorrt.try_flavours(package) if "engine" in row]
    assert [row["error"] for row in found] == [
        "EngineError: built for another GPU",
        "RuntimeError: CUDA error",
        "MemoryError: MemoryError",
    ]
    assert all(row["diagnosis"].startswith("none: ") for row in found)
    # Images that leave early have other maps than the reference.
    assert opened == [{"early_exit": False}] * 3


def test_pycuda_is_not_tried_without_an_engine(package, tmp_path):
    package.engines = {"openvino:fp32": {"backend": "openvino"}}
    assert tensorrt.try_pycuda(package, tmp_path / "pycuda.tar.gz")["pycuda"] == "not tried"
