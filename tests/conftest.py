"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest

from prn_fast.package import Package

# Before anything imports triton: without a GPU its kernels run in the interpreter.
os.environ.setdefault("TRITON_INTERPRET", "1")
from tests.small_package import write_package


@pytest.fixture(scope="session")
def built_package_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grey package with the engine openvino:fp32; shared, so do not change it."""
    from prn_fast.build import build_engine

    package = write_package(tmp_path_factory.mktemp("built") / "small.prn")
    build_engine(package, "openvino", "fp32")
    return package.path


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """A fresh grey package without engines."""
    return write_package(tmp_path / "fresh.prn")
