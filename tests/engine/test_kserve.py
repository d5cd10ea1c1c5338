"""Addresses of servers, and servers that are not there."""

import socket
import threading
from dataclasses import replace

import numpy as np
import pytest

from prn_fast.engine import open_engine
from prn_fast.engine.kserve import Address, NoAnswerError, is_address
from prn_fast.engine.served import GRID, Canary, Description, levels_of
from prn_fast.errors import ConfigError, EngineError, EngineUnavailableError
from prn_fast.serving.tritonserver import free_ports
from tests import needs

CANARY = Canary(np.zeros((2, 16, 16, 1), np.uint8), np.float32([0.2, 0.8]), np.zeros((2, GRID, GRID), np.float32))
DESCRIPTION = Description("tiles", "ab" * 32, "openvino:int8", 0.4, 0.3, CANARY)


def test_an_address_with_all_its_parts() -> None:
    address = Address.parse("grpc://rack:9001/tiles/3?timeout=0.5&in_flight=4&shared_memory=off&priority=1&batch=8")
    assert (address.scheme, address.host, address.model, address.version) == ("grpc", "rack:9001", "tiles", "3")
    assert (address.timeout, address.in_flight, address.priority, address.batch) == (0.5, 4, 1, 8)
    assert address.shared_memory == "off"
    assert str(address) == "grpc://rack:9001/tiles/3"
    assert not address.is_local


@pytest.mark.parametrize(
    ("text", "host", "local"),
    [
        ("grpc://rack/tiles", "rack:8001", False),
        ("http://rack/tiles", "rack:8000", False),
        ("http://127.0.0.1/tiles", "127.0.0.1:8000", True),
        ("grpc://localhost:1/tiles", "localhost:1", True),
        ("grpc://[::1]:8001/tiles", "[::1]:8001", True),
        ("grpc://[fe80::1]/tiles", "[fe80::1]:8001", False),
    ],
)
def test_hosts(text: str, host: str, local: bool) -> None:
    address = Address.parse(text)
    assert (address.host, address.is_local) == (host, local)
    assert is_address(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("grpc://", "no address"),
        ("grpc:///tiles", "no address"),
        ("grpc://rack", "no address"),
        ("grpc://rack/tiles/1/2", "no address"),
        ("grpc://rack/tiles/new", "version 'new'"),
        ("grpc://rack:99999/tiles", "[Pp]ort"),
        ("grpc://[::1/tiles", "Invalid IPv6"),
        ("ftp://rack/tiles", "no address"),
        ("grpc://rack/tiles?timeout=nan", "timeout is 'nan'"),
        ("grpc://rack/tiles?timeout=0", r"timeout is '0\.0'"),
        ("grpc://rack/tiles?patience=-1", "patience"),
        ("grpc://rack/tiles?in_flight=1.5", "in_flight"),
        ("grpc://rack/tiles?in_flight=65", "from 1 to 64"),
        ("grpc://rack/tiles?shared_memory=maybe", "choose auto, on, off"),
        ("grpc://rack/tiles?speed=9", "speed=9 is no option"),
        ("grpc://rack/tiles?timeout", "grpc://HOST:8001/NAME"),
    ],
)
def test_addresses_that_are_none(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Address.parse(text)


@needs.library("tritonclient", "serve")
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_server_that_is_not_there_is_unavailable(scheme: str) -> None:
    with (
        free_ports(1) as (port,),
        pytest.raises(EngineUnavailableError, match=f"127.0.0.1:{port}/tiles: cannot be reached"),
    ):
        open_engine(f"{scheme}://127.0.0.1:{port}/tiles?patience=0.1")


@needs.library("tritonclient", "serve")
def test_a_server_that_is_silent_gives_no_answer_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}/tiles?timeout=0.2"
        # It is asked once: patience is for servers that are away.
        with pytest.raises(NoAnswerError, match=r"no answer within 0\.2 s"):
            open_engine(f"http://{address}&patience=1000")
        # gRPC sends nothing before the server has said something.
        with pytest.raises(EngineUnavailableError, match=r"cannot be reached|no answer within"):
            open_engine(f"grpc://{address}&patience=0")


@needs.library("tritonclient", "serve")
def test_what_is_no_kserve_server_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as web:

        def answer() -> None:
            connection, _ = web.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")

        answering = threading.Thread(target=answer, daemon=True)
        answering.start()
        with pytest.raises(EngineError, match="tiles: "):
            open_engine(f"http://127.0.0.1:{web.getsockname()[1]}/tiles?patience=0&timeout=5")
        answering.join()


def test_a_description_survives_the_way() -> None:
    found = Description.from_json(DESCRIPTION.to_json() + b"  ", "grpc://rack/tiles")
    assert (found.package, found.engine, found.threshold) == ("tiles", "openvino:int8", 0.4)
    assert found.identity == DESCRIPTION.identity
    assert replace(found, threshold=0.41).identity != found.identity
    assert found.canary.faults(CANARY.scores, np.zeros((2, 16, 16), np.float32), (1e-6, 1e-6)) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff",
        DESCRIPTION.to_json()[:100],
        DESCRIPTION.to_json().replace(b"0.4", b"NaN"),
        DESCRIPTION.to_json().replace(b'"shape": [2, 16', b'"shape": [3, 16'),
        DESCRIPTION.to_json().replace(b'"scores": [', b'"scores": [0.1, '),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(content: bytes) -> None:
    with pytest.raises(EngineError, match="grpc://rack/tiles: "):
        Description.from_json(content, "grpc://rack/tiles")


def test_a_canary_finds_wrong_scores_wrong_maps_and_nan() -> None:
    maps = np.zeros((2, 16, 16), np.float32)
    limits = (0.01, 0.002)
    assert "score differs by 0.6" in CANARY.faults(CANARY.scores[::-1], maps, limits)[0]
    assert "map differs by 0.5" in CANARY.faults(CANARY.scores, maps + 0.5, limits)[0]
    assert len(CANARY.faults(CANARY.scores * np.nan, maps * np.nan, limits)) == 2


def test_levels_are_means_of_fields() -> None:
    maps = np.random.default_rng(0).random((2, 21, 21), np.float32)
    levels = levels_of(maps)
    edges = [place * 21 // GRID for place in range(GRID)] + [21]
    for row in range(GRID):
        for column in range(GRID):
            field = maps[:, edges[row] : edges[row + 1], edges[column] : edges[column + 1]]
            np.testing.assert_allclose(levels[:, row, column], field.mean(axis=(1, 2)), rtol=1e-5)
