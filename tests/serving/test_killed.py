"""A worker or the server killed in the middle: no verdict is lost or doubled, and lines go on when it is back."""

import json
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from prn_fast.cli import inspect, serve
from prn_fast.engine import open_engine
from prn_fast.errors import EngineUnavailableError
from prn_fast.package import Package
from prn_fast.serving.repository import Serving, export
from prn_fast.serving.tritonserver import Ports, TritonServer
from tests import needs
from tests.serving.processes import SECONDS, serving
from tests.small_package import textured_images

pytestmark = [needs.tritonserver, pytest.mark.long, pytest.mark.timeout(3 * SECONDS)]
IMAGES, KILLED_AFTER = 1000, 300


@pytest.fixture
def repository(built_package_path: Path, tmp_path: Path) -> Path:
    export(Package.open(built_package_path), tmp_path / "models", Serving(batch=32))
    return tmp_path / "models"


def has_ended(process: psutil.Process) -> bool:
    """Whether it runs no more; who started it may be gone, and then nobody has asked how it ended."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(condition, what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_a_thousand_verdicts_survive_a_killed_worker(repository, built_package_path, tmp_path, capsys) -> None:
    images = textured_images(IMAGES, 1, seed=11)
    threshold = Package.open(built_package_path).calibration("threshold")
    with open_engine(built_package_path, "openvino:fp32", batch=32) as local:
        expected = local.infer(images)
    with serving(repository, tmp_path / "log") as server:
        address = server.wait_ready(1)
        worker = server.worker
        with (
            open_engine(built_package_path, f"{address}?patience={SECONDS}&timeout=60&shared_memory=on") as engine,
            open_engine(address, patience=0.0, timeout=30.0) as probe,
        ):
            assert probe.ready
            scores = [engine.infer(images[:KILLED_AFTER]).raw_scores]
            worker.kill()
            # The server itself goes on saying that it is ready, until it is started again. A question is never open for
            # longer than its deadline.
            object.__setattr__(probe.address, "timeout", 5.0)
            with pytest.raises(EngineUnavailableError):
                probe.verify()
            assert serve.main(["check", address]) == 1
            assert "not ready: grpc://127.0.0.1:" in capsys.readouterr().err
            for start in range(KILLED_AFTER, IMAGES, 50):
                scores.append(engine.infer(images[start : start + 50]).raw_scores)
            found = np.concatenate(scores)
            np.testing.assert_allclose(found, expected.raw_scores, atol=1e-5)
            np.testing.assert_array_equal(found >= threshold, expected.raw_scores >= threshold)
            object.__setattr__(probe.address, "timeout", 30.0)
            assert probe.ready
        assert [line for line in server.lines if "it is started again" in line]
        assert serve.main(["check", address]) == 0
        assert f"{address}: ready, version 1, small with openvino:fp32" in capsys.readouterr().out


def test_a_signal_ends_a_server_that_is_still_starting(repository, tmp_path) -> None:
    with serving(repository, tmp_path / "log") as server:
        wait_until(lambda: psutil.Process(server.process.pid).children(), "no server was started")
        child = server.server
    # Leaving the block has sent SIGTERM, and has seen exit code 0.
    assert server.lines == []
    assert not child.is_running()


def test_a_worker_that_hangs_ends_with_its_dead_server(repository, tmp_path) -> None:
    with TritonServer(repository, Ports(grpc=0, http=0, metrics=0), tmp_path / "log") as server:
        server.start()
        server.wait(SECONDS)
        (worker,) = map(psutil.Process, server.workers())
        worker.suspend()
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: server.fault == "the server has ended", "the server lives on")
        assert worker.status() == psutil.STATUS_STOPPED
        server.stop()
        wait_until(lambda: has_ended(worker), "the worker lives on")


def test_nothing_is_left_of_a_command_that_is_killed(repository, tmp_path) -> None:
    with serving(repository, tmp_path / "log") as server:
        server.wait_ready(1)
        processes = server.server, server.worker
        server.process.kill()
        for process in processes:
            wait_until(partial(has_ended, process), "a process lives on")
        server.process.wait()


def test_a_line_goes_on_after_the_server_was_killed(repository, built_package_path, tmp_path, capsys) -> None:
    found = tmp_path / "found.jsonl"

    def records(kind: str) -> list[dict]:
        lines = found.read_text().splitlines(keepends=True) if found.exists() else []
        return [one for line in lines if line.endswith("\n") and (one := json.loads(line))["type"] == kind]

    with serving(repository, tmp_path / "log") as server:
        address = server.wait_ready(1)

        def kill_and_wait() -> None:
            try:
                wait_until(lambda: records("defect"), "no defect before the server was killed")
                server.server.send_signal(signal.SIGKILL)
                server.wait_ready(2)
                before = len(records("defect"))
                wait_until(lambda: len(records("defect")) > before, "no defect after the server was back")
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

        killing = threading.Thread(target=kill_and_wait, daemon=True)
        killing.start()
        source = "synthetic:?width=512&strip_lines=512&lines=100&line_rate=500"
        options = ["--overlap", "16", "--threshold", "0.4", "--min-area", "1", "--budget-ms", "3000"]
        arguments = ["--source", source, "--engine", address, "--jsonl", str(found), *options]
        assert inspect.main([str(built_package_path), *arguments]) == 0
        killing.join()
    (end,) = records("end")
    assert end["error"] is None
    assert end["waiting"] == 0
    assert end["lines"] == end["inspected"] + sum(end["missing"].values()) + sum(end["dropped"].values())
    assert end["dropped"].get("overload", 0) + end["dropped"].get("queue_full", 0) > 0
    assert end["engine_away_seconds"] > 0
    output = capsys.readouterr().out
    assert "ledger: " in output
    assert f"{address}: was away for " in output
