"""Errors and what counts as a fault."""

from dataclasses import replace

import numpy as np
import pytest

from prn_fast.bench.engines.agreement import Agreement, dependence_faults, form_faults
from prn_fast.bench.engines.answers import answers_to
from prn_fast.bench.engines.output_checks import stale
from prn_fast.engine import BACKENDS
from prn_fast.engine.base import Detections
from prn_fast.engine.parity import TOLERANCES, compare, precision_of
from tests.bench.stand_ins import ConvolutionEngine, blob_images


@pytest.fixture
def labelled() -> tuple[Detections, np.ndarray]:
    images, labels = blob_images()
    return answers_to(ConvolutionEngine(), images, 5), labels


@pytest.mark.parametrize(
    ("name", "precision"),
    [("eager", "fp32"), ("openvino:int8", "int8"), ("tensorrt-rtx:fp16", "fp16"), ("fused", "fp32"), ("x:y", "fp32")],
)
def test_an_unstated_precision_is_held_to_float32(name: str, precision: str) -> None:
    assert precision_of(name) == precision


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_precision_of_each_backend_has_tolerances_of_its_own(backend: str) -> None:
    for precision in BACKENDS[backend].precisions:
        assert precision_of(f"{backend}:{precision}") == precision


def test_errors_are_those_that_were_put_in(labelled: tuple[Detections, np.ndarray]) -> None:
    reference, _ = labelled
    answers = Detections.of(reference.raw_scores.copy(), reference.maps.copy())
    answers.raw_scores[3] -= 0.25
    answers.maps[2, 5, 6] += 0.5
    parity = compare(answers, reference)
    assert parity.max_score == pytest.approx(0.25, abs=1e-6)
    assert parity.mean_score == pytest.approx(0.25 / 12, abs=1e-6)
    assert parity.max_map == pytest.approx(0.5, abs=1e-6)
    assert parity.mean_map == pytest.approx(0.5 / reference.maps.size, rel=1e-3)


@pytest.mark.parametrize("precision", TOLERANCES)
def test_a_nan_error_is_over_every_tolerance(precision: str, labelled: tuple[Detections, np.ndarray]) -> None:
    reference, labels = labelled
    agreement = Agreement.of(reference, reference, labels)
    assert agreement.faults(TOLERANCES[precision]) == []
    broken = replace(agreement, parity=replace(agreement.parity, mean_map=float("nan")))
    assert broken.faults(TOLERANCES[precision]) == [f"mean map error nan is over {TOLERANCES[precision].mean_map:g}"]


def test_one_class_alone_has_no_auroc(labelled: tuple[Detections, np.ndarray]) -> None:
    reference, _ = labelled
    agreement = Agreement.of(reference, reference, np.zeros(12, dtype=np.int64))
    assert agreement.image_auroc is None
    assert agreement.image_auroc_change is None


def test_a_constant_answer_has_a_relative_error_of_one(labelled: tuple[Detections, np.ndarray]) -> None:
    reference, _ = labelled
    constant = Detections.of(reference.raw_scores, np.repeat(reference.maps.mean(axis=0, keepdims=True), 12, axis=0))
    assert compare(constant, reference).relative_map == pytest.approx(1.0, abs=1e-3)


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
    (found,) = form_faults(Detections.of(scores, maps), 2, 4)
    assert found.startswith(fault)


def test_constant_scores_are_found_beside_good_maps(labelled: tuple[Detections, np.ndarray]) -> None:
    reference, _ = labelled
    assert dependence_faults(reference) == []
    assert dependence_faults(Detections.of(np.full(12, 0.5, np.float32), reference.maps)) == [
        "the scores do not depend on the image"
    ]


def test_the_checked_answer_passes_and_that_of_another_image_does_not() -> None:
    images, _ = blob_images()
    engine = ConvolutionEngine()
    known = answers_to(engine, images, 12)
    centre = Detections.of(known.raw_scores.mean(keepdims=True), known.maps.mean(axis=0, keepdims=True))
    assert stale(answers_to(engine, images, 5), known, centre) == ""
    shifted = Detections.of(np.roll(known.raw_scores, 1), np.roll(known.maps, 1, axis=0))
    for other in (shifted, Detections.of(shifted.raw_scores, known.maps)):
        assert "not the checked answer" in stale(other, known, centre)
