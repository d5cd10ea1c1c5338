"""The OPC UA sink against asyncua's client."""

import asyncio
import contextlib
import dataclasses
import json
import socket
import subprocess
import threading

import pytest
from asyncua import Client, ua
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256

from prn_fast.errors import ConfigError, EngineError, LinescanError
from prn_fast.linescan.sinks import OPCUASink, Sink, opcua
from prn_fast.linescan.sinks.opcua import Recipe
from tests import needs
from tests.linescan.webs import DarknessEngine
from tests.linescan.webs import inspect_three_defects as inspect

RECIPE = Recipe("web.prn", "0123abcd")


@pytest.fixture
def short_notice(monkeypatch):
    monkeypatch.setattr(opcua, "_LAST_NOTICE_SECONDS", 0.2)


class Reader(Sink):
    """Looks at the server from a client, at the start of an inspection and at its end.

    It comes after the server's sink, so that this has started, and before it where it ends.
    """

    def __init__(self, server, look, at_end=False):
        self.server, self.look, self.at_end = server, look, at_end
        self.seen = None

    def start(self, source):
        if not self.at_end:
            self.seen = asyncio.run(self.with_client())

    def flush(self):
        if self.at_end:
            self.seen = asyncio.run(self.with_client())

    async def with_client(self):
        async with Client(self.server.url, timeout=30) as client:
            return await self.look(client)


OWN = ("LastResults", "Inspection", "Source", "Defects", "Ledger", "Error")


async def node(client, *names):
    vision = await client.get_namespace_index(opcua.VISION_NAMESPACE)
    own = await client.get_namespace_index(opcua.OWN_NAMESPACE)
    named = [f"{own if name in OWN else vision if name != 'CurrentState' else 0}:{name}" for name in names]
    return await client.nodes.objects.get_child([f"{vision}:VisionSystem", *named])


async def value(client, *names):
    return await (await node(client, *names)).read_value()


async def state(client, *machine):
    current = await node(client, "VisionStateMachine", *machine, "CurrentState")
    identifier = await (await current.get_child("0:Id")).read_value()
    name = (await current.read_value()).Text
    if not name:
        return name, identifier.is_null()
    return name, (await client.get_node(identifier).read_browse_name()).Name == name


def test_a_client_reads_state_recipe_and_results(short_notice):
    async def look(client):
        return {
            "state": await state(client),
            "automatic": await state(client, "AutomaticModeStateMachine"),
            "name": await value(client, "RecipeManagement", "Recipes", "Recipe", "ExternalId"),
            "digest": await value(client, "RecipeManagement", "Recipes", "Recipe", "InternalId"),
            "source": await value(client, "Inspection", "Source"),
            "defects": await value(client, "Inspection", "Defects"),
            "results": [json.loads(one) for one in await value(client, "ResultManagement", "Results", "LastResults")],
        }

    server = OPCUASink("127.0.0.1", 0, RECIPE)
    start, end = Reader(server, look), Reader(server, look, at_end=True)
    inspect([server, start, end])
    assert start.seen == {
        "state": ("Operational", True),
        "automatic": ("ContinuousExecution", True),
        "name": "web.prn",
        "digest": "0123abcd",
        "source": "list",
        "defects": 0,
        "results": [],
    }
    assert end.seen["defects"] == 3
    assert sorted(one["type"] for one in end.seen["results"]) == ["defect"] * 3 + ["gap"]
    assert [one["first_line"] for one in end.seen["results"] if one["type"] == "defect"] == [50, 120, 200]


class Subscriber(Sink):
    """A client that subscribes to events and to the state, until the server goes."""

    def __init__(self, server):
        self.server = server
        self.events, self.states, self.error = [], [], []

    def start(self, source):
        self.loop = asyncio.new_event_loop()
        self.loop.run_until_complete(self.subscribe())

    async def subscribe(self):
        self.client = Client(self.server.url, timeout=30)
        await self.client.connect()
        subscription = await self.client.create_subscription(20, self)
        vision = await self.client.get_namespace_index(opcua.VISION_NAMESPACE)
        kind = await self.client.nodes.base_event_type.get_child(f"{vision}:ResultReadyEventType")
        await subscription.subscribe_events(await node(self.client), kind)
        await subscription.subscribe_data_change(await node(self.client, "VisionStateMachine", "CurrentState"))
        await subscription.subscribe_data_change(await node(self.client, "Inspection", "Error"))

    def event_notification(self, event):
        self.events.append(event)

    def datachange_notification(self, node, value, data):
        (self.states if isinstance(value, ua.LocalizedText) else self.error).append(getattr(value, "Text", value))

    def listen(self, done):
        """Take notifications until something has come."""

        async def wait():
            for _ in range(1500):
                if done():
                    return
                await asyncio.sleep(0.02)

        self.loop.run_until_complete(wait())

    def close(self):
        with contextlib.suppress(Exception):  # the server has gone
            self.loop.run_until_complete(self.client.disconnect())
        self.loop.close()


def test_a_client_is_told_of_defects_and_of_the_end(monkeypatch):
    # Its thread is the test's own, so that it can listen while the server ends.
    server = OPCUASink("127.0.0.1", 0, RECIPE)
    subscriber = Subscriber(server)
    server.start("list")
    try:
        subscriber.start("list")
        snapshot = inspect([])
        for defect in reversed(snapshot.recent):
            server.defect(defect)
        subscriber.listen(lambda: len(subscriber.events) == 3)
        assert [json.loads(event.ResultContent)["first_line"] for event in subscriber.events] == [50, 120, 200]
        assert {event.InternalRecipeId for event in subscriber.events} == {"0123abcd"}
        assert {(event.IsPartial, event.IsSimulated) for event in subscriber.events} == {(False, False)}
        assert "minor defect at line 50" in subscriber.events[0].Message.Text
    finally:
        stopped = dataclasses.replace(snapshot, error="the engine failed")
        monkeypatch.setattr(opcua, "_LAST_NOTICE_SECONDS", 2.0)
        ending = threading.Thread(target=server.finish, args=(stopped,), daemon=True)
        ending.start()
        subscriber.listen(lambda: subscriber.error[-1:] == ["the engine failed"] and len(subscriber.states) == 2)
        subscriber.close()
        ending.join()
    assert subscriber.states == ["Operational", "Error"]


def test_a_line_that_stops_is_no_fault_of_the_server(short_notice):
    with pytest.raises(EngineError):
        inspect([OPCUASink("127.0.0.1", 0, RECIPE)], DarknessEngine(broken_from=3))


def test_clients_can_change_nothing(short_notice):
    async def look(client):
        refused = []
        target = await node(client, "Inspection", "Error")

        async def attempt(action):
            try:
                await action
            except ua.UaError as error:
                refused.append(type(error).__name__)

        await attempt(target.write_value("hello"))
        await attempt(client.nodes.objects.add_object(2, "mine"))
        await attempt(client.delete_nodes([target]))
        await attempt(client.nodes.server.call_method("0:GetMonitoredItems", 1))
        return refused, await value(client, "Inspection", "Error")

    server = OPCUASink("127.0.0.1", 0, RECIPE)
    reader = Reader(server, look)
    inspect([server, reader])
    assert reader.seen == (["BadUserAccessDenied"] * 4, "")


def test_no_name_makes_an_administrator(short_notice):
    async def look(client):
        other = Client(client.server_url.geturl())
        other.set_user("admin")
        with pytest.raises(ua.UaError):
            await other.connect()
        other.disconnect_socket()

    server = OPCUASink("127.0.0.1", 0, RECIPE)
    inspect([server, Reader(server, look)])


def make_certificate(folder, name, uri):
    key, certificate = folder / f"{name}.key.pem", folder / f"{name}.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", f"/CN={name}"),
            *("-addext", f"subjectAltName=URI:{uri},DNS:localhost", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@needs.program("openssl")
def test_with_certificates_only_known_clients_connect(short_notice, tmp_path):
    folder = tmp_path / "opcua"
    (folder / "trusted").mkdir(parents=True)
    certificate, key = make_certificate(tmp_path, "server", opcua.APPLICATION_URI)
    certificate.rename(folder / "certificate.pem")
    key.rename(folder / "key.pem")
    known = make_certificate(tmp_path, "known", "urn:known")
    (folder / "trusted" / "known.pem").write_bytes(known[0].read_bytes())
    stranger = make_certificate(tmp_path, "stranger", "urn:stranger")

    async def connects(url, uri, certificate=None):
        client = Client(url, timeout=30)
        client.application_uri = uri
        if certificate is not None:
            await client.set_security(
                SecurityPolicyBasic256Sha256, *map(str, certificate), server_certificate=str(folder / "certificate.pem")
            )
        try:
            async with client:
                return await value(client, "Inspection", "Defects") == 0
        except (ua.UaError, ConnectionError, TimeoutError):
            return False

    async def look(url):
        return [
            await connects(url, "urn:known", known),
            await connects(url, "urn:stranger", stranger),
            await connects(url, "urn:anyone"),
        ]

    server = OPCUASink("127.0.0.1", 0, RECIPE, folder)
    server.start("list")
    try:
        assert asyncio.run(look(server.url)) == [True, False, False]
    finally:
        server.finish(inspect([]))


def test_what_cannot_be_served_is_explained(tmp_path):
    with pytest.raises(ConfigError, match=r"certificate\.pem: not found"):
        OPCUASink("127.0.0.1", 0, RECIPE, tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(LinescanError, match=r"opc\.tcp://127\.0\.0\.1:\d+: cannot be served"):
            inspect([OPCUASink("127.0.0.1", taken.getsockname()[1], RECIPE)])
