"""TrainingSettings that cannot work are refused when they are made; what a checkpoint has to agree on."""

from dataclasses import replace
from pathlib import Path

import pytest

from prn_fast.errors import ConfigError
from prn_fast.training.recipe import QUICK
from prn_fast.training.settings import TrainingSettings


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"minutes": float("nan")}, "--minutes"),
        ({"minutes": float("inf")}, "--minutes"),
        ({"minutes": 0.0}, "--minutes"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**32}, "--seed"),
        ({"seen": -1}, "--seen"),
        ({"normals": 1}, "--normals"),
        ({"workers": -1}, "--workers"),
        ({"false_alarm_rate": float("nan")}, "--false-alarm-rate must be above 0"),
        ({"false_alarm_rate": 0.0}, "--false-alarm-rate must be above 0"),
        ({"warm_start": Path("a.prn"), "backbone_weights": Path("a.pth")}, "--warm-start"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(change: dict, option: str) -> None:
    with pytest.raises(ConfigError, match=option):
        TrainingSettings(Path("data"), Path("a.prn"), **change)


def test_a_checkpoint_does_not_depend_on_how_paths_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    one = TrainingSettings(Path("data"), Path("a.prn"), minutes=1.0, workers=0)
    other = TrainingSettings(tmp_path / "data", tmp_path / "b.prn", minutes=2.0, workers=3, resume=True)
    assert one.identity() == other.identity()
    assert one.identity() != TrainingSettings(tmp_path / "others", Path("a.prn")).identity()
    assert one.identity() != TrainingSettings(Path("data"), Path("a.prn"), seed=1).identity()


@pytest.mark.parametrize(
    ("change", "score"),
    [
        ({}, "learned"),
        ({"seen": 9}, "published"),
        ({"tiles": True}, "published"),
        ({"preset": "r18"}, "published"),
        ({"preset": "r18", "recipe": QUICK}, "published"),
        ({"recipe": replace(QUICK, screen=False)}, "published"),
        ({"score": "published"}, "published"),
        ({"score": "learned", "preset": "r18", "seen": 0}, "learned"),
    ],
    ids=str,
)
def test_a_score_is_learned_where_that_was_validated(change: dict, score: str) -> None:
    settings = TrainingSettings(Path("data"), Path("a.prn"), **change)
    assert settings.chosen_score == settings.identity()["score"] == score
