"""What `prn-serve export` writes; none of these tests needs a server."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from prn_fast.cli.serve import main
from prn_fast.engine import open_engine
from prn_fast.errors import ConfigError, EngineError, PackageError
from prn_fast.package import Package
from prn_fast.serving.repository import (
    CANARY,
    CONFIG,
    MODEL,
    Serving,
    canary_images,
    config_text,
    export,
    models_in,
    package_folder,
    versions_in,
)
from tests.small_package import write_package


def test_a_version_holds_the_package_and_known_answers(package: Package, tmp_path: Path) -> None:
    done = export(package, tmp_path / "models", Serving())
    assert (done.name, done.version, done.is_new) == ("fresh", 1, True)
    version = tmp_path / "models" / "fresh" / "1"
    assert sorted(entry.name for entry in version.iterdir()) == [CANARY, "fresh.prn", MODEL]
    copy = Package.open(package_folder(version))
    assert copy.digest == package.digest
    known = json.loads((version / CANARY).read_text())
    with open_engine(package, "eager") as eager:
        np.testing.assert_allclose(known["scores"], eager.infer(canary_images(package)).raw_scores, atol=1e-4)
    assert models_in(tmp_path / "models") == ["fresh"]


def test_one_version_a_calibration(package: Package, tmp_path: Path) -> None:
    models = tmp_path / "models"
    export(package, models, Serving(), "tiles")
    again = export(package, models, Serving(batch=4), "tiles")
    assert (again.version, again.is_new) == (1, False)
    assert "max_batch_size: 4" in (models / "tiles" / CONFIG).read_text()
    other = write_package(tmp_path / "other.prn", seed=5)
    new = export(other, models, Serving(), "tiles")
    assert (new.version, new.is_new) == (2, True)
    assert versions_in(models / "tiles") == [1, 2]
    # Nothing of the making is left, which the server would take for a model.
    assert sorted(entry.name for entry in (models / "tiles").iterdir()) == ["1", "2", CONFIG]
    assert [entry.name for entry in models.iterdir()] == ["tiles"]


def test_one_name_has_one_shape(package: Package, tmp_path: Path) -> None:
    export(package, tmp_path / "models", Serving(), "tiles")
    colour = write_package(tmp_path / "colour.prn", channels=3)
    with pytest.raises(PackageError, match=r"serves images of 64x64x1, .* takes 64x64x3; choose another name"):
        export(colour, tmp_path / "models", Serving(), "tiles")


def test_a_version_that_was_damaged_is_told(package: Package, tmp_path: Path) -> None:
    export(package, tmp_path / "models", Serving(), "tiles")
    shutil.rmtree(tmp_path / "models" / "tiles" / "1" / "fresh.prn")
    with pytest.raises(PackageError, match="holds 0 packages"):
        export(package, tmp_path / "models", Serving(), "tiles")


def test_the_configuration_says_how_requests_wait(package: Package) -> None:
    text = config_text("tiles", package, Serving("optimized", 16, 1.5, 10, 200, 2, True, 3))
    for part in (
        'name: "tiles"',
        "max_batch_size: 16",
        "max_queue_delay_microseconds: 1500",
        "max_queue_size: 10",
        "default_timeout_microseconds: 200000",
        "kind: KIND_GPU, count: 2",
        "num_versions: 3",
        'key: "engine", value: { string_value: "optimized" }',
        "dims: [ 64, 64, 1 ]",
    ):
        assert part in text
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"queue": 0}, "queue is 0"),
        ({"instances": 0}, "instances is 0"),
        ({"delay_ms": float("nan")}, "delay_ms is nan"),
        ({"deadline_ms": -1.0}, "deadline_ms is -1"),
        ({"gpu": True, "engine": "openvino"}, "does not run on a GPU"),
    ],
)
def test_settings_that_cannot_work(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Serving(**options)


def test_gpus_need_the_name_of_an_engine(package: Package, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs the name of an engine"):
        export(package, tmp_path / "models", Serving(gpu=True))
    assert not (tmp_path / "models").exists()


def test_an_engine_that_is_not_built_is_told_before_anything_is_written(package: Package, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"prn-build-engine .* --backend openvino --precision int8"):
        export(package, tmp_path / "models", Serving("openvino:int8"))
    assert not (tmp_path / "models").exists()


def test_several_packages_by_the_command(package: Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_package(tmp_path / "other.prn", seed=5)
    models = str(tmp_path / "models")
    assert main(["export", str(package.path), str(other.path), models]) == 0
    assert models_in(tmp_path / "models") == ["fresh", "other"]
    printed = capsys.readouterr().out
    assert "models/fresh: version 1, new" in printed
    assert "next: prn-serve run " in printed
    twice = shutil.copytree(package.path, tmp_path / "again" / "fresh.prn")
    assert main(["export", str(package.path), str(twice), models]) == 2
    assert "two packages are called fresh" in capsys.readouterr().err


def test_a_folder_without_models_is_told(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match="holds no exported package"):
            models_in(folder)
