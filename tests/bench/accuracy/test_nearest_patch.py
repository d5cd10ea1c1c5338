"""The yardstick: a memory of normal patches."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prn_fast.bench.accuracy import nearest_patch, tables
from prn_fast.bench.accuracy import run as study_run
from prn_fast.bench.accuracy.nearest_patch import NearestPatch
from prn_fast.bench.accuracy.record import put_run, read_record, write_record
from prn_fast.bench.accuracy.run import StudySettings, run_study
from prn_fast.model.backbone import make_backbone
from prn_fast.model.weights import load_backbone_weights, pretrained_state
from prn_fast.training.settings import TrainingSettings
from tests.bench.accuracy.conftest import COMMIT
from tests.small_package import SIDE, small_config, textured_images

BACKBONE = "efficientnet_lite0"


@pytest.fixture(scope="module")
def memory() -> NearestPatch:
    backbone = make_backbone(BACKBONE)
    load_backbone_weights(backbone, pretrained_state(BACKBONE), "published weights")
    return NearestPatch(backbone, small_config(), textured_images(12, 1, 0), memory=300)


def test_what_is_remembered_is_near_and_a_defect_is_far(memory: NearestPatch) -> None:
    normals = textured_images(12, 1, 0)
    defect = normals[:1].copy()
    defect[0, 20:36, 20:36] = 255 - defect[0, 20:36, 20:36]
    assert len(memory.memory.patches) == 300
    near, far = memory.infer(normals), memory.infer(defect)
    assert far.scores[0] > near.scores.max()
    place = np.zeros((SIDE, SIDE), bool)
    place[20:36, 20:36] = True
    assert far.maps[0][place].mean() > far.maps[0][~place].mean()
    assert 0 <= near.maps.min() <= far.maps.max() < 1


def test_a_study_measures_it_on_the_images_of_a_training(
    trained: StudySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(command: str, arguments: Sequence[str], folder: Path, log: Path) -> None:
        assert command == study_run.YARDSTICK
        monkeypatch.chdir(folder)
        assert nearest_patch.main(list(arguments)) == 0

    monkeypatch.setattr(study_run, "commit", lambda: COMMIT)
    options = ("--image-size", str(SIDE))
    settings = replace(trained, study="nearest-patch", folder=tmp_path, only=("0 seen",), options=options)
    assert run_study(settings, say=lambda line: None, launch=launch) == {}
    (run,) = read_record(tmp_path / "wood-nearest-patch.json")["runs"]
    assert run["commands"] == {
        "evaluate": "python -m prn_fast.bench.accuracy nearest-patch --data wood --output "
        "wood-nearest-patch-preset-lite0-seen-0-seed-0-image-size-64-eval "
        "--preset lite0 --seen 0 --seed 0 --image-size 64"
    }
    assert run["training"]["steps"] == 0
    assert run["test"]["seen"]["listed"] == 0
    assert run["test"]["image"]["auroc"] == run["test"]["scores"][run["training"]["score"]]
    assert sum(kind["count"] for kind in run["test"]["kinds"]) == 4
    # Recorded, it is not measured again.
    assert run_study(settings, say=lambda line: None, launch=lambda *arguments: pytest.fail("measured again")) == {}

    # Beside the trainings of the same product, where these see as many anomalies.
    record = read_record(trained.folder / "wood-seen.json")
    yardstick = read_record(tmp_path / "wood-nearest-patch.json")
    assert "nearest patch" not in tables.test_table(record, yardstick)
    put_run(record, record["runs"][0] | {"variant": "0 seen"})
    auroc = f"{run['test']['image']['auroc']:.3f}"
    assert f"| nearest patch, 0 seen | 1 | {auroc} |" in tables.test_table(record, yardstick)
    results = tmp_path / "results"
    results.mkdir()
    write_record(record, results / "wood-seen.json")
    write_record(yardstick, results / "wood-nearest-patch.json")
    (row,) = [line for line in tables.product_figures(results).splitlines() if line.startswith("| nearest patch, 0")]
    assert row.count(auroc) == 2
    assert "nearest-patch --data wood" in tables.FIGURES["accuracy-nearest-patch"](results)


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(tmp_path / "none"), "--output", str(tmp_path / "out")]
    assert nearest_patch.main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "out").exists()
    # As prn-train has it.
    assert nearest_patch.make_parser().parse_args(arguments).seen is TrainingSettings.seen
