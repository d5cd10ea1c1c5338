"""The model refuses to serve an engine whose answers on this machine are not the known ones."""

import json
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import pytest

from prn_fast.engine.served import ABOUT
from prn_fast.errors import EngineError, PackageError
from prn_fast.package import WEIGHTS, Package
from prn_fast.serving.repository import CANARY, Serving, export, package_folder
from prn_fast.serving.triton_model import TritonPythonModel


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The server's own module, of a server without metrics."""
    module = ModuleType("triton_python_backend_utils")
    module.TritonModelException = type("TritonModelException", (Exception,), {})

    def refuse(*_: object) -> None:
        raise module.TritonModelException("metrics are not enabled")

    module.MetricFamily = Mock(side_effect=refuse, COUNTER=0, GAUGE=1)
    module.Logger = Mock()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.fixture
def version(package: Package, tmp_path: Path) -> Path:
    done = export(package, tmp_path / "models", Serving("optimized"))
    return tmp_path / "models" / done.name / "1"


def initialized(version: Path) -> TritonPythonModel:
    """The model as the server starts it."""
    config = {"max_batch_size": 4, "parameters": {"engine": {"string_value": "optimized"}}}
    model = TritonPythonModel()
    model.initialize(
        {
            "model_config": json.dumps(config),
            "model_repository": str(version.parent),
            "model_name": "fresh",
            "model_version": version.name,
            "model_instance_name": "fresh_0_0",
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )
    return model


def test_it_opens_the_engine_that_was_exported(version: Path, backend: ModuleType) -> None:
    model = initialized(version)
    assert (model.engine.name, model.engine.batch) == ("optimized", 4)
    assert json.loads(model.about[ABOUT].tobytes())["package"] == "fresh"
    assert model.figures is None
    backend.Logger.log_warn.assert_called_once_with("fresh: has no metrics of its own (metrics are not enabled)")
    model.finalize()


@pytest.mark.parametrize("part", ["scores", "levels"])
def test_wrong_answers_are_not_served(version: Path, part: str) -> None:
    known = json.loads((version / CANARY).read_text())
    known[part] = known[part][::-1]
    (version / CANARY).write_text(json.dumps(known))
    with pytest.raises(EngineError, match=r"optimized gives wrong answers on this machine: (score|map) differs by"):
        initialized(version)


def test_a_package_that_was_altered_is_not_served(version: Path) -> None:
    weights = package_folder(version) / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(PackageError, match="differs from what was recorded"):
        initialized(version)
