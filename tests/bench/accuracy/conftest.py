"""A study that was run by the real commands, and records made up of its run."""

import copy

import pytest

from prn_fast.bench.accuracy import run as study_run
from prn_fast.bench.accuracy.record import Record, new_record, put_run, read_record
from prn_fast.bench.accuracy.run import StudySettings, run_study
from prn_fast.data.synthetic import write_synthetic_surfaces
from tests.small_package import SIDE

COMMIT = "0123456789ab-dirty"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    """Settings of a study of one variant and seed that has been run; its folder is shared, so do not change it."""
    root = tmp_path_factory.mktemp("study")
    data = write_synthetic_surfaces(root / "wood", side=SIDE, train=10, good=3, defects=4, materials=("wood",))
    settings = StudySettings(
        study="seen",
        data=data,
        folder=root / "output",
        seeds=(0,),
        only=("1 seen",),
        options=("--image-size", str(SIDE), "--epochs", "1", "--batch", "4"),
        allow_dirty=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_run, "commit", lambda: COMMIT)
        assert run_study(settings, say=lambda line: None) == {}
    return settings


@pytest.fixture(scope="session")
def recorded(trained: StudySettings) -> Record:
    """What `trained` recorded; do not change it."""
    return read_record(trained.folder / "wood-seen.json")


@pytest.fixture
def record(recorded: Record) -> Record:
    """Three seeds of "10 seen" and two of "0 seen", whose image AUROC is 0.90, 0.92, 0.94 and 0.80, 0.84."""
    made = new_record("seen", "tiles")
    for variant, aurocs in (("10 seen", (0.90, 0.92, 0.94)), ("0 seen", (0.80, 0.84))):
        for seed, auroc in enumerate(aurocs):
            run = copy.deepcopy(recorded["runs"][0]) | {"variant": variant, "seed": seed}
            run["test"]["image"]["auroc"] = auroc
            put_run(made, run)
    return made
