"""Errors and what counts as a fault."""

import numpy as np
import pytest

from prn_fast.bench.answers import Answers, answers_to, marked_copies
from prn_fast.bench.parity import (
    TOLERANCES,
    compare,
    dependence_faults,
    form_faults,
    parity_faults,
    precision_of,
    stale,
)
from tests.bench.engines import ConvolutionEngine, blob_images


@pytest.fixture
def labelled() -> tuple[Answers, np.ndarray]:
    images, labels = blob_images()
    return answers_to(ConvolutionEngine(), images, 5), labels


@pytest.mark.parametrize(
    ("name", "precision"),
    [("eager", "fp32"), ("openvino:int8", "int8"), ("tensorrt-rtx:fp16", "fp16"), ("fused", "fp32"), ("x:y", "fp32")],
)
def test_an_unstated_precision_is_held_to_float32(name: str, precision: str) -> None:
    assert precision_of(name) == precision


def test_errors_are_those_that_were_put_in(labelled: tuple[Answers, np.ndarray]) -> None:
    reference, labels = labelled
    answers = Answers(reference.scores.copy(), reference.maps.copy())
    answers.scores[3] -= 0.25
    answers.maps[2, 5, 6] += 0.5
    parity = compare(answers, reference, labels)
    assert parity.score_max_error == pytest.approx(0.25, abs=1e-6)
    assert parity.score_mean_error == pytest.approx(0.25 / 12, abs=1e-6)
    assert parity.map_max_error == pytest.approx(0.5, abs=1e-6)
    assert parity.map_mean_error == pytest.approx(0.5 / reference.maps.size, rel=1e-3)


@pytest.mark.parametrize("precision", TOLERANCES)
def test_a_nan_error_is_over_every_tolerance(precision: str, labelled: tuple[Answers, np.ndarray]) -> None:
    reference, labels = labelled
    parity = compare(reference, reference, labels)
    assert parity_faults(parity, TOLERANCES[precision]) == []
    broken = type(parity)(**{**parity.to_dict(), "map_mean_error": float("nan")})
    assert parity_faults(broken, TOLERANCES[precision]) == [
        f"mean map error nan is over {TOLERANCES[precision].map_mean:g}"
    ]


def test_one_class_alone_has_no_auroc(labelled: tuple[Answers, np.ndarray]) -> None:
    reference, _ = labelled
    parity = compare(reference, reference, np.zeros(12, dtype=np.int64))
    assert parity.image_auroc is None
    assert parity.image_auroc_change is None


def test_a_constant_answer_has_a_relative_error_of_one(labelled: tuple[Answers, np.ndarray]) -> None:
    reference, labels = labelled
    constant = Answers(reference.scores, np.repeat(reference.maps.mean(axis=0, keepdims=True), 12, axis=0))
    assert compare(constant, reference, labels).relative_error == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("scores", "maps", "fault"),
    [
        (np.zeros((2, 1), np.float32), np.zeros((2, 4, 4), np.float32), "scores have shape (2, 1) instead of (2,)"),
        (np.zeros(2, np.float32), np.zeros((2, 4, 4), np.float64), "maps are float64 instead of float32"),
        (np.full(2, np.inf, np.float32), np.zeros((2, 4, 4), np.float32), "2 of 2 values of the scores"),
        (np.full(2, 1.5, np.float32), np.zeros((2, 4, 4), np.float32), "scores leave 0..1"),
    ],
    ids=["shape", "dtype", "infinite", "range"],
)
def test_malformed_answers(scores: np.ndarray, maps: np.ndarray, fault: str) -> None:
    (found,) = form_faults(Answers(scores, maps), 2, 4)
    assert found.startswith(fault)


def test_constant_scores_are_found_beside_good_maps(labelled: tuple[Answers, np.ndarray]) -> None:
    reference, _ = labelled
    assert dependence_faults(reference) == []
    assert dependence_faults(Answers(np.full(12, 0.5, np.float32), reference.maps)) == [
        "the scores do not depend on the image"
    ]


def test_a_marked_copy_gets_the_checked_answer_and_another_image_does_not() -> None:
    images, _ = blob_images()
    engine = ConvolutionEngine()
    known = answers_to(engine, images, 12)
    centre = Answers(known.scores.mean(keepdims=True), known.maps.mean(axis=0, keepdims=True))
    copies = marked_copies(images, np.random.default_rng(0))
    changed = (copies != images).reshape(12, -1).sum(axis=1)
    assert 1 <= changed.min() <= changed.max() <= 8
    assert np.abs(copies.astype(int) - images).max() == 1
    is_stale, fault = stale(answers_to(engine, copies, 12), known, centre)
    assert not is_stale.any()
    assert fault == ""
    shifted = Answers(np.roll(known.scores, 1), np.roll(known.maps, 1, axis=0))
    for other in (shifted, Answers(shifted.scores, known.maps)):
        is_stale, fault = stale(other, known, centre)
        assert is_stale.any()
        assert "not the checked answer" in fault
