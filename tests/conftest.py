"""Fixtures for all tests, and rules that all tests keep."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.built_once import built_once, shared_folder
from tests.expected_skips import ExpectedSkips

if TYPE_CHECKING:
    from prn_fast.package import Package

# Before anything imports torch: tests that run beside each other share the cores.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // workers)))
# Before anything imports triton: without a GPU its kernels run in the interpreter.
if os.environ.get("PRN_FAST_TEST_DEVICE", "cpu") == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")
else:
    import torch

    # PyTorch's default computes float32 convolutions with ten bits; what the tests compare with is float32.
    torch.backends.cudnn.allow_tf32 = False

# `make test` puts NVIDIA's inference server there.
_TRITONSERVER = (
    Path(__file__).parents[1] / ".build" / "tritonserver" / "pytriton" / "tritonserver" / "bin" / "tritonserver"
)
if _TRITONSERVER.is_file():
    os.environ.setdefault("PRN_FAST_TRITONSERVER", str(_TRITONSERVER))

_THREAD_END_SECONDS = 5.0
# A test of two minutes takes several times as long on a slow machine whose cores others use.
_LONG_TIMEOUT_SECONDS = 1200


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of this suite."""
    parser.addoption(
        "--expected-skips",
        type=Path,
        metavar="FILE",
        help="fail the run if a test is skipped for a reason that is not a line of FILE",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Sets up what the options ask for, and a folder for what all processes of the run share."""
    shared_folder()
    file = config.getoption("--expected-skips")
    # Where tests run in parallel, the process that starts the others hears of all skips.
    if file is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(ExpectedSkips(file.read_text(encoding="utf-8").splitlines()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests have a timeout of their own, unless they set one."""
    for item in items:
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_LONG_TIMEOUT_SECONDS))


@pytest.fixture(autouse=True)
def no_thread_outlives_its_test() -> Iterator[None]:
    """Tests' threads are daemons, so that none keeps the run from ending, and each ends with its test all the same."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        module = getattr(getattr(thread, "_target", None), "__module__", "")
        # A library may keep its pool; Python ends idle ones itself.
        if module != "concurrent.futures.thread" and (not thread.daemon or module.startswith("tests.")):
            thread.join(_THREAD_END_SECONDS)
            assert not thread.is_alive(), f"{thread.name} still runs; the test or a fixture must end it"


@pytest.fixture(scope="module")
def no_syncing() -> Iterator[None]:
    """What is on its way to the disk is seen by all processes: to wait for the disk would show nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def built_package_path() -> Path:
    """A grey package with the engine openvino:fp32; shared, so do not change it."""
    from prn_fast.build import build_engine
    from tests.small_package import write_package

    return built_once("openvino/small.prn", lambda path: build_engine(write_package(path), "openvino", "fp32"))


@pytest.fixture
def package(tmp_path: Path) -> "Package":
    """A grey package without engines, to change."""
    from tests.small_package import write_package

    return write_package(tmp_path / "fresh.prn")


@pytest.fixture(scope="session")
def rtx_package_path() -> Path:
    """A grey package with the engine tensorrt-rtx:fp16, built without a GPU; shared, so do not change it."""
    from prn_fast.build import build_engine
    from prn_fast.build.candidate import BuildOptions
    from prn_fast.build.profiles import BatchProfile
    from tests.small_package import write_package

    options = BuildOptions(BatchProfile(1, 2, 4), ("8.9", "12.0"))
    return built_once(
        "tensorrt-rtx/small.prn",
        lambda path: build_engine(write_package(path), "tensorrt-rtx", "fp16", options=options),
    )
