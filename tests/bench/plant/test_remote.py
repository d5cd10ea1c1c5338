"""The local engine and the real tritonserver side by side."""

from pathlib import Path

import pytest

from prn_fast.bench.plant.remote import measure_remote
from prn_fast.errors import ConfigError
from prn_fast.package import Package
from prn_fast.serving.repository import Serving, export
from prn_fast.serving.tritonserver import Ports, TritonServer
from tests import needs
from tests.serving.conftest import START_SECONDS


@needs.tritonserver
@pytest.mark.long
def test_both_verdicts_are_compared(built_package_path: Path, tmp_path: Path) -> None:
    package = Package.open(built_package_path)
    export(package, tmp_path / "models", Serving(batch=8))
    with TritonServer(tmp_path / "models", Ports(grpc=0, http=0, metrics=0), tmp_path / "server.log") as server:
        server.start()
        server.wait(START_SECONDS)
        (address,) = server.addresses()
        found = measure_remote(package, address, count=40, batch=8)
        assert 0 < found["defective"] < found["images"] == 40
        assert [one["verdicts_differ"] for one in found["ways"].values()] == [0, 0, 0]
        # Of one image there is one verdict.
        with pytest.raises(ConfigError, match="all 1 images have one verdict"):
            measure_remote(package, address, count=1, batch=1)
