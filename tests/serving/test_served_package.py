"""A package on the real tritonserver, asked by `RemoteEngine` and by the library of other programs."""

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prn_fast.engine import open_engine
from prn_fast.engine.remote import RemoteEngine
from prn_fast.engine.served import MAPS, SCORES, VERDICTS, Canary
from prn_fast.errors import EngineError, EngineUnavailableError
from prn_fast.linescan.core import LineRing
from prn_fast.linescan.embedding import Host
from prn_fast.linescan.inspector import open_inspector
from prn_fast.package import Package
from prn_fast.serving.tritonserver import TritonServer
from tests import needs
from tests.small_package import SIDE, textured_images, write_package

pytestmark = needs.tritonserver
WAYS = [(scheme, memory) for scheme in ("grpc", "http") for memory in ("on", "off")]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return textured_images(21, 1, seed=7)


@pytest.fixture(scope="module")
def local(built_package_path: Path, images: np.ndarray):
    with open_engine(built_package_path, "openvino:fp32") as engine:
        return engine.infer(images)


def regions() -> list[str]:
    return [entry.name for entry in Path("/dev/shm").glob("prn_fast-[0-9]*")]


@pytest.mark.parametrize(("scheme", "memory"), WAYS, ids=["-".join(way) for way in WAYS])
def test_answers_are_those_of_the_local_engine(server: TritonServer, images, local, scheme, memory) -> None:
    (address,) = server.addresses(scheme)
    with open_engine(f"{address}?shared_memory={memory}&in_flight=3") as engine:
        assert isinstance(engine, RemoteEngine)
        assert engine.uses_shared_memory == (memory == "on")
        assert (engine.image_size, engine.image_channels, engine.batch) == (SIDE, 1, 8)
        assert engine.description.engine == "openvino:fp32"
        assert engine.ready
        for part in (images, images[:1], images[3:12]):
            found = engine.infer(part)
            expected = local.maps[[int(np.flatnonzero((images == one).all(axis=(1, 2, 3)))[0]) for one in part]]
            np.testing.assert_allclose(found.maps, expected, atol=1e-5)
        np.testing.assert_allclose(engine.infer(images).raw_scores, local.raw_scores, atol=1e-5)


def test_no_shared_memory_is_left(server: TritonServer, images) -> None:
    before = regions()
    engine = open_engine(server.addresses()[0])
    assert len(regions()) == len(before) + 2
    engine.close()
    assert regions() == before


def test_other_programs_get_scores_verdicts_and_maps(server: TritonServer, built_package_path, images, local) -> None:
    import tritonclient.grpc as library

    client = library.InferenceServerClient(server.addresses()[0].split("/")[2])
    asked = library.InferInput("images", images[:5].shape, "UINT8")
    asked.set_data_from_numpy(images[:5])
    result = client.infer("small", [asked])
    client.close()
    threshold = Package.open(built_package_path).calibration("threshold")
    np.testing.assert_allclose(result.as_numpy(SCORES)[:, 0], local.scores[:5], atol=1e-5)
    np.testing.assert_array_equal(result.as_numpy(VERDICTS)[:, 0], local.raw_scores[:5] >= threshold)
    np.testing.assert_allclose(result.as_numpy(MAPS), local.maps[:5], atol=1e-5)


def test_threads_and_engines_get_the_answers_to_their_own_images(server: TritonServer, images, local) -> None:
    """The server joins requests of many lines to one batch."""
    address = server.addresses()[0]
    engines = [open_engine(address, shared_memory=memory) for memory in ("on", "off")]

    def ask(number: int) -> None:
        first = number % 15
        found = engines[number % 2].infer(images[first : first + 1 + number % 6])
        np.testing.assert_allclose(found.raw_scores, local.raw_scores[first : first + 1 + number % 6], atol=1e-5)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(40)))
    for engine in engines:
        engine.close()


def test_the_checks_are_those_of_every_engine(server: TritonServer, images) -> None:
    engine = open_engine(server.addresses()[0])
    with pytest.raises(EngineError, match="dtype float32"):
        engine.infer(images.astype(np.float32))
    with pytest.raises(EngineError, match="shape"):
        engine.infer(images[:, :32])
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(images)


def infer_in_child(engine: RemoteEngine, images: np.ndarray, answers) -> None:
    try:
        engine.infer(images)
    except EngineError as error:
        answers.put(str(error))


def test_a_fork_is_refused(server: TritonServer, images) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with open_engine(server.addresses()[0]) as engine:
        child = context.Process(target=infer_in_child, args=(engine, images, answers))
        child.start()
        assert "is a fork of it" in answers.get(timeout=60)
        child.join()
        assert len(engine.infer(images).raw_scores) == len(images)


def test_only_the_package_that_was_asked_for_is_accepted(server, built_package_path, tmp_path) -> None:
    address = server.addresses()[0]
    with open_engine(built_package_path, address) as engine:
        assert engine.ready
    other = write_package(tmp_path / "small.prn", seed=3)
    with pytest.raises(EngineError, match="serves another package than"):
        open_engine(other, address)
    with pytest.raises(EngineError, match="leave out 'optimized'"):
        open_engine(address, "optimized")


def test_wrong_answers_are_not_ready(server: TritonServer, monkeypatch) -> None:
    with open_engine(server.addresses()[0]) as engine:
        canary = engine.description.canary
        wrong = replace(engine.description, canary=Canary(canary.images, canary.scores[::-1].copy(), canary.levels))
        monkeypatch.setattr(engine, "_described", lambda: wrong)
        assert not engine.ready
        with pytest.raises(EngineError, match="wrong answers to known images: score differs by"):
            engine.verify()


def test_another_model_under_the_same_name_is_not_taken_for_it(server: TritonServer, images) -> None:
    """As after a restart that the client has not noticed, with another package in the repository."""
    with open_engine(server.addresses()[0]) as engine:
        engine.description = replace(engine.description, threshold=engine.description.threshold / 2)
        with pytest.raises(EngineError, match="serves other weights or thresholds than it did; open it again"):
            engine.infer(images)


def test_what_is_not_served_is_told(server: TritonServer) -> None:
    address = server.addresses()[0]
    with pytest.raises(EngineError, match="unknown model"):
        open_engine(f"{address}-2", patience=0.0)
    with pytest.raises(EngineError, match=r"is not available|unknown model|not found"):
        open_engine(f"{address}/7", patience=0.0)


def test_an_inspector_takes_the_threshold_of_the_server(server: TritonServer, built_package_path) -> None:
    inspector = open_inspector(server.addresses()[0], width=200)
    assert inspector.settings.threshold == Package.open(built_package_path).calibration("pixel_threshold")
    assert inspector.engine.patience == 0
    inspector.engine.close()


def test_a_cpp_host_takes_an_address(server: TritonServer, built_package_path, monkeypatch) -> None:
    monkeypatch.setattr(LineRing, "from_capsule", staticmethod(lambda ring: ring), raising=False)
    for package, engine in ((server.addresses()[0], ""), (str(built_package_path), server.addresses()[0])):
        host = Host(package, width=200, pixel_format=0x01080001, overlap=16, engine=engine)
        ring = LineRing(200, "Mono8", tile=SIDE, overlap=16, depth=8)
        ring.push(np.full((300, 200), 150, np.uint8), 0)
        ring.finish()
        errors: list[str] = []
        host.run(ring, lambda *_: None, errors.append)
        assert errors == []
        assert ring.ledger().inspected == 300


def test_a_late_answer_is_told_and_cannot_be_taken_for_the_next(server: TritonServer, images, local) -> None:
    with open_engine(f"{server.addresses()[0]}?shared_memory=on&in_flight=1") as engine:
        before = regions()
        object.__setattr__(engine.address, "timeout", 1e-4)
        with pytest.raises(EngineUnavailableError, match=r"no answer within 0\.0001 s"):
            engine.infer(images[:1])
        object.__setattr__(engine.address, "timeout", 30.0)
        np.testing.assert_allclose(engine.infer(images).raw_scores, local.raw_scores, atol=1e-5)
        # Memory that the late answer may still be written to is used no more.
        assert len(regions()) == len(before)
        assert regions() != before


def test_many_ask_at_once_and_none_is_lost(server: TritonServer, images, local) -> None:
    """More clients than the server lets wait: each is told that it is busy, or gets its answer."""
    address = server.addresses()[0]
    failures = []

    def ask() -> None:
        with open_engine(address, shared_memory="off", patience=60.0, timeout=60.0) as engine:
            try:
                np.testing.assert_allclose(engine.infer(images).raw_scores, local.raw_scores, atol=1e-5)
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
