import resource

import numpy as np
import openvino
import pytest

from prn_fast.build import build_engine
from prn_fast.build.candidate import BuildOptions
from prn_fast.build.openvino import _save
from prn_fast.build.quantization import ATTEMPTS
from prn_fast.build.verify import VerdictParity
from prn_fast.engine import Detections
from prn_fast.engine.openvino_graph import float_types, stated_float_type
from prn_fast.engine.parity import TOLERANCES, Parity, compare, faults
from prn_fast.errors import EngineError, StorageError
from prn_fast.package import Package
from tests.small_package import SIDE


def detections(offset: float = 0.0) -> Detections:
    rng = np.random.default_rng(0)
    scores, maps = rng.random(6, np.float32) * 0.5, rng.random((6, SIDE, SIDE), np.float32) * 0.5
    return Detections.of(scores + np.float32(offset), maps + np.float32(offset))


def test_a_build_records_its_verification(built_package_path):
    entry = Package.open(built_package_path).engines["openvino:fp32"]
    verification = entry["verification"]
    assert verification["faults"] == []
    assert verification["parity"]["images"] == 24
    assert verification["parity"]["max_score"] < 1e-4
    assert verification["reference_metrics"]["image_auroc"] == 1.0
    assert verification["verdicts"]["band"] == verification["parity"]["max_score"]
    assert verification["verdicts"]["images"] == 24
    # The threshold lies just above the score of one of them.
    assert verification["verdicts"]["differ"] <= verification["verdicts"]["inside"] <= 1
    assert set(verification["metric_change"]) == set(verification["reference_metrics"])
    assert set(entry["versions"]) == {"openvino"}
    assert entry["commit"]
    assert entry["machine"]


@pytest.mark.long
def test_a_build_that_fails_verification_is_not_kept(package, monkeypatch):
    import dataclasses

    impossible = dataclasses.replace(TOLERANCES["fp32"], mean_map=0.0)
    monkeypatch.setitem(TOLERANCES, "fp32", impossible)
    with pytest.raises(EngineError, match="failed verification and is not kept: mean map error"):
        build_engine(package, "openvino", "fp32")
    assert Package.open(package.path).engines == {}
    assert [path for path in (package.path / "engines").rglob("*") if path.is_file()] == []


def test_a_disk_that_is_full_is_named(tmp_path):
    values = np.random.default_rng(0).random(2**20, np.float32)
    graph = openvino.Model([openvino.opset13.constant(values)], [], "graph")
    # A limit on a file's size stands for the disk.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"model\.xml: cannot be written .*is the disk full\?"):
            _save(graph, tmp_path / "model.xml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.long
def is_int8(operation):
    return operation.get_element_type().get_type_name() == "i8"


def test_int8_convolutions_are_quantised_and_only_where_meant(package, tmp_path):
    import openvino

    from prn_fast.build import openvino as builder

    candidate = next(builder.builds(package, "int8", tmp_path, BuildOptions()))
    graph = openvino.Core().read_model(candidate.folder / "model.xml")
    record = candidate.record
    sources = [op for op in graph.get_ops() if op.get_type_name() == "FakeQuantize"]
    fed = {target.get_node().get_friendly_name() for op in sources for target in op.output(0).get_target_inputs()}
    assert len(sources) > 20
    assert any(name.endswith("/WithoutBiases") for name in fed)
    # lite0 has 49 backbone convolutions and six in the first fusion, applied twice: none of those is touched.
    convolutions = [op for op in graph.get_ops() if op.get_type_name() in ("Convolution", "GroupConvolution")]
    untouched = [op for op in convolutions if op.input_value(0).get_node().get_type_name() != "FakeQuantize"]
    assert len(untouched) >= 49
    # Of eight bits, two products of 255 and -128 overflow the 16 bits in which AVX2 and AVX-512 add them.
    weights = [op.get_data() for op in graph.get_ops() if op.get_type_name() == "Constant" and is_int8(op)]
    assert len(weights) > 10
    assert max(np.abs(values.astype(int)).max() for values in weights) <= 64
    assert record["calibration_images"] == 32
    assert record["quantized"] == list(ATTEMPTS[0])
    assert record["float"] == float_types()[0] == stated_float_type(graph, candidate.folder)
    assert set(record["versions"]) == {"openvino", "nncf"}


@pytest.mark.parametrize(
    ("backend", "precision", "message"),
    [("cuda", None, "unknown backend"), ("openvino", "int3", "no precision"), ("eager", None, "needs no build")],
)
def test_what_cannot_be_built_is_refused(package, backend, precision, message):
    with pytest.raises(EngineError, match=message):
        build_engine(package, backend, precision)


def test_verdicts_differ_within_the_band_alone():
    raw, maps = np.linspace(0.1, 0.9, 9).astype(np.float32), np.zeros((9, SIDE, SIDE), np.float32)
    shifted = raw.copy()
    shifted[[1, 3, 4]] += np.float32([-0.05, 0.16, 0.03])
    found = VerdictParity.of(Detections.of(shifted, maps, 0.52), Detections.of(raw, maps, 0.52), 0.52)
    # 0.4 has become 0.56 and 0.5 has become 0.53. 0.4, 0.5 and 0.6 lie in the band.
    assert found.band == pytest.approx(0.16, abs=1e-6)
    assert (found.images, found.inside, found.differ) == (9, 3, 2)


def test_differences_are_measured():
    parity = compare(detections(0.25), detections())
    assert parity.images == 6
    for value in (parity.max_score, parity.mean_score, parity.max_map, parity.mean_map):
        assert value == pytest.approx(0.25, abs=1e-5)


@pytest.mark.parametrize(
    ("parity", "auroc_loss", "count"),
    [
        (Parity(4, 0.0, 0.0, 0.0, 0.0, 0.0), 0.0, 0),
        (Parity(4, 0.0, 0.0, 0.0, 0.0, 0.0), -0.1, 0),
        (Parity(4, 0.9, 0.1, 0.9, 0.1, 0.0), 0.1, 3),
        (Parity(4, float("nan"), 0.0, 0.0, 0.0, 0.0), 0.0, 1),
        (Parity(4, 0.0, 0.0, 0.0, 0.0, 0.0), float("nan"), 1),
    ],
    ids=["equal", "better", "all-beyond", "nan-score", "nan-auroc"],
)
def test_faults_name_what_is_beyond_tolerance(parity, auroc_loss, count):
    assert len(faults(parity, auroc_loss, TOLERANCES["int8"])) == count
