import dataclasses

import pytest

from prn_fast.errors import ConfigError
from prn_fast.model.config import PRESETS, PRNConfig, preset


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "vgg"}, "unknown backbone"),
        ({"image_size": 100}, "multiple of 64"),
        ({"image_size": 0}, "multiple of 64"),
        ({"image_channels": 2}, "image channels"),
        ({"prototypes": (3, 0, 3)}, "prototypes"),
        ({"attention_layers": 0}, "attention layers"),
        ({"patch_divisors": ()}, "patch divisors"),
        ({"projection": "dense"}, "unknown projection"),
        ({"residual": "cubic"}, "unknown residual"),
    ],
)
def test_impossible_values_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        PRNConfig(**changes)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    config = preset(name)
    assert PRNConfig.from_dict(config.to_dict()) == config


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(ConfigError, match="r18, wide50, lite0"):
        preset("r34")


def test_packages_that_do_not_name_their_residual_have_squares():
    values = PRNConfig().to_dict()
    del values["residual"]
    assert PRNConfig.from_dict(values).residual == "square"


def test_missing_field_is_refused():
    values = PRNConfig().to_dict()
    del values["projection"]
    with pytest.raises(ConfigError, match="projection"):
        PRNConfig.from_dict(values)


def test_unknown_field_is_refused():
    with pytest.raises(ConfigError, match="surprise"):
        PRNConfig.from_dict(PRNConfig().to_dict() | {"surprise": 1})


@pytest.mark.parametrize(
    ("side", "grids"),
    [(64, (1, 2, 4, 8)), (16, (1, 2, 4, 8)), (12, (1, 2, 4, 6)), (4, (1, 2, 4, 4)), (20, (1, 2, 4, 5))],
)
def test_grids_divide_the_map(side, grids):
    assert PRNConfig().attention_grids(side) == grids


def test_sides_follow_the_image():
    assert dataclasses.replace(PRNConfig(), image_size=320).sides == (80, 40, 20)
