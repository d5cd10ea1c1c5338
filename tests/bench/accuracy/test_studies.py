"""Studies: every variant is something that the commands take."""

import pytest

from prn_fast.bench.accuracy import nearest_patch
from prn_fast.bench.accuracy.run import plan_run
from prn_fast.bench.accuracy.studies import STUDIES, Variant, study_named
from prn_fast.cli import evaluate, train
from prn_fast.errors import ConfigError

VARIANTS = {f"{name}-{variant.name}": variant for name, study in STUDIES.items() for variant in study.variants}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_the_commands_take_the_options_of_every_variant(variant: Variant) -> None:
    plan = plan_run(variant, 3, "tiles", 20.0)
    if variant.yardstick:
        parsed = nearest_patch.make_parser().parse_args(plan.evaluate)
        assert (str(parsed.data), str(parsed.output), parsed.seed) == ("tiles", plan.evaluation, 3)
        return
    parsed = train.make_parser().parse_args(plan.train)
    assert (str(parsed.data), str(parsed.output), parsed.seed, parsed.minutes) == ("tiles", plan.package, 3, 20.0)
    assert str(evaluate.make_parser().parse_args(plan.evaluate).output) == plan.evaluation


@pytest.mark.parametrize("name", STUDIES)
def test_variants_of_a_study_differ(name: str) -> None:
    variants = STUDIES[name].variants
    plans = [plan_run(variant, 0, "tiles", None) for variant in variants]
    assert len({(plan.train, plan.evaluate) for plan in plans}) == len(variants)
    assert len({variant.name for variant in variants}) == len(variants)


def test_an_unknown_study_is_named() -> None:
    with pytest.raises(ConfigError, match="no study is called 'speed'; choose one of products, "):
        study_named("speed")


def test_only_some_studies_train_a_screen_and_have_the_default_map() -> None:
    for name, study in STUDIES.items():
        whole = name in ("products", "normals", "parts", "exit", "backbones")
        for variant in study.variants:
            options = variant.train_options()
            assert ("--screen" in options) == whole
            # A yardstick trains nothing, and does not know the options.
            published = not whole and not variant.yardstick
            assert ("--no-screen" in options) == ("--map" in options) == published


def test_trainings_that_are_alike_share_a_package() -> None:
    packages = {
        plan_run(STUDIES[study].variants[0], 1, "tiles", None).package
        for study in ("products", "normals", "parts", "exit", "backbones")
    }
    assert len(packages) == 1
