"""Fixtures for all tests."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from prn_fast.package import Package

# Before anything imports triton: without a GPU its kernels run in the interpreter.
if os.environ.get("PRN_FAST_TEST_DEVICE", "cpu") == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def built_package_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grey package with the engine openvino:fp32; shared, so do not change it."""
    from prn_fast.build import build_engine
    from tests.small_package import write_package

    package = write_package(tmp_path_factory.mktemp("built") / "small.prn")
    build_engine(package, "openvino", "fp32")
    return package.path


@pytest.fixture
def package(tmp_path: Path) -> "Package":
    """A fresh grey package without engines."""
    from tests.small_package import write_package

    return write_package(tmp_path / "fresh.prn")


@pytest.fixture(scope="session")
def rtx_package_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grey package with the engine tensorrt-rtx:fp16, built without a GPU; shared, so do not change it."""
    from prn_fast.build import build_engine
    from prn_fast.build.candidate import BuildOptions
    from prn_fast.build.profiles import BatchProfile
    from tests.small_package import write_package

    package = write_package(tmp_path_factory.mktemp("rtx") / "small.prn")
    build_engine(package, "tensorrt-rtx", "fp16", options=BuildOptions(BatchProfile(1, 2, 4), ("8.9", "12.0")))
    return package.path
