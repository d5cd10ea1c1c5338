"""Every answer given while timed is compared with the checked one, at once or after the run."""

from collections.abc import Callable

import numpy as np
import pytest

from prn_fast.bench.engines.answers import answers_to, ask
from prn_fast.bench.engines.output_checks import KnownAnswers, SpotChecks
from tests.bench import stand_ins
from tests.bench.stand_ins import ConvolutionEngine, blob_images

CALLS = 30


@pytest.mark.parametrize("spot", [False, True], ids=["at once", "after the run"])
@pytest.mark.parametrize(
    ("make", "is_sound"),
    [
        (ConvolutionEngine, True),
        (stand_ins.WanderingEngine, False),
        (stand_ins.LastAnswerEngine, False),
        (lambda: stand_ins.LazyAfterChecksEngine(honest_calls=2), False),
        (stand_ins.EarlyEngine, False),
    ],
    ids=["sound", "wanders", "answers late", "repeats its last answer", "returns too early"],
)
def test_an_answer_that_is_not_the_checked_one_is_found(
    make: Callable[[], ConvolutionEngine], is_sound: bool, spot: bool
) -> None:
    images, _ = blob_images()
    known = KnownAnswers.of(images, answers_to(ConvolutionEngine(), images, 12))
    engine, rng = make(), np.random.default_rng(3)
    checks = SpotChecks(known, rng)
    faults = []
    for _ in range(CALLS):
        indices = rng.integers(len(images), size=3)
        given = ask(engine, images[indices])
        if spot:
            checks.keep(given, indices)
        else:
            faults += known.faults(indices, given)
    faults += checks.verdict()
    assert (faults == []) == is_sound, faults


def test_a_call_of_images_that_are_not_known_alone_is_judged_by_its_form() -> None:
    images, _ = blob_images()
    engine = ConvolutionEngine()
    checks = SpotChecks(KnownAnswers.of(images, answers_to(engine, images, 12)), np.random.default_rng(0))
    others = np.random.default_rng(1).integers(0, 256, images[:3].shape, dtype=np.uint8)
    checks.keep(ask(engine, others), np.full(3, -1))
    assert checks.verdict() == []

    given = ask(engine, others)
    given.maps[1, 0] = np.nan
    checks.keep(given, np.full(3, -1))
    assert checks.verdict() == ["maps given while timed are NaN, infinite or outside 0..1"]
