"""Second looks: an answer that a mark has moved is right, one that another call would not give is not."""

from collections.abc import Callable

import numpy as np
import pytest

from prn_fast.bench.answers import answers_to, ask, marked_copies
from prn_fast.bench.known import Known, SpotChecks
from tests.bench import engines
from tests.bench.engines import ConvolutionEngine, blob_images

CALLS = 30


@pytest.mark.parametrize("spot", [False, True], ids=["at once", "after the run"])
@pytest.mark.parametrize(
    ("make", "moves", "is_sound"),
    [
        (ConvolutionEngine, False, True),
        (engines.TippingEngine, True, True),
        (engines.WanderingEngine, True, False),
        (engines.LastAnswerEngine, True, False),
        (lambda: engines.LazyAfterChecksEngine(honest_calls=2), True, False),
        (engines.EarlyEngine, True, False),
    ],
    ids=["sound", "tips over", "wanders", "answers late", "repeats its last answer", "returns too early"],
)
def test_a_moved_answer_passes_if_the_engine_gives_it_again(
    make: Callable[[], ConvolutionEngine], moves: bool, is_sound: bool, spot: bool
) -> None:
    images, _ = blob_images()
    answers = answers_to(make() if is_sound else ConvolutionEngine(), images, 12)
    known = Known.of(images, answers)
    engine, rng = make(), np.random.default_rng(3)
    checks = SpotChecks(known, engine, rng)
    faults, moved = [], False
    for _ in range(CALLS):
        indices = rng.integers(len(images), size=3)
        copies = marked_copies(images[indices], rng)
        given = ask(engine, copies)
        moved |= bool(np.abs(given.maps - answers.maps[indices]).max() > 0.5)
        if spot:
            checks.keep(given, indices, lambda copies=copies: copies)
        else:
            faults += known.faults(engine, copies, indices, given)
    faults += checks.verdict()
    assert moved == moves
    assert (faults == []) == is_sound, faults


def test_a_call_of_images_that_are_not_known_alone_is_judged_by_its_form() -> None:
    images, _ = blob_images()
    engine = ConvolutionEngine()
    checks = SpotChecks(Known.of(images, answers_to(engine, images, 12)), engine, np.random.default_rng(0))
    others = np.random.default_rng(1).integers(0, 256, images[:3].shape, dtype=np.uint8)
    checks.keep(ask(engine, others), np.full(3, -1), lambda: others)
    assert checks.verdict() == []

    given = ask(engine, others)
    given.maps[1, 0] = np.nan
    checks.keep(given, np.full(3, -1), lambda: others)
    assert checks.verdict() == ["maps given while timed are NaN, infinite or outside 0..1"]


def test_an_engine_that_fails_when_it_is_asked_again_is_a_fault() -> None:
    images, _ = blob_images()
    known = Known.of(images, answers_to(ConvolutionEngine(), images, 12))
    engine = engines.BreaksWhenAskedAgainEngine()
    checks = SpotChecks(known, engine, np.random.default_rng(0))
    for index in range(10):
        checks.keep(ask(engine, images[[index]]), np.array([index]), lambda index=index: images[[index]])
    stale, raised = checks.verdict()
    assert "not the checked answer" in stale
    assert raised == "raised RuntimeError when asked again: device lost"
