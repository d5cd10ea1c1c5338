"""Early exit on the real tritonserver: who leaves travels with the answers."""

from pathlib import Path

import numpy as np
import pytest

from prn_fast.engine import open_engine
from prn_fast.engine.remote import RemoteEngine
from prn_fast.errors import ConfigError
from prn_fast.linescan.inspector import InspectionSettings, open_inspector
from prn_fast.serving.repository import Serving, export
from prn_fast.serving.tritonserver import Ports, TritonServer
from tests import needs
from tests.serving.conftest import START_SECONDS
from tests.small_package import textured_images, write_package


@needs.tritonserver
@pytest.mark.long
def test_images_leave_early_on_a_server_as_they_do_here(tmp_path: Path) -> None:
    package, images = write_package(tmp_path / "screened.prn", screen=True), textured_images(32, 1, 4)
    with open_engine(package, "optimized") as engine:
        local = engine.infer(images)
    assert 0 < local.exited.sum() < len(images)
    export(package, tmp_path / "models", Serving(engine="optimized", batch=8))
    with TritonServer(tmp_path / "models", Ports(grpc=0, http=0, metrics=0), tmp_path / "server.log") as server:
        server.start()
        server.wait(START_SECONDS)
        (address,) = server.addresses()
        with open_engine(address) as engine:
            assert isinstance(engine, RemoteEngine)
            assert engine.description.early_exit
            found, lent = engine.infer(images), engine.infer(images, copy=False)
        np.testing.assert_array_equal(lent.exited, found.exited)
        np.testing.assert_array_equal(found.exited, local.exited)
        np.testing.assert_allclose(found.raw_scores, local.raw_scores, atol=1e-5)
        np.testing.assert_allclose(found.maps, local.maps, atol=1e-5)
        # Below the threshold by which tiles leave, nobody could tell what they held.
        lower = InspectionSettings(threshold=package.calibration("pixel_threshold") / 2)
        with pytest.raises(ConfigError, match="lets tiles leave early"):
            open_inspector(address, 200, settings=lower)
        open_inspector(address, 200, settings=InspectionSettings()).engine.close()
