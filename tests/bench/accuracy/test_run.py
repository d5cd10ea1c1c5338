"""Studies: what is run, recorded, skipped, resumed and refused."""

import copy
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from prn_fast.bench.accuracy import __main__ as command
from prn_fast.bench.accuracy import run as study_run
from prn_fast.bench.accuracy.record import Record, read_record, write_record
from prn_fast.bench.accuracy.run import StudySettings, add_screens, plan_run, run_study
from prn_fast.bench.accuracy.studies import STUDIES
from prn_fast.errors import ConfigError, DataError
from tests.bench.accuracy.conftest import COMMIT

SEEN = STUDIES["seen"]


class Copies:
    """Stands in for trainings that take minutes: what the real commands have made once is put in place.

    Args:
        trained: the study that they have made.
        interrupted_at: number of the command that is interrupted as by Ctrl-C.
    """

    def __init__(self, trained: StudySettings, interrupted_at: int | None = None) -> None:
        work = trained.folder / COMMIT
        self.package, self.evaluation = next(work.glob("*.prn")), next(work.glob("*-eval"))
        self.interrupted_at = interrupted_at
        self.calls: list[tuple[str, Sequence[str]]] = []

    def __call__(self, name: str, arguments: Sequence[str], folder: Path, log: Path) -> None:
        self.calls.append((name, arguments))
        if len(self.calls) == self.interrupted_at:
            raise KeyboardInterrupt
        source = self.package if name == "prn-train" else self.evaluation
        shutil.copytree(source, folder / arguments[arguments.index("--output") + 1])


@pytest.fixture(autouse=True)
def commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_run, "commit", lambda: COMMIT)


@pytest.fixture
def settings(trained: StudySettings, tmp_path: Path) -> StudySettings:
    """Two variants and two seeds, nothing run yet."""
    return replace(trained, folder=tmp_path / "output", seeds=(0, 1), only=("1 seen", "0 seen"))


def test_a_run_holds_all_that_a_figure_must_come_with(recorded: Record, trained: StudySettings) -> None:
    (run,) = recorded["runs"]
    slug = "wood-preset-lite0-seen-1-no-screen-map-published-seed-0-image-size-64-epochs-1-batch-4"
    options = "--preset lite0 --seen 1 --no-screen --map published --seed 0 --image-size 64 --epochs 1 --batch 4"
    assert run["commands"] == {
        "train": f"prn-train --data wood --output {slug}.prn {options}",
        "evaluate": f"prn-eval {slug}.prn --data wood --engine optimized --output {slug}-eval",
    }
    assert (run["commit"], run["clean"], run["resumed"]) == (COMMIT, False, False)
    assert run["training"]["epochs"] == 1
    assert run["training"]["recipe"]["batch"] == 4
    assert run["test"]["seen"] == {"listed": 1, "left_out": 1, "near_duplicates": 0}
    assert sum(kind["count"] for kind in run["test"]["kinds"]) == 3
    assert 0 <= run["validation"]["image_auroc"] <= 1
    assert run["environment"]["libraries"]["torch"]
    assert run["environment"]["threads"] >= 1


def test_no_path_of_the_machine_is_recorded(trained: StudySettings) -> None:
    text = (trained.folder / "wood-seen.json").read_text()
    assert str(trained.data.parent) not in text
    assert str(Path.home()) + "/" not in text


def test_what_is_recorded_is_not_run_again(trained: StudySettings) -> None:
    lines: list[str] = []

    def refuse(*arguments: object) -> None:
        raise AssertionError(arguments)

    assert run_study(trained, say=lines.append, launch=refuse) == {}
    assert lines == ["1 seen, seed 0: recorded"]


def test_an_interrupted_study_keeps_what_is_done_and_goes_on(settings: StudySettings, trained: StudySettings) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_study(settings, say=lambda line: None, launch=Copies(trained, interrupted_at=4))
    path = settings.folder / "wood-seen.json"
    assert [(run["variant"], run["seed"]) for run in read_record(path)["runs"]] == [("1 seen", 0)]
    rest = Copies(trained)
    run_study(settings, say=lambda line: None, launch=rest)
    # Interrupted while evaluating: the training before it was whole.
    assert [name for name, _ in rest.calls] == ["prn-eval", *["prn-train", "prn-eval"] * 2]
    done = {(run["variant"], run["seed"]) for run in read_record(path)["runs"]}
    assert done == {(variant, seed) for variant in ("1 seen", "0 seen") for seed in (0, 1)}


def test_processes_that_share_a_folder_keep_what_the_others_record(
    settings: StudySettings, trained: StudySettings
) -> None:
    copies = Copies(trained)

    def launch(name: str, arguments: Sequence[str], folder: Path, log: Path) -> None:
        copies(name, arguments, folder, log)
        if len(copies.calls) == 2:
            # While this one evaluates its first run, another process does all runs of the other seed.
            run_study(replace(settings, seeds=(1,)), say=lambda line: None, launch=Copies(trained))

    run_study(replace(settings, seeds=(0,)), say=lambda line: None, launch=launch)
    done = {(run["variant"], run["seed"]) for run in read_record(settings.folder / "wood-seen.json")["runs"]}
    assert done == {(variant, seed) for variant in ("1 seen", "0 seen") for seed in (0, 1)}


def test_an_interrupted_training_is_resumed_and_the_record_says_so(
    settings: StudySettings, trained: StudySettings
) -> None:
    settings = replace(settings, seeds=(0,), only=("0 seen",))
    plan = plan_run(SEEN.choose(["0 seen"])[0], 0, "wood", None, settings.options)
    state = settings.folder / COMMIT / f"{plan.package}.training" / "state.pt"
    state.parent.mkdir(parents=True)
    state.touch()
    launch = Copies(trained, interrupted_at=2)
    with pytest.raises(KeyboardInterrupt):
        run_study(settings, say=lambda line: None, launch=launch)
    assert launch.calls[0] == ("prn-train", (*plan.train, "--resume"))
    # Interrupted once more, while evaluating: the training is over, and was resumed all the same.
    run_study(settings, say=lambda line: None, launch=Copies(trained))
    (run,) = read_record(settings.folder / "wood-seen.json")["runs"]
    assert run["resumed"]
    assert "--resume" not in run["commands"]["train"]


def test_screens_of_kept_packages_are_evaluated_later(recorded: Record, trained: StudySettings, tmp_path: Path) -> None:
    """From the packages beside the record, none of which is trained again."""
    record = copy.deepcopy(recorded)
    (run,) = record["runs"]
    run["screen"] = {"cut": 0.3, "wanted_loss": 0.01}
    whole = copy.deepcopy(run) | {"seed": 1, "screen": {"cut": None, "wanted_loss": 0.01, "why_whole": "too few leave"}}
    lost = copy.deepcopy(run) | {"seed": 2}
    lost["commands"] = {**lost["commands"], "train": "prn-train --data wood --output lost.prn"}
    record["runs"] += [whole, lost]
    path = tmp_path / "wood-exit.json"
    write_record(record, path)
    (tmp_path / COMMIT).mkdir()
    copies, lines = Copies(trained), []
    shutil.copytree(copies.package, tmp_path / COMMIT / copies.package.name)
    failures = add_screens(path, lines.append, copies)
    ((name, arguments),) = copies.calls
    assert (name, arguments[0], "--screen-only" in arguments) == ("prn-eval", copies.package.name, True)
    assert list(failures) == ["1 seen, seed 2"]
    assert "lost.prn: the package is not here" in failures["1 seen, seed 2"]
    assert "1 seen, seed 1: too few leave" in lines
    found = read_record(path)["runs"]
    assert found[0]["test"]["screen_alone"]["image"] == run["test"]["image"]
    assert all("screen_alone" not in one["test"] for one in found[1:])
    again = Copies(trained)
    add_screens(path, lines.append, again)
    assert again.calls == []
    assert lines[-3] == "1 seen, seed 0: recorded"


def test_a_failed_run_is_told_and_the_others_go_on(settings: StudySettings, trained: StudySettings) -> None:
    copies = Copies(trained)

    def launch(name: str, arguments: Sequence[str], folder: Path, log: Path) -> None:
        if name == "prn-train" and arguments[arguments.index("--seed") + 1] == "0":
            raise ConfigError("prn-train ended with 2: no such option")
        copies(name, arguments, folder, log)

    lines: list[str] = []
    failures = run_study(settings, say=lines.append, launch=launch)
    assert set(failures) == {("1 seen", 0), ("0 seen", 0)}
    assert "1 seen, seed 0: failed: prn-train ended with 2: no such option" in lines
    assert {run["seed"] for run in read_record(settings.folder / "wood-seen.json")["runs"]} == {1}


def test_a_changed_checkout_is_refused_unless_told(settings: StudySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    for here in (COMMIT, "unknown"):
        monkeypatch.setattr(study_run, "commit", lambda here=here: here)
        with pytest.raises(ConfigError, match="--allow-dirty"):
            run_study(replace(settings, allow_dirty=False))
    assert not settings.folder.exists()


def test_a_checkout_that_changes_during_a_run_is_not_recorded(
    settings: StudySettings, trained: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The copied package says another commit than the one that the study began with.
    monkeypatch.setattr(study_run, "commit", lambda: "0123456789ab")
    settings = replace(settings, seeds=(0,), only=("0 seen",), allow_dirty=False)
    failures = run_study(settings, say=lambda line: None, launch=Copies(trained))
    assert "the checkout changed from 0123456789ab" in failures["0 seen", 0]
    assert not (settings.folder / "wood-seen.json").exists()


def test_a_command_that_fails_is_told_by_its_last_line(settings: StudySettings) -> None:
    lines: list[str] = []
    settings = replace(settings, seeds=(0,), only=("1 seen",), options=("--image-size", "100"))
    failures = run_study(settings, say=lines.append)
    assert "prn-train ended with 2" in failures["1 seen", 0]
    assert "multiple of 64" in failures["1 seen", 0]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"study": "none"}, ConfigError, "no study is called 'none'; choose one of products"),
        ({"only": ("2 seen",)}, ConfigError, "no variant is called '2 seen'"),
        ({"data": Path("nowhere")}, DataError, "nowhere: no such file or folder"),
        ({"options": ("--textures", "nowhere")}, DataError, "nowhere: no such file or folder"),
        ({"options": ("--textures=/some/where",)}, ConfigError, "names no folders"),
    ],
    ids=["study", "variant", "data", "textures", "path"],
)
def test_what_cannot_be_run_is_named(
    settings: StudySettings, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run_study(replace(settings, **changes), launch=lambda *arguments: None)


def test_paths_are_recorded_by_their_last_name(settings: StudySettings, trained: StudySettings, tmp_path: Path) -> None:
    textures = tmp_path / "somewhere" / "dtd"
    textures.mkdir(parents=True)
    launch = Copies(trained)
    settings = replace(settings, seeds=(0,), only=("0 seen",), options=("--textures", str(textures)))
    run_study(settings, say=lambda line: None, launch=launch)
    assert launch.calls[0][1][-2:] == ("--textures", "dtd")
    assert (settings.folder / COMMIT / "dtd").resolve() == textures


def test_same_trainings_of_two_studies_are_one_package() -> None:
    base, ten = STUDIES["recipe"].variants[0], SEEN.variants[0]
    assert plan_run(base, 1, "tiles", 20.0).package == plan_run(ten, 1, "tiles", 20.0).package
    assert plan_run(base, 1, "tiles", 20.0).package != plan_run(base, 2, "tiles", 20.0).package


def test_products_share_no_package_and_no_evaluation() -> None:
    for variant in (SEEN.variants[0], STUDIES["nearest-patch"].variants[0]):
        tiles, wood = plan_run(variant, 0, "tiles", None), plan_run(variant, 0, "wood", None)
        assert tiles.evaluation != wood.evaluation
        # A yardstick trains none.
        assert (tiles.package == wood.package == "") if variant.yardstick else tiles.package != wood.package


def test_the_command_line(trained: StudySettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["list"]) == 0
    assert "10 seen" in capsys.readouterr().out
    run = ["run", "seen", "--data", str(trained.data), "--output"]
    again = [*run, str(trained.folder), "--only", "1 seen", "--seeds", "0", "--allow-dirty", "--", *trained.options]
    assert command.main(again) == 0
    assert capsys.readouterr().out == "wood: 1 seen, seed 0: recorded\n"
    assert command.main([*run, str(tmp_path / "other")]) == 2
    assert "error: the checkout has changes" in capsys.readouterr().err
