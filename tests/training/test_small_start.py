"""Where a training begins at a smaller side, and for how much of its time."""

from dataclasses import replace
from pathlib import Path

import pytest

from prn_fast.training.recipe import QUICK
from prn_fast.training.settings import TrainingSettings
from prn_fast.training.small_start import small_start

LARGE = TrainingSettings(Path("data"), Path("a.prn"), image_size=512, minutes=60.0, seen=10, memory=1000)


def test_a_third_of_the_time_is_at_the_smallest_side() -> None:
    start = small_start(LARGE)
    assert start is not None
    assert (start.image_size, start.minutes, start.output) == (256, 20.0, Path("a.start.prn"))
    assert start.recipe == replace(QUICK, epochs=20, screen=False)
    assert (start.chosen_map, start.chosen_score, start.chosen_memory) == ("published", "published", 0)
    assert (start.seed, start.seen, start.data) == (LARGE.seed, LARGE.seen, LARGE.data)


def test_a_training_without_bound_starts_with_a_third_of_its_epochs() -> None:
    start = small_start(replace(LARGE, minutes=None, recipe=replace(QUICK, epochs=1)))
    assert start is not None
    assert start.recipe is not None
    assert (start.minutes, start.recipe.epochs) == (None, 1)


@pytest.mark.parametrize(
    "change",
    [{"image_size": 256}, {"tiles": True, "memory": 0}, {"warm_start": Path("other.prn")}],
    ids=str,
)
def test_elsewhere_a_training_begins_at_its_own_side(change: dict) -> None:
    assert small_start(replace(LARGE, **change)) is None


def test_several_processes_begin_at_their_own_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert small_start(LARGE) is None
