"""TrainingSettings that cannot work are refused when they are made; what a checkpoint has to agree on."""

from dataclasses import replace
from pathlib import Path

import pytest

from prn_fast.errors import ConfigError
from prn_fast.training.recipe import QUICK
from prn_fast.training.settings import MEMORY, TrainingSettings


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
    ("change", "maps", "score", "memory"),
    [
        ({}, "learned", "learned", MEMORY),
        ({"memory": 20}, "learned", "learned", 20),
        ({"memory": 0}, "learned", "learned", 0),
        ({"seen": 9}, "learned", "published", MEMORY),
        ({"tiles": True}, "published", "published", 0),
        ({"preset": "r18"}, "published", "published", 0),
        ({"preset": "r18", "recipe": QUICK}, "published", "published", 0),
        ({"recipe": replace(QUICK, screen=False)}, "learned", "learned", MEMORY),
        ({"recipe": replace(QUICK, screen=False), "memory": 0}, "published", "published", 0),
        ({"map": "published"}, "published", "published", 0),
        ({"score": "published"}, "learned", "published", MEMORY),
        ({"map": "published", "score": "learned"}, "published", "learned", 0),
        ({"map": "learned", "score": "learned", "preset": "r18", "seen": 0}, "learned", "learned", MEMORY),
    ],
    ids=str,
)
def test_map_and_score_are_learned_where_that_was_validated(change: dict, maps: str, score: str, memory: int) -> None:
    settings = TrainingSettings(Path("data"), Path("a.prn"), **change)
    identity = settings.identity()
    assert settings.chosen_map == identity["map"] == maps
    assert settings.chosen_score == identity["score"] == score
    assert str(settings.chosen_memory) == identity["memory"] == str(memory)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"memory": -1}, "--memory must be 0 or more, not -1"),
        ({"memory": 20, "map": "published"}, "add --map learned"),
        ({"memory": 20, "tiles": True}, "add --map learned"),
        ({"memory": 0, "map": "learned", "recipe": replace(QUICK, screen=False)}, "leave out --memory 0, or"),
        ({"map": "learned", "tiles": True}, "--map learned is for whole images"),
        ({"score": "learned", "tiles": True}, "--score learned is for whole images"),
    ],
    ids=str,
)
def test_maps_and_scores_that_cannot_be_learned_are_refused(change: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainingSettings(Path("data"), Path("a.prn"), **change)
