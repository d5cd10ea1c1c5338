import pytest

from prn_fast.errors import ConfigError
from prn_fast.model.config import PRESETS
from prn_fast.training.recipe import PUBLISHED, QUICK, Recipe, learning_rate_factor, recipe_of


def test_the_published_recipe_is_the_papers():
    assert (PUBLISHED.epochs, PUBLISHED.batch, PUBLISHED.learning_rate, PUBLISHED.weight_decay) == (700, 48, 1e-4, 1e-2)
    assert PUBLISHED.optimizer == "adam"
    assert (PUBLISHED.extended_share, PUBLISHED.anomaly_ratio, PUBLISHED.prototypes) == (0.5, 1, 0.1)
    assert (PUBLISHED.smooth_l1, PUBLISHED.focal_weight) == (True, 5.0)
    assert {learning_rate_factor(PUBLISHED, progress / 10) for progress in range(11)} == {1.0}


def test_the_quick_recipe_is_the_light_networks():
    assert [recipe_of(name) for name in PRESETS] == 2 * [PUBLISHED] + 3 * [QUICK]


def test_cosine_rises_then_falls_to_a_hundredth():
    factors = [learning_rate_factor(QUICK, progress / 1000) for progress in range(1001)]
    peak = factors.index(max(factors))
    assert factors[peak] == pytest.approx(1.0)
    assert 0 < peak < 60
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert factors[-1] == pytest.approx(0.01)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch": 1},
        {"learning_rate": 0.0},
        {"weight_decay": -1.0},
        {"anomaly_ratio": 0},
        {"extended_share": 1.1},
        {"extended_share": float("nan")},
        {"simulated_sources": ()},
        {"simulated_sources": ("paint",)},
        {"focal_weight": -1.0},
        {"focal_weight": 0.0, "smooth_l1": False},
        {"score_weight": -0.1},
        {"score_weight": float("nan")},
        {"hard_mining": 0.0},
        {"light": -0.1},
        {"ema": 1.0},
        {"ema": float("nan")},
        {"prototypes": 0.0},
        {"prototypes": float("nan")},
        {"screen_steps": 0},
        {"hard_mining": 2.0},
        {"focal_weight": float("inf")},
        {"learning_rate": float("inf")},
        {"light": float("inf")},
        {"weight_decay": 1e300},
    ],
    ids=str,
)
def test_impossible_values_are_refused(change):
    with pytest.raises(ConfigError, match=f"--{next(iter(change)).replace('_', '-')} "):
        Recipe(**change)
