"""One table: every way to a verdict on an image, and all of them agree on the same images.

What is the same: an engine's verification states a band around the threshold (`VerdictParity.band`), the largest
difference of its scores from float32 eager's. Farther away than that, in float32, every verdict is float32's. For
float32 engines the band is a few roundings wide; for int8 and half precision it holds images that may fall on either
side.
"""

import csv
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from prn_fast.build import build_engine
from prn_fast.build.candidate import BuildOptions
from prn_fast.build.profiles import BatchProfile
from prn_fast.build.tensorrt import builds_rtx
from prn_fast.cli.evaluate import main as prn_eval
from prn_fast.data.images import write_image
from prn_fast.engine import Detections, open_engine
from prn_fast.engine.parity import TOLERANCES, precision_of
from prn_fast.kernels import FUSED
from prn_fast.linescan.embedding import EngineHost
from prn_fast.model.engine_graph import EngineGraph
from prn_fast.package import Package
from tests import needs
from tests.linescan.hosts import compiled_host, run
from tests.small_package import textured_images

# What a C or C++ host, a table or a file is given, comes from this one.
ENGINE = "optimized"
INT8 = "openvino:int8"
# Of what is not built, and so not verified.
BANDS = {"fp32": TOLERANCES["fp32"].score, "fp16": 0.01}


@dataclass(frozen=True)
class Verdicts:
    """Of N images."""

    defective: np.ndarray
    scores: np.ndarray
    raw_scores: np.ndarray


@dataclass(frozen=True)
class Case:
    """A package, images of both kinds, and a folder to work in."""

    package: Package
    images: np.ndarray
    folder: Path


@pytest.fixture(scope="module")
def case(built_package_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    package = Package.open(built_package_path)
    return Case(package, package.validation().images, tmp_path_factory.mktemp("verdicts"))


@pytest.fixture(scope="module")
def int8_case(built_package_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The same package, with an engine in eight bits."""
    folder = tmp_path_factory.mktemp("int8")
    shutil.copytree(built_package_path, folder / "small.prn")
    package = Package.open(folder / "small.prn")
    build_engine(package, "openvino", "int8")
    return Case(package, package.validation().images, folder)


@pytest.fixture(scope="module")
def eager(case: Case) -> Verdicts:
    return by_engine("eager")(case)


def by_engine(name: str) -> Callable[[Case], Verdicts]:
    def verdicts(case: Case) -> Verdicts:
        with open_engine(case.package, name, batch=5) as engine:
            found = engine.infer(case.images)
        return Verdicts(found.defective, found.scores, found.raw_scores)

    return verdicts


def by_graph(case: Case) -> Verdicts:
    """The graph that TensorRT-RTX compiles for a GPU, on this CPU, every tensor rounded as it says."""
    options = BuildOptions(BatchProfile(1, 2, 4), ("8.9",))
    candidate = next(builds_rtx(case.package, "fp16", case.folder, options))
    with candidate.stand_in() as engine:
        found = engine.infer(case.images)
    return Verdicts(found.defective, found.scores, found.raw_scores)


def by_kernels(case: Case) -> Verdicts:
    """The network of the engine `fused`, its Triton kernels in the interpreter where there is no GPU."""
    graph = EngineGraph(case.package.model(), FUSED, torch.float16, torch.channels_last)
    with torch.no_grad():
        scores, maps = graph(torch.from_numpy(case.images))
    found = Detections.of(scores.numpy(), maps.numpy(), case.package.calibration("threshold"))
    return Verdicts(found.defective, found.scores, found.raw_scores)


def by_binding(case: Case, engine: str = ENGINE) -> Verdicts:
    """The Python side of the C interface, with memory of the caller's."""
    count = len(case.images)
    defective, scores, raw = np.zeros(count, np.uint8), np.zeros(count, np.float32), np.zeros(count, np.float32)
    host = EngineHost(str(case.package.path), engine)
    host.infer(
        memoryview(case.images).cast("B"), *(memoryview(one).cast("B") for one in (defective, scores, raw)), None
    )
    host.close()
    return Verdicts(defective.astype(bool), scores, raw)


def by_prn_eval(case: Case, engine: str, read: Callable[[Path], list[dict]]) -> Verdicts:
    folder = case.folder / "images"
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(case.images):
        write_image(folder / f"{number:03}.png", image)
    output = case.folder / "predictions"
    assert prn_eval([str(case.package.path), "--images", str(folder), "--engine", engine, "--output", str(output)]) == 0
    rows = sorted(read(output), key=lambda row: row["path"])
    return Verdicts(
        np.array([{"defect": True, "good": False}[row["verdict"]] for row in rows]),
        np.array([row["score"] for row in rows], np.float32),
        np.array([row["raw_score"] for row in rows], np.float32),
    )


def by_csv(case: Case, engine: str = ENGINE) -> Verdicts:
    return by_prn_eval(case, engine, lambda output: list(csv.DictReader((output / "predictions.csv").open())))


def by_json_lines(case: Case, engine: str = ENGINE) -> Verdicts:
    return by_prn_eval(case, engine, lambda output: list(map(json.loads, (output / "predictions.jsonl").open())))


def by_host(source: str, compiler: str, said: str, engine: str = ENGINE) -> Callable[[Case], Verdicts]:
    """A program in C or C++ that gives the images in memory."""

    def verdicts(case: Case) -> Verdicts:
        folder = case.folder / source
        host = compiled_host(source, compiler, ("engine",), folder)
        (folder / "images").write_bytes(case.images.tobytes())
        arguments = [str(case.package.path), engine, "images", str(len(case.images)), sys.executable]
        done = run([str(host), *arguments], cwd=folder)
        assert said in done.stderr
        rows = np.array([line.split() for line in done.stdout.splitlines()], float)
        assert set(rows[:, 3]) == {case.package.calibration("threshold")}
        return Verdicts(rows[:, 0].astype(bool), rows[:, 1].astype(np.float32), rows[:, 2].astype(np.float32))

    return verdicts


HOSTS = (needs.cpp_compiler, needs.embeddable_python)
# How a verdict is had, and the engine behind it.
WAYS = [
    pytest.param(by_engine("eager"), "eager", id="eager"),
    pytest.param(by_engine("optimized"), "optimized", id="optimized"),
    pytest.param(by_engine("openvino:fp32"), "openvino:fp32", id="openvino:fp32"),
    pytest.param(by_engine(INT8), INT8, id=INT8, marks=pytest.mark.long),
    pytest.param(by_graph, "tensorrt-rtx:fp16", id="graph of tensorrt-rtx:fp16", marks=pytest.mark.long),
    pytest.param(by_kernels, "fused:fp16", id="kernels of fused:fp16", marks=[pytest.mark.long, needs.no_gpu]),
    pytest.param(by_engine("fused:fp16"), "fused:fp16", id="fused:fp16", marks=needs.gpu),
    pytest.param(by_binding, ENGINE, id="binding"),
    pytest.param(partial(by_binding, engine=INT8), INT8, id="binding, int8", marks=pytest.mark.long),
    pytest.param(by_csv, ENGINE, id="CSV"),
    pytest.param(by_json_lines, ENGINE, id="JSON lines"),
    pytest.param(partial(by_csv, engine=INT8), INT8, id="CSV, int8", marks=pytest.mark.long),
    pytest.param(by_host("verdicts.c", "gcc", "no.prn: no such package"), ENGINE, id="C", marks=HOSTS),
    pytest.param(by_host("verdicts.cpp", "g++", "unknown backend 'warp'"), ENGINE, id="C++", marks=HOSTS),
    pytest.param(
        by_host("verdicts.c", "gcc", "no.prn: no such package", INT8),
        INT8,
        id="C, int8",
        marks=[*HOSTS, pytest.mark.long],
    ),
]


@pytest.mark.parametrize(("way", "engine"), WAYS)
def test_all_ways_lead_to_the_same_verdicts(
    request: pytest.FixtureRequest, case: Case, eager: Verdicts, way, engine
) -> None:
    case = request.getfixturevalue("int8_case") if engine == INT8 else case
    found = way(case)
    threshold = case.package.calibration("threshold")
    np.testing.assert_array_equal(found.scores >= 0.5, found.defective)
    np.testing.assert_array_equal(found.raw_scores.astype(np.float64) >= threshold, found.defective)
    built = case.package.engines.get(engine)
    # A score is written, read and computed again: a rounding may come to what verification saw.
    band = BANDS[precision_of(engine)] if built is None else built["verification"]["verdicts"]["band"] + 1e-5
    assert band <= TOLERANCES[precision_of(engine)].score
    assert np.abs(found.raw_scores - eager.raw_scores).max() <= band
    # The threshold of the package lies just above the score of one of these images, which may fall on either side.
    sure = np.abs(eager.raw_scores - threshold) > band
    assert sure.sum() >= (len(sure) - 2 if precision_of(engine) == "fp32" else len(sure) // 2)
    assert 0 < eager.defective[sure].sum() < sure.sum()
    np.testing.assert_array_equal(found.defective[sure], eager.defective[sure])


@pytest.mark.long
def test_new_images_have_the_verdicts_of_float32_outside_the_band_of_int8(int8_case: Case) -> None:
    """The band comes of n images: of as many new ones, one is expected to differ by more, and five are not."""
    images = textured_images(len(int8_case.images), 1, 901)
    with open_engine(int8_case.package, "optimized") as engine:
        expected = engine.infer(images)
    with open_engine(int8_case.package, INT8) as engine:
        found = engine.infer(images)
    band = int8_case.package.engines[INT8]["verification"]["verdicts"]["band"]
    beyond = np.abs(found.raw_scores - expected.raw_scores) > band
    assert beyond.sum() < 5
    sure = ~beyond & (np.abs(expected.raw_scores - int8_case.package.calibration("threshold")) > band)
    np.testing.assert_array_equal(found.defective[sure], expected.defective[sure])
