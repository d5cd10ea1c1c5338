"""What all benchmarks share: the network's shapes, seeded inputs, and where they run."""

from pathlib import Path

import pytest
import torch

from prn_fast.package import Package


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same inputs in every run, so that runs of different commits can be compared."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small_package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A small package with an OpenVINO engine: steps around the network, not the network, are measured on it."""
    from prn_fast.build import build_engine
    from tests.small_package import write_package

    path: Path = tmp_path_factory.mktemp("suite") / "small.prn"
    package = write_package(path)
    build_engine(package, "openvino", "fp32")
    return package
