"""The backends that the table in `test_every_backend.py` is run on, and what the right answers of each are."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch

from prn_fast.build.export import export_onnx
from prn_fast.build.graph_engine import OnnxRuntimeGraph, OpenVINOGraph
from prn_fast.engine import BACKENDS, Engine, open_engine
from prn_fast.package import Package
from prn_fast.training.test_time_augmentation import FlipAveragedEngine, flip_averaged
from tests import needs
from tests.built_once import built_once
from tests.engine.host_gpu import open_on_host
from tests.small_package import SIDE

# Images in one run: small, so that a few images are split.
BATCH = 2
Fixtures = Callable[[str], object]


class Pixels(Engine):
    """The base class and nothing else: maps are the pixels as they lie in memory, scores their means."""

    def run(self, images):
        assert images.flags.c_contiguous
        maps = np.frombuffer(images.tobytes(), np.uint8).reshape(images.shape)[..., 0] / np.float32(255)
        return maps.mean(axis=(1, 2)), maps


@dataclass(frozen=True)
class Backend:
    """One column of the table.

    Attributes:
        open: the engine, by the suite's fixtures.
        truth: maps (N, S, S) of images, by the suite's fixtures.
        mean_map, score: how far the mean of a map, and a score, may be from the truth.
    """

    open: Callable[[Fixtures], AbstractContextManager[Engine]]
    truth: Callable[[Fixtures, np.ndarray], np.ndarray]
    mean_map: float = 1e-4
    score: float = 1e-3


def network_maps(fixtures: Fixtures, images: np.ndarray) -> np.ndarray:
    """What the package's network gives in float64."""
    model = Package.open(fixtures("built_package_path")).model().double()
    with torch.no_grad():
        return model.detect(torch.from_numpy(np.ascontiguousarray(images)))[1].numpy()


def flipped_maps(fixtures: Fixtures, images: np.ndarray) -> np.ndarray:
    return flip_averaged(lambda turned: network_maps(fixtures, turned), images)


def pixel_maps(_: Fixtures, images: np.ndarray) -> np.ndarray:
    return images[..., 0] / np.float32(255)


def of_package(name: str) -> Callable[[Fixtures], AbstractContextManager[Engine]]:
    return lambda fixtures: open_engine(fixtures("built_package_path"), name, batch=BATCH)


@contextlib.contextmanager
def flips(fixtures: Fixtures) -> Iterator[Engine]:
    with of_package("optimized")(fixtures) as engine, FlipAveragedEngine(engine) as averaged:
        yield averaged


def of_graph(kind: type[Engine]) -> Callable[[Fixtures], AbstractContextManager[Engine]]:
    def opened(fixtures: Fixtures) -> Engine:
        package = Package.open(fixtures("built_package_path"))
        return kind(package, built_once("openvino/graph.onnx", partial(export_onnx, package.model())))

    return opened


TABLE = {
    "eager": Backend(of_package("eager"), network_maps),
    "optimized": Backend(of_package("optimized"), network_maps),
    "openvino:fp32": Backend(of_package("openvino:fp32"), network_maps),
    "fused:fp32": Backend(of_package("fused:fp32"), network_maps),
    "fused:fp16": Backend(of_package("fused:fp16"), network_maps, mean_map=0.01, score=0.01),
    "onnxruntime graph": Backend(of_graph(OnnxRuntimeGraph), network_maps),
    "openvino graph": Backend(of_graph(OpenVINOGraph), network_maps),
    "optimized, flips": Backend(flips, flipped_maps),
    # Their arithmetic is a stand-in; all else is the runner's.
    "tensorrt-rtx": Backend(lambda fixtures: open_on_host(fixtures("rtx_package_path"), batch=BATCH), pixel_maps),
    "base class": Backend(lambda _: Pixels("base class", SIDE, 1, BATCH), pixel_maps),
}
# Their score is the mean of the map.
STAND_INS = ("tensorrt-rtx", "base class")
assert {name.split(":")[0] for name in TABLE} >= BACKENDS.keys() - {"tensorrt"}, "tensorrt runs as tensorrt-rtx does"
# The published formulation is slow, and graphs are exported first.
MARKS = {
    "fused": needs.gpu,
    "eager": pytest.mark.long,
    "onnxruntime graph": pytest.mark.long,
    "openvino graph": pytest.mark.long,
}
PARAMETERS = [pytest.param(name, marks=MARKS.get(name.split(":")[0], ())) for name in TABLE]
