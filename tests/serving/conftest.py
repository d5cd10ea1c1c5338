"""A real server for the tests of this folder and of `RemoteEngine`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from prn_fast.package import Package
from prn_fast.serving.repository import Serving, export
from prn_fast.serving.tritonserver import Ports, TritonServer

START_SECONDS = 200


@pytest.fixture(scope="session")
def server(built_package_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server of the small package with openvino:fp32, eight images at a time; do not disturb it."""
    folder = tmp_path_factory.mktemp("models")
    export(Package.open(built_package_path), folder, Serving(batch=8))
    with TritonServer(folder, Ports(grpc=0, http=0, metrics=0), folder.parent / "server.log") as server:
        server.start()
        server.wait(START_SECONDS)
        yield server
